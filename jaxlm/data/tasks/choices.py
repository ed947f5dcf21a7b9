"""Questions with several answers to choose from: multiple choice, and which of some texts goes with another.

A row holds [CLS] question [SEP] choice [SEP] of every choice, each a segment of its own: the mechanism of packing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch
from jaxlm.data import reading, records, special_tokens, tables
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split, check_seq_len

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class ChoicesConfig(RecordConfig):
    """As RecordConfig, but a *.tsv file needs its header.

    Attributes:
      question_column: the question; several columns, joined by +, make lines of one text.
      choices_column: the list of choices; several columns, joined by +, hold one each (a+b+c+d); of a
        text, its parts between `separator`.
      answer_column: which one is right: its number from 0, its letter from A, or the choice itself.
      separator: stands between the choices of a text.
      seq_len: tokens of a row, all choices of a question together; where they are too long, each may
        have its share, of which the question is cut first; counted in the log; 0: the model's
        max_len, which the loop fills in.
    """

    path: str = "bundled:choice"
    question_column: str = "question"
    choices_column: str = "choices"
    answer_column: str = "answer"
    separator: str = "|"
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_seq_len(self.seq_len)
        if not self.separator:
            raise ValueError('data.separator="" is empty: it stands between the choices of a text')


class ChoicesTask(RecordTask):
    """Which choice is right; see ChoicesConfig."""

    Config: ClassVar[type] = ChoicesConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.BERT
    num_outputs: ClassVar[int] = 1

    def __init__(self, config: ChoicesConfig):
        """As RecordTask; also raises ValueError where no length is known."""
        self._length = check_seq_len(config.seq_len, known=True)
        super().__init__(config)

    def parse(self, row: records.Row, where: str) -> records.Record:
        """Question, choices and the right one's number.

        Raises:
          ValueError: the line has not all of them.
        """
        config = self.config
        if isinstance(row, list):
            raise ValueError(
                f"{where}: questions with choices are read by the names of their columns, and this *.tsv file has no "
                f"header with {', '.join(config.named_columns())}"
            )
        columns, option = config.question_column.split("+"), "data.question_column"
        texts = ["\n".join(reading.record_text(row, name, where, option) for name in columns)]
        option = "data.choices_column"
        choices = tables.entries(row, config.choices_column, where, option, config.separator)
        for choice in choices:
            if not isinstance(choice, str | int | float):
                raise ValueError(f"{where}: the choice {choice!r} is no text; set {option}")
            texts.append(reading.encodable(str(choice), f"{where}: a choice"))
        if len(choices) < 2:
            raise ValueError(f"{where} has {len(choices)} choices: expected two or more")
        value = reading.record_column(row, config.answer_column, where, "data.answer_column")
        answers = _answers(value, texts[1:])
        if len(answers) != 1:
            letter = _LETTERS[: len(choices)][-1]
            expected = f"expected 0 to {len(choices) - 1}, A to {letter}, or one of the choices"
            if answers:
                expected = "one of the choices, and another one's number or letter: name it so that one is meant"
            raise ValueError(f"{where}: column {config.answer_column!r} is {value!r}: {expected}")
        return records.Record(tuple(texts), numbers={"answer": np.array([*answers])})

    def kind(self) -> list[Any]:
        config = self.config
        names = config.question_column, config.choices_column, config.answer_column
        return ["choices", *names, config.separator]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {
            "question": ids[0],
            "choices": np.concatenate(ids[1:]),
            "sizes": [len(one) for one in ids[1:]],
        }

    def prepare_splits(self) -> None:
        """Find the most choices of a question, and report what is cut.

        Raises:
          ValueError: a row is too short for so many.
        """
        self._lines: dict[str, records.Lines] = {}
        counts = [split.table.columns["sizes"].lengths() for split in self.splits.values()]
        self._most = int(np.concatenate(counts).max())
        if self._length < 5 * self._most:
            raise ValueError(
                f"data.seq_len={self._length} is too short for {self._most} choices: expected at least "
                f"{5 * self._most}"
            )
        lengths = [self._full_lengths(split) for split in self.splits.values()]
        self.log_cut("data.seq_len", self._length, np.concatenate(lengths))

    def _full_lengths(self, split: Split) -> np.ndarray:
        columns, rows = split.table.columns, split.rows
        questions = columns["question"].lengths()[rows] + 3
        counts = columns["sizes"].lengths()[rows]
        return questions * counts + columns["choices"].lengths()[rows]

    def lengths(self, split: Split) -> np.ndarray:
        return np.minimum(self._full_lengths(split), self._length)

    def settings(self) -> list[Any]:
        return [self._length, self._most]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"tokens", "segment_ids", "positions", "token_types" int32 [T], "starts" int32 [C], "targets", "weights" [1]}.

        `starts` is where each choice's [CLS] stands, -1 where the question has no such choice.
        """
        columns, ids = table.columns, self.special_ids
        sizes = columns["sizes"][row]
        choices = np.split(columns["choices"][row], np.cumsum(sizes)[:-1])
        question = columns["question"][row]
        # Where all of it does not fit, every choice may have its share.
        share = self._length - 3
        if (len(question) + 3) * len(sizes) + sizes.sum() > self._length:
            share = self._length // len(sizes) - 3
        names = ("tokens", "segment_ids", "positions", "token_types")
        example = {name: np.zeros(self._length, np.int32) for name in names}
        example["tokens"][:] = ids["[PAD]"]
        example["starts"] = np.full(self._most, -1, np.int32)
        first = 0
        for number, choice in enumerate(choices):
            choice = choice[:share]
            asked = question[: share - len(choice)]
            parts = [[ids["[CLS]"]], asked, [ids["[SEP]"]], choice, [ids["[SEP]"]]]
            end = first + sum(map(len, parts))
            example["tokens"][first:end] = np.concatenate(parts)
            example["segment_ids"][first:end] = number + 1
            example["positions"][first:end] = np.arange(end - first)
            example["token_types"][first + len(asked) + 2 : end] = 1
            example["starts"][number] = first
            first = end
        example["targets"] = columns["answer"][row].astype(np.int32)
        example["weights"] = np.ones(1, np.float32)
        return example

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As RecordTask.eval, with the raw `input`, `reference` and `raw`, all the choices, [B]."""
        table, rows = self.splits.get(split, (None, None))
        batches = super().eval(split, batch_size)
        return (batch | self._raw(table, rows, batch) for batch in batches)

    def _raw(self, table: records.Table, rows: np.ndarray, batch: Batch) -> Batch:
        lines = self._lines.setdefault(table.digest, records.Lines(table.source))
        names = ("input", "reference", "raw")
        found = {name: np.full(len(batch["id"]), "", object) for name in names}
        for place in np.flatnonzero(batch["id"] >= 0):
            question, *choices = lines[int(rows[batch["id"][place]])]
            found["input"][place], found["raw"][place] = question, tuple(choices)
            found["reference"][place] = choices[batch["targets"][place, 0]]
        return found

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and question and choices with a TAB between, of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        columns = table.columns
        choices = np.split(columns["choices"][row], np.cumsum(columns["sizes"][row])[:-1])
        texts = [self.tokenizer.decode(ids) for ids in (columns["question"][row], *choices)]
        return table.source.path, "\t".join(texts)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """What is read of every choice; the right one is marked *, the predicted one >."""
        lines = []
        for number in range(int((example["starts"] >= 0).sum())):
            ids = example["tokens"][example["segment_ids"] == number + 1]
            right = "*" if example["weights"][0] and number == example["targets"][0] else " "
            chosen = ">" if predicted is not None and number == predicted[0] else " "
            lines.append(f"{chosen}{right} {self.tokenizer.decode(ids)!r}")
        return lines


def _answers(value: Any, choices: list[str]) -> set[int]:
    """The numbers of the choices that an answer can mean: one, none, or two, as "1" does among 1 and 2."""
    found = set()
    if isinstance(value, str):
        text = value.strip()
        if choices.count(text) == 1:
            found.add(choices.index(text))
        if len(text) == 1 and text.upper() in _LETTERS[: len(choices)]:
            found.add(_LETTERS.index(text.upper()))
        value = int(text) if text.isascii() and text.isdigit() else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        found.add(value)
    return found
