"""Texts that belong together: a question and its answer, a wish and an item, or a text and itself.

Not for texts that are written from others (tasks/pairs.py), nor for pairs with a label (tasks/labelled.py).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch
from jaxlm.data import reading, records, special_tokens
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split, check_seq_len

KEYS = {"anchor": "anchor_column", "positive": "positive_column", "negative": "negative_column"}
"""The texts of a line, and the options that say where they are."""


@dataclasses.dataclass(frozen=True)
class TextPairsConfig(RecordConfig):
    """As RecordConfig; a *.tsv file without a header is anchor TAB positive (TAB negative).

    Attributes:
      anchor_column: the text that is to be near to the positive; several columns joined by +, and an
        entry that is a list (a history of items), make lines of one text.
      positive_column: the text that belongs to it; "": the anchor itself, for SimCSE.
      negative_column: one that does not belong to it and is hard to tell; "": none.
      seq_len: tokens of one text, [CLS] and [SEP] included; longer ones are cut, and counted in the
        log; 0: the model's max_len, which the loop fills in.
    """

    anchor_column: str = "anchor"
    positive_column: str = "positive"
    negative_column: str = ""
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_seq_len(self.seq_len)
        if not self.anchor_column:
            raise ValueError("data.anchor_column is empty: name the column of the first text")


class TextPairsTask(RecordTask):
    """The texts of a line, each [CLS] text [SEP]; they share a row, where none sees another."""

    Config: ClassVar[type] = TextPairsConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.BERT

    def _names(self) -> list[str]:
        """Of the texts that a line has."""
        return [name for name, key in KEYS.items() if getattr(self.config, key)]

    def parse(self, row: records.Row, where: str) -> records.Record:
        """The texts of a line.

        Raises:
          ValueError: the line has not all of them.
        """
        if isinstance(row, list):
            records.check_columns(row, where, self._names())
            return records.Record(tuple(row))
        keys = [KEYS[name] for name in self._names()]
        return records.Record(
            tuple(_text(row, getattr(self.config, key), where, f"data.{key}") for key in keys)
        )

    def kind(self) -> list[Any]:
        return ["text_pairs", *(getattr(self.config, key) for key in KEYS.values())]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return dict(zip(self._names(), ids, strict=True))

    def prepare_splits(self) -> None:
        """Report what is cut.

        Raises:
          ValueError: no length.
        """
        self._length = check_seq_len(self.config.seq_len, known=True)
        self._lines: dict[str, records.Lines] = {}
        for name in self._names():
            lengths = [
                split.table.columns[name].lengths()[split.rows] + 2
                for split in self.splits.values()
            ]
            self.log_cut("data.seq_len", self._length, np.concatenate(lengths))

    def lengths(self, split: Split) -> np.ndarray:
        lengths = [split.table.columns[name].lengths()[split.rows] + 2 for name in self._names()]
        texts = [np.minimum(own, self._length) for own in lengths]
        return texts[0] * 2 if len(texts) == 1 else sum(texts)

    def settings(self) -> list[Any]:
        return [self._length, *self._names()]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"tokens", "segment_ids", "positions" int32 [C L], "text_ids" int32 [C], "weights" float32 [1]}.

        C texts of L places each: segment c of the row is text c, whose positions begin at 0. Equal texts have equal
        `text_ids`; of different ones they differ, but for a chance of one in 2^31.
        """
        length, special = self._length, self.special_ids
        names = self._names()
        texts = [table.columns[name][row][: length - 2] for name in names]
        if len(texts) == 1:
            texts = texts * 2
        example = {
            "tokens": np.full((len(texts), length), special["[PAD]"], np.int32),
            "segment_ids": np.zeros((len(texts), length), np.int32),
            "positions": np.zeros((len(texts), length), np.int32),
        }
        for number, ids in enumerate(texts):
            size = len(ids) + 2
            example["tokens"][number, :size] = [special["[CLS]"], *ids, special["[SEP]"]]
            example["segment_ids"][number, :size] = number + 1
            example["positions"][number, :size] = np.arange(size)
        numbers = [zlib.crc32(np.ascontiguousarray(ids, "<i4")) & 0x7FFFFFFF for ids in texts]
        return {name: value.reshape(-1) for name, value in example.items()} | {
            "text_ids": np.array(numbers, np.int32),
            "weights": np.ones(1, np.float32),
        }

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As RecordTask.eval, with anchors and positives as they stand in the file: `input`, `reference`, str [B]."""
        table, rows = self.splits.get(split, (None, None))
        batches = super().eval(split, batch_size)
        return (batch | self._raw(table, rows, batch["id"]) for batch in batches)

    def _raw(self, table: records.Table, rows: np.ndarray, ids: np.ndarray) -> Batch:
        lines = self._lines.setdefault(table.digest, records.Lines(table.source))
        texts = [lines[int(rows[number])] if number >= 0 else ("", "") for number in ids]
        first, second = zip(*((own[0], own[min(1, len(own) - 1)]) for own in texts), strict=True)
        return {"input": np.array(first, object), "reference": np.array(second, object)}

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and the anchor of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        return table.source.path, self.tokenizer.decode(table.columns["anchor"][row])

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """Every text of a row, as the model gets it."""
        segments = example["segment_ids"]
        return [
            f"{name:<9} {self.tokenizer.decode(example['tokens'][segments == number])!r}"
            for number, name in enumerate(list(KEYS)[: segments.max()], 1)
        ]


def _text(row: dict[str, Any], columns: str, where: str, option: str) -> str:
    """The text of columns joined by +; an entry that is a list gives a line for each of its texts."""
    lines = []
    for name in columns.split("+"):
        value = reading.record_column(row, name, where, option)
        parts = value if isinstance(value, list) else [value]
        lines += [reading.record_text({name: part}, name, where, option) for part in parts]
    return "\n".join(lines)
