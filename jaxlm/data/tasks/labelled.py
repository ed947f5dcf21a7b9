"""Texts with a label each: a sequence classifier's examples.

Not for a label for every word (tasks/tagged.py).
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import reading, records, special_tokens
from jaxlm.data.tasks.records import (
    RecordConfig,
    RecordTask,
    Split,
    check_seq_len,
    number_labels,
)

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LabelledConfig(RecordConfig):
    """As RecordConfig, with *.tsv files of text TAB label (or text TAB pair TAB label).

    Attributes:
      text_field: the text in a *.jsonl file; several fields, joined by +, make lines of one text.
      label_field: the label in a *.jsonl file: text or a whole number.
      pair_field: a second text; "": none. For a *.tsv file anything else than "" means that its
        second column is one.
      min_count: labels with fewer lines in path are dropped, with their lines in every split.
      seq_len: tokens of an example, [CLS] and [SEP] included; longer ones are cut, and counted in
        the log; 0: the model's max_len, which the loop fills in.
    """

    text_field: str = "text"
    label_field: str = "label"
    pair_field: str = ""
    min_count: int = 1
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_seq_len(self.seq_len)
        if self.min_count < 1:
            raise ValueError(f"data.min_count={self.min_count} must be at least 1")


class LabelledTask(RecordTask):
    """The label of every line, from [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""

    Config: ClassVar[type] = LabelledConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.BERT

    def parse(self, row: records.Row, where: str) -> records.Record:
        """The text, or both, and the label.

        Raises:
          ValueError: the line has not all of them.
        """
        config = self.config
        if isinstance(row, list):
            names = ("text", "pair", "label") if config.pair_field else ("text", "label")
            records.check_columns(row, where, names, f" (data.pair_field={config.pair_field!r})")
            return records.Record(
                tuple(row[:-1]), (records.label(row[-1], where, "its last column"),)
            )
        fields = config.text_field.split("+")
        texts = ["\n".join(reading.record_text(row, name, where) for name in fields)]
        if config.pair_field:
            texts.append(reading.record_text(row, config.pair_field, where, "data.pair_field"))
        value = reading.record_field(row, config.label_field, where, "data.label_field")
        name = f"field {config.label_field!r}"
        return records.Record(tuple(texts), (records.label(value, where, name),))

    def kind(self) -> list[Any]:
        return ["labelled", self.config.text_field, self.config.label_field, self.config.pair_field]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return dict(zip(("text", "pair"), ids, strict=False)) | {"label": labels}

    def prepare_splits(self) -> None:
        """Drop rare labels, number the others, and report what is dropped and cut.

        Raises:
          ValueError: no length, fewer than two labels, or one that training lacks.
        """
        self._length = check_seq_len(self.config.seq_len, known=True)
        counts = self._counts()
        dropped = {name for name, count in counts.items() if count < self.config.min_count}
        lost = 0
        for name, (table, rows) in self.splits.items():
            keeps = np.array([label not in dropped for label in table.labels])
            kept = rows[keeps[table.columns["label"].values()[rows]]]
            lost += len(rows) - len(kept)
            self.splits[name] = Split(table, kept)
        if dropped:
            _log.info(
                "%s: %d labels with fewer than data.min_count=%d lines are dropped, with %d lines "
                "of all splits: %s",
                self.config.path, len(dropped), self.config.min_count, lost,
                ", ".join(sorted(dropped)),
            )  # fmt: skip
        self._numbers = number_labels(self.splits, "label", self.config.path)
        lengths = [self._full_lengths(split) for split in self.splits.values()]
        self.log_cut("data.seq_len", self._length, np.concatenate(lengths))

    def _counts(self) -> dict[str, int]:
        """Lines of data.path by label."""
        table = self.splits["train"].table
        found = np.bincount(table.columns["label"].values(), minlength=len(table.labels))
        return dict(zip(table.labels, found.tolist(), strict=True))

    def labels(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def _full_lengths(self, split: Split) -> np.ndarray:
        names = ("text", "pair") if self.config.pair_field else ("text",)
        texts = sum(split.table.columns[name].lengths()[split.rows] for name in names)
        return texts + 1 + len(names)

    def lengths(self, split: Split) -> np.ndarray:
        return np.minimum(self._full_lengths(split), self._length)

    def settings(self) -> list[Any]:
        return [self._length, *self._numbers]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"tokens", "segment_ids" int32 [T], "targets" int32 [1], "weights" float32 [1]}.

        Where there is a pair, also "token_types" int32 [T], 1 for the pair and its [SEP].
        """
        text = table.columns["text"][row]
        pair = table.columns["pair"][row] if self.config.pair_field else text[:0]
        room = self._length - (3 if self.config.pair_field else 2)
        pair = pair[: max(room - len(text), room // 2)]  # the longer text is cut first
        text = text[: room - len(pair)]
        ids = self.special_ids
        parts = [[ids["[CLS]"]], text, [ids["[SEP]"]]]
        if self.config.pair_field:
            parts += [pair, [ids["[SEP]"]]]
        tokens = np.full(self._length, ids["[PAD]"], np.int32)
        size = sum(map(len, parts))
        tokens[:size] = np.concatenate(parts)
        number = self._numbers[table.labels[table.columns["label"][row][0]]]
        places = np.arange(self._length)
        example = {
            "tokens": tokens,
            "segment_ids": (places < size).astype(np.int32),
            "targets": np.array([number], np.int32),
            "weights": np.ones(1, np.float32),
        }
        if self.config.pair_field:
            second = (places >= len(text) + 2) & (places < size)
            example["token_types"] = second.astype(np.int32)
        return example

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and the text (TAB the pair) of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        names = ("text", "pair") if self.config.pair_field else ("text",)
        texts = [self.tokenizer.decode(table.columns[name][row]) for name in names]
        return table.source.path, "\t".join(texts)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The text as the model gets it, its label, and the predicted one."""
        ids = example["tokens"][example["segment_ids"] > 0]
        lines = [f"text     {self.tokenizer.decode(ids)!r}"]
        if example["weights"][0]:
            lines += [f"label    {self.labels()[example['targets'][0]]}"]
            if predicted is not None:
                lines += [f"predicted {self.labels()[predicted[0]]}"]
        return lines
