"""Texts with any number of labels each: none, one, several.

Not for labels of which each text has exactly one (tasks/labelled.py).
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import records, tables
from jaxlm.data.tasks.classes import check_labels, number_labels
from jaxlm.data.tasks.sequences import SequenceConfig, SequenceTask

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MultiLabelledConfig(SequenceConfig):
    """As SequenceConfig.

    Attributes:
      labels_column: the labels: a list, or a text with `separator` between them; an empty one has none.
      separator: stands between the labels of a text.
      labels: the labels that there may be, in the order of their numbers; (): those of the training
        lines, sorted. A line with another one is refused.
      min_count: labels on fewer lines of path are dropped; the lines stay, without them.
    """

    labels_column: str = "labels"
    separator: str = ","
    labels: tuple[str, ...] = ()
    min_count: int = 1

    def __post_init__(self):
        super().__post_init__()
        check_labels(self.labels)
        if not self.separator:
            raise ValueError('data.separator="" is empty: it stands between the labels of a text')
        if self.min_count < 1:
            raise ValueError(f"data.min_count={self.min_count} must be at least 1")


class MultiLabelledTask(SequenceTask):
    """Which labels each line has, from [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""

    Config: ClassVar[type] = MultiLabelledConfig
    target_column: ClassVar[str] = "labels_column"

    def record(self, texts: tuple[str, ...], value: Any, where: str, what: str) -> records.Record:
        """Raises ValueError for what is no list of labels, an empty one or one that is there twice."""
        column = self.config.labels_column
        row = {column: value}
        values = tables.entries(row, column, where, "data.labels_column", self.config.separator)
        labels = tuple(records.label(one, where, f"an entry of {what}") for one in values)
        if twice := [one for place, one in enumerate(labels) if one in labels[:place]]:
            raise ValueError(f"{where}: {what} has the label {twice[0]!r} twice")
        return records.Record(texts, labels)

    def kind(self) -> list[Any]:
        return ["multi_labelled", *super().kind()[1:], self.config.separator]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return super().columns(ids, labels) | {"labels": labels}

    def prepare_splits(self) -> None:
        """Drop rare labels, number the others, and report what is dropped and cut.

        Raises:
          ValueError: fewer than two labels, or one that training lacks.
        """
        table = self.splits["train"].table
        found = np.bincount(table.columns["labels"].values(), minlength=len(table.labels))
        rare = found < self.config.min_count
        self._dropped = {one for one, few in zip(table.labels, rare, strict=True) if few}
        if self._dropped:
            _log.info(
                "%s: %d labels on fewer than data.min_count=%d lines are dropped: %s",
                self.config.path, len(self._dropped), self.config.min_count,
                ", ".join(sorted(self._dropped)),
            )  # fmt: skip
        self._numbers = number_labels(
            self.splits, "labels", self.config.path, self.config.labels, self._dropped
        )
        super().prepare_splits()

    def labels(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def make_target(self, table: records.Table, row: int) -> np.ndarray:
        """1 for each label that the line has, float32 [C]."""
        target = np.zeros(len(self._numbers), np.float32)
        names = {table.labels[number] for number in table.columns["labels"][row]} - self._dropped
        target[[self._numbers[name] for name in names]] = 1
        return target

    def show_target(self, target: np.ndarray) -> str:
        """The labels, by name."""
        names = [name for name, there in zip(self.labels(), target, strict=True) if there]
        return ", ".join(names) or "(none)"
