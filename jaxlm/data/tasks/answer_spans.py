"""Questions whose answers stand in a text: where one begins and ends (SQuAD and its like).

Not for answers that are written (tasks/pairs.py). Long texts are read in windows that overlap (Devlin et al. 2019,
arXiv:1810.04805, section 4.2 and their code); a window without the answer points at its [CLS], as a question without one
does (section 4.3).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.core.types import Batch
from jaxlm.data import reading, records, special_tokens, tables
from jaxlm.data.offsets import located, token_span
from jaxlm.data.tasks import batches
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split, check_seq_len

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AnswerSpansConfig(RecordConfig):
    """As RecordConfig, but a *.tsv file needs its header; *.json files are as SQuAD's.

    Attributes:
      context_column: the text that is read.
      question_column: what is asked of it.
      answers_column: the list of accepted answers, or a single one as text; an empty one: there is no
        answer. A model learns the first one that its window holds. Hugging Face's form, with text and
        answer_start in it, needs no starts_column.
      starts_column: the list of their first characters, from 0, or a single number; "": an answer is
        the first place of its text.
      seq_len: tokens of a row, question and window; 0: the model's max_len, which the loop fills in.
      question_len: tokens of a question; longer ones are cut, and counted in the log. Never more than
        half of a row.
      stride: tokens by which windows of a long text move; 0: half of what they hold.
    """

    context_column: str = "context"
    question_column: str = "question"
    answers_column: str = "answers"
    starts_column: str = "starts"
    seq_len: int = 0
    question_len: int = 64
    stride: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_seq_len(self.seq_len)
        if self.question_len < 1:
            raise ValueError(f"data.question_len={self.question_len} must be at least 1")
        if self.stride < 0:
            raise ValueError(f"data.stride={self.stride} must be 0 (half a window) or more")


class Window(NamedTuple):
    """What an evaluator needs to know of a row to give an answer as characters."""

    context: str
    offsets: np.ndarray  # int32 [T, 2], of the tokens of the context; elsewhere 0


class AnswerSpansTask(RecordTask):
    """[CLS] question [SEP] window [SEP], and where in it the answer begins and ends; see AnswerSpansConfig."""

    Config: ClassVar[type] = AnswerSpansConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.BERT
    offsets: ClassVar[dict[str, int]] = {"offsets": 0}
    num_outputs: ClassVar[int] = 2

    def __init__(self, config: AnswerSpansConfig):
        """As RecordTask; also raises ValueError where no length is known."""
        self._length = check_seq_len(config.seq_len, known=True)
        self._asked = min(config.question_len, (self._length - 3) // 2)
        super().__init__(config)

    def parse(self, row: records.Row, where: str) -> records.Record:
        """Context, question, answers, and where these begin and end, in characters.

        Raises:
          ValueError: the line has not all of them, or an answer is not where it should be.
        """
        config = self.config
        if isinstance(row, list):
            raise ValueError(
                f"{where}: questions with answers are read by the names of their columns, and this *.tsv file has no "
                f"header with {', '.join(config.named_columns())}"
            )
        names = ("context_column", "question_column")
        context, question = (
            reading.record_text(row, getattr(config, name), where, f"data.{name}") for name in names
        )
        answers, starts = self._marked(row, where)
        if len(starts) != len(answers):
            raise ValueError(f"{where} has {len(answers)} answers and {len(starts)} starts of them")
        spans = [located(context, *one, where) for one in zip(answers, starts, strict=True)]
        places = np.array(spans, np.int32).reshape(-1)
        return records.Record((context, question, *answers), numbers={"answers": places})

    def _marked(self, row: Mapping[str, Any], where: str) -> tuple[list[Any], list[Any]]:
        """The answers that a line marks, and where they begin; None: to be looked for."""
        config = self.config
        option = "data.answers_column"
        value = reading.record_column(row, config.answers_column, where, option)
        texts, starts = f"{config.answers_column}.text", f"{config.answers_column}.answer_start"
        if not (isinstance(value, dict) and {"text", "answer_start"} <= value.keys()):
            texts, starts = config.answers_column, config.starts_column
        answers = [one for one in _listed(row, texts, where, option) if one]
        if not (starts and answers):
            return answers, [None] * len(answers)
        return answers, _listed(row, starts, where, "data.starts_column")

    def kind(self) -> list[Any]:
        config = self.config
        return ["spans", config.context_column, config.question_column, config.answers_column,
                config.starts_column]  # fmt: skip

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {"context": ids[0], "question": ids[1]}

    def prepare_splits(self) -> None:
        """Cut the texts into windows, and report questions that are cut.

        Raises:
          ValueError: windows move by more than one of them holds.
        """
        room = min(
            self._rooms(split)[1].min(initial=self._length) for split in self.splits.values()
        )
        if self.config.stride > room:
            raise ValueError(
                f"data.stride={self.config.stride} skips tokens: a window holds as few as {room} of a text"
            )
        self._lines: dict[str, records.Lines] = {}
        self._windows = {name: self._cut_windows(split) for name, split in self.splits.items()}
        if lost := sum(self._unheld(*one) for one in self.splits.items()):
            _log.info(
                "%s: of %d lines no window holds an answer whole; they are read as if they had none",
                self.config.path, lost,
            )  # fmt: skip
        found = [s.table.columns["question"].lengths()[s.rows] for s in self.splits.values()]
        self.log_cut("data.question_len", self._asked, np.concatenate(found))

    def _rooms(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Of every line of a split its context's tokens, and how many of them a window holds, int [N] each."""
        columns, rows = split.table.columns, split.rows
        questions = np.minimum(columns["question"].lengths()[rows], self._asked)
        return columns["context"].lengths()[rows], self._length - 3 - questions

    def _cut_windows(self, split: Split) -> np.ndarray:
        """The line and the first token of every window, int64 [W, 2]; the last window of a text ends with it."""
        sizes, rooms = self._rooms(split)
        moves = np.full(len(rooms), self.config.stride) if self.config.stride else (rooms + 1) // 2
        counts = 1 + np.maximum(0, -(-(sizes - rooms) // moves))
        lines = np.repeat(np.arange(len(sizes)), counts)
        numbers = np.arange(len(lines)) - np.repeat(np.cumsum(counts) - counts, counts)
        firsts = np.minimum(numbers * moves[lines], np.maximum(sizes - rooms, 0)[lines])
        return np.stack([lines, firsts], 1)

    def _unheld(self, name: str, split: Split) -> int:
        """How many lines have an answer that their windows cut."""
        columns, windows = split.table.columns, self._windows[name]
        _, rooms = self._rooms(split)
        several = np.bincount(windows[:, 0], minlength=len(rooms)) > 1
        held: dict[int, bool] = {}
        for line, first in windows[several[windows[:, 0]]].tolist():
            answers = columns["answers"][split.rows[line]].reshape(-1, 2)
            if len(answers) and not held.get(line):
                offsets = columns["offsets"][split.rows[line]].reshape(-1, 2)
                span = token_span(offsets[first : first + rooms[line]], answers, 1)
                held[line] = bool(span.any())
        return sum(not one for one in held.values())

    def lengths(self, split: Split) -> np.ndarray:
        """Tokens of all windows of each line."""
        sizes, rooms = self._rooms(split)
        lines, firsts = self._cut_windows(split).T
        held = np.minimum(sizes[lines] - firsts, rooms[lines]) + self._length - rooms[lines]
        return np.bincount(lines, held, minlength=len(sizes)).astype(np.int64)

    def settings(self) -> list[Any]:
        windows = [hashlib.sha256(one.tobytes()).hexdigest() for one in self._windows.values()]
        return [self._length, self._asked, *windows]

    def make_window(self, table: records.Table, row: int, first: int) -> dict[str, np.ndarray]:
        """{"tokens", "segment_ids", "token_types", "allowed" int32 [T]; "targets" int32 [2], "weights" float32 [2]}.

        `allowed` is 1 where an answer may begin or end, and at [CLS], which means that there is none. Targets are the
        places of the answer's first and last token.
        """
        columns, ids = table.columns, self.special_ids
        question = columns["question"][row][: self._asked]
        begin = len(question) + 2
        context = columns["context"][row][first : first + self._length - begin - 1]
        end = begin + len(context)
        tokens = np.full(self._length, ids["[PAD]"], np.int32)
        tokens[0], tokens[begin - 1], tokens[end] = ids["[CLS]"], ids["[SEP]"], ids["[SEP]"]
        tokens[1 : begin - 1], tokens[begin:end] = question, context
        places = np.arange(self._length)
        inside = (places >= begin) & (places < end)
        offsets = columns["offsets"][row].reshape(-1, 2)[first : first + len(context)]
        answers = columns["answers"][row].reshape(-1, 2)
        return {
            "tokens": tokens,
            "segment_ids": (places <= end).astype(np.int32),
            "token_types": (inside | (places == end)).astype(np.int32),
            "allowed": (inside | (places == 0)).astype(np.int32),
            "targets": token_span(offsets, answers, begin),
            "weights": np.ones(2, np.float32),
        }

    def train(self, seed: int) -> Any:
        """Endless windows, each once an epoch, in another order each time."""
        from jaxlm.data.windows import Shuffled

        table, rows = self.splits["train"]
        windows = self._windows["train"]

        def example(place: int) -> dict[str, np.ndarray]:
            line, first = windows[place]
            return self.make_window(table, int(rows[line]), int(first))

        return Shuffled(example, len(windows), (seed,)).repeat()

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As RecordTask.eval, a row a window: those of a line follow one another and share its `id`.

        With `input` (question and context), `reference` (the accepted answers) and `raw` (a Window), [B], for people and
        scores only.
        """
        chosen = self.chosen_ids(split)
        table, rows = self.splits[split]
        windows = self._windows[split]
        windows = windows[np.isin(windows[:, 0], chosen)]

        def example(number: int) -> dict[str, np.ndarray]:
            line, first = windows[number]
            return self.make_window(table, int(rows[line]), int(first))

        found = batches.evaluation(example, range(len(windows)), batch_size)
        return (batch | self._raw(table, rows, windows, batch) for batch in found)

    def _raw(
        self, table: records.Table, rows: np.ndarray, windows: np.ndarray, batch: Batch
    ) -> dict[str, np.ndarray]:
        lines = self._lines.setdefault(table.digest, records.Lines(table.source))
        names = ("input", "reference", "raw")
        found = {name: np.full(len(batch["id"]), "", object) for name in names}
        numbers = np.full(len(batch["id"]), -1)
        for place in np.flatnonzero(batch["id"] >= 0):
            line, first = windows[batch["id"][place]]
            context, question, *answers = lines[int(rows[line])]
            offsets = np.zeros((self._length, 2), np.int32)
            inside = np.flatnonzero(batch["allowed"][place])[1:]
            own = table.columns["offsets"][int(rows[line])].reshape(-1, 2)
            offsets[inside] = own[first : first + len(inside)]
            found["input"][place] = f"{question}\n\n{context}"
            found["reference"][place] = answers
            found["raw"][place] = Window(context, offsets)
            numbers[place] = line
        return found | {"id": numbers}

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and question TAB context, of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        texts = [self.tokenizer.decode(table.columns[n][row]) for n in ("question", "context")]
        return table.source.path, "\t".join(texts)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """What is read, where the answer is, and where it was found."""
        tokens, types = example["tokens"], example["token_types"]
        read = {"question": (types == 0) & (example["segment_ids"] > 0), "context": types == 1}
        lines = [f"{n:<9} {self.tokenizer.decode(tokens[where])!r}" for n, where in read.items()]
        if not example["weights"][0]:
            return lines
        for name, span in (("answer", example["targets"]), ("predicted", predicted)):
            if span is not None:
                text = self.tokenizer.decode(tokens[span[0] : span[1] + 1])
                lines.append(f"{name:<9} {repr(text) if span[0] else '(none here)'}")
        return lines


def _listed(row: Mapping[str, Any], column: str, where: str, option: str) -> list[Any]:
    """A column's list, of one thing where it holds that, of nothing where it holds null."""
    value = reading.record_column(row, column, where, option)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return [] if value is None else [value]
    return tables.entries(row, column, where, option, "")
