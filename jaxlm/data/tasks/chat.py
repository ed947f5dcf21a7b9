"""Conversations: a chat model is taught what the assistant says, and nothing else.

Which tokens these are is in data/conversations.py. Not for answers of which one is better (tasks/preferences.py).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import TaskInfo
from jaxlm.data import conversations, packing, reading, records
from jaxlm.data.tasks import batches
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split

_log = logging.getLogger(__name__)
_COLOURS, _MARKS = ("\033[1;32m", "\033[0m"), ("[[", "]]")


@dataclasses.dataclass(frozen=True)
class ChatConfig(RecordConfig):
    """As RecordConfig, of *.jsonl files (or tfds:, hf:) whose lines hold a conversation each.

    Attributes:
      messages_column: the conversation: [{"role": "user", "content": "Hello"}, ...], or texts of user and assistant by turns.
      chat_template: a file with a Jinja2 template, or the template itself; "": the tokenizer's own.
      seq_len: tokens of a row, which holds as many conversations as fit, and of the longest conversation that a model learns
        from: longer ones are cut, and those without an answer before the cut left out; both are counted in the log. 0: the
        model's max_len.
    """

    path: str = "bundled:dialogue"
    tokenizer: str = "init_from"
    messages_column: str = "messages"
    chat_template: str = ""
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.messages_column:
            raise ValueError("data.messages_column is empty: expected the name of a column")
        if self.seq_len < 0:
            raise ValueError(f"data.seq_len={self.seq_len} must be at least 1, or 0: model.max_len")


class ChatTask(RecordTask):
    """Next-token prediction of the assistant's tokens, conversations packed into rows, none of which sees another.

    A conversation ends with its last answer. What shares a row is planned once (packing.py), whatever the seed; rows are
    examples, in evaluation too. They have

      tokens, targets, segment_ids, positions int32 [T]; weights float32 [T], 1 where the target is the assistant's

    with segments 1, 2, ... for the conversations of a row, 0 where it is filled up, and positions from 0 in every one.
    """

    Config: ClassVar[type] = ChatConfig

    def __init__(self, config: ChatConfig):
        """Raises ValueError for a template that does not say which tokens are the assistant's, or data without any."""
        tokenizer = conversations.open_tokenizer(config.tokenizer, config.chat_template)
        self.reader = conversations.Reader(tokenizer)
        super().__init__(config)

    def parse(self, row: records.Row, where: str) -> records.Record:
        """A conversation's tokens up to the last of the assistant's, and which are the assistant's.

        Raises:
          ValueError: the line holds no conversation, or one that the template refuses.
        """
        column = self.config.messages_column
        if isinstance(row, list):
            raise ValueError(f"{where}: a line of a *.tsv file is no conversation: use *.jsonl")
        value = reading.record_column(row, column, where, "data.messages_column")
        try:
            messages = conversations.messages_of(value)
            read = self.reader.read(messages)
        except ValueError as error:
            raise ValueError(f"{where}: column {column!r}: {error}") from error
        stop = max((stop for _, stop in read.answers), default=0)
        num_bytes = sum(len(message["content"].encode()) for message in messages)
        return records.Record(
            (),
            numbers={
                "tokens": read.ids[:stop],
                "trained": read.trained[:stop].astype(np.uint8),
                "num_bytes": np.array([num_bytes]),
            },
        )

    def kind(self) -> list[Any]:
        identity = conversations.identity(self.reader.tokenizer)
        return ["chat", 1, self.config.messages_column, *identity]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {}

    def prepare_splits(self) -> None:
        """Leave out what has nothing to learn, and plan the rows of every split.

        Raises:
          ValueError: no length.
        """
        self.tokenizer = self.reader.tokenizer  # with the template
        limit = self.config.seq_len
        if not limit:
            raise ValueError("data.seq_len=0 and the model has no max_len: give a row's length")
        self.groups: dict[str, packing.Groups] = {}
        for name, split in self.splits.items():
            split = self.splits[name] = self._kept(name, split)
            if not len(split.rows):  # refused right after this, with its reason
                continue
            lengths = self.lengths(split)
            where = f"{split.table.source.path} ({name})"
            self.groups[name] = packing.fetch_groups(where, lengths[:, None], [limit])
            _log.info(
                "packing  %s: %s conversations into %s rows of %d, %.1f %% filled",
                name, f"{len(lengths):,}", f"{len(self.groups[name]):,}", limit,
                100 * lengths.sum() / (len(self.groups[name]) * limit),
            )  # fmt: skip

    def _kept(self, name: str, split: Split) -> Split:
        """A split's conversations that have an answer in their first tokens; the log says how many are cut or left out."""
        limit, table = self.config.seq_len, split.table
        lengths = table.columns["tokens"].lengths()[split.rows] - 1
        trained = table.columns["trained"]
        has_answer = np.array([trained[row][: limit + 1].any() for row in split.rows], bool)
        for count, what in (
            (((lengths > limit) & has_answer).sum(), f"are cut after data.seq_len={limit} tokens"),
            (
                ((lengths > limit) & ~has_answer).sum(),
                f"have no answer in their first data.seq_len={limit} tokens and are left out",
            ),
            ((lengths < 1).sum(), "have no answer at all and are left out"),
        ):
            if count:
                _log.info(
                    "%s: %d of %d %s conversations %s",
                    table.source.path, count, len(lengths), name, what,
                )  # fmt: skip
        return Split(table, split.rows[has_answer])

    def lengths(self, split: Split) -> np.ndarray:
        lengths = split.table.columns["tokens"].lengths()[split.rows] - 1
        return np.minimum(lengths, self.config.seq_len)

    def settings(self) -> list[Any]:
        return [self.config.seq_len, {name: groups.digest for name, groups in self.groups.items()}]

    def _make_info(self) -> TaskInfo:
        """As RecordTask's, but an example is a row."""
        info = super()._make_info()
        splits = {
            name: dataclasses.replace(split, num_examples=len(self.groups[name]))
            for name, split in info.splits.items()
        }
        return dataclasses.replace(info, splits=splits)

    def train(self, seed: int) -> Any:
        """Endless rows, each once an epoch, in another order each time."""
        from jaxlm.data.windows import Shuffled

        make = lambda place: self._row("train", place)  # noqa: E731
        return Shuffled(make, len(self.groups["train"]), (seed,)).repeat()

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Every row of a split once; see RecordTask.eval."""
        if split not in self.splits:
            raise ValueError(f'no split "{split}"; accepted: {", ".join(self.splits)}')
        count = len(self.groups[split])
        total = min(count, self.config.eval_examples or count)
        ids = [number * count // total for number in range(total)]
        return batches.evaluation(lambda i: self._row(split, i), ids, batch_size)

    def _row(self, name: str, number: int) -> dict[str, np.ndarray]:
        table, rows = self.splits[name]
        members = rows[self.groups[name].row(number)].tolist()
        return packed(
            [(table.columns["tokens"][row], table.columns["trained"][row]) for row in members],
            self.config.seq_len,
            self.config.seq_len,
        )

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and the conversations as the template writes them, of the row that `eval` gave this id."""
        if split not in self.splits or not 0 <= example_id < len(self.groups[split]):
            raise ValueError(f'split "{split}" has no example {example_id}')
        row = self._row(split, example_id)
        text = self.tokenizer.decode(row["tokens"][row["segment_ids"] > 0])
        return self.splits[split].table.source.path, text

    def ask(self, text: str) -> list[int]:
        """What a model is given to answer a message."""
        return self.reader.prompt(conversations.messages_of(text))

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """Every conversation of a row, with what is trained on marked."""
        return [
            line
            for segment in range(1, int(example["segment_ids"].max()) + 1)
            for line in show_segment(self.tokenizer, example, segment, "conversation")
        ]


def packed(
    texts: list[tuple[np.ndarray, np.ndarray]], limit: int, seq_len: int
) -> dict[str, np.ndarray]:
    """Texts one after the other in a row, each a segment: the next token of each, where that is trained on.

    Args:
      texts: ids [N] of each, and whether each of them is trained on, [N]; one that is empty has no place.
      limit: positions of a text.
      seq_len: positions of the row.
    """
    names = ("tokens", "targets", "segment_ids", "positions")
    row = {name: np.zeros(seq_len, np.int32) for name in names}
    row["weights"] = np.zeros(seq_len, np.float32)
    end = 0
    for segment, (ids, trained) in enumerate(texts, 1):
        size = min(max(len(ids) - 1, 0), limit)
        place = slice(end, end := end + size)
        row["tokens"][place], row["targets"][place] = ids[:size], ids[1 : size + 1]
        row["segment_ids"][place], row["positions"][place] = segment, np.arange(size)
        row["weights"][place] = trained[1 : size + 1]
    return row


def show_segment(
    tokenizer: Any, example: dict[str, np.ndarray], segment: int, name: str
) -> list[str]:
    """A segment's text as lines: what is trained on is in colour on a terminal, else between [[ and ]]."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    begin, end = _COLOURS if colour else _MARKS
    own = example["segment_ids"] == segment
    ids, trained = example["tokens"][own], np.append(False, example["weights"][own] > 0)
    if trained[-1]:  # else what is behind the last one is not known, or does not matter
        ids = np.append(ids, example["targets"][own][-1:])
    trained = trained[: len(ids)]
    text = ""
    for run in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(trained)) + 1):
        piece = tokenizer.decode(ids[run])
        text += f"{begin}{piece}{end}" if trained[run[0]] else piece
    head = f"{name} {segment}: {int(trained.sum())} of {len(ids)} tokens count"
    return [head, *(f"  {line}" for line in text.split("\n"))]
