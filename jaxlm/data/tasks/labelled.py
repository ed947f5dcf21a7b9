"""Texts with a label each: a sequence classifier's examples.

Not for a label for every word (tasks/tagged.py), nor for several of a text (tasks/multi_labelled.py).
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import bundled, records
from jaxlm.data.tasks.classes import check_labels, number_labels
from jaxlm.data.tasks.records import Split
from jaxlm.data.tasks.sequences import SequenceConfig, SequenceTask

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LabelledConfig(SequenceConfig):
    """As SequenceConfig.

    Attributes:
      label_column: the label: text or a whole number.
      labels: the labels that there may be, in the order of their numbers; (): those of the training
        lines, sorted. A line with another one is refused.
      min_count: labels with fewer lines in path are dropped, with their lines in every split; 0: none
        is, but of a bundled column what bundled.FEWEST says.
    """

    label_column: str = "label"
    labels: tuple[str, ...] = ()
    min_count: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_labels(self.labels)
        if self.min_count < 0:
            raise ValueError(f"data.min_count={self.min_count} must be 0 or more")

    def fewest(self) -> int:
        """`min_count`, or what stands for it where that is 0."""
        scheme, _, name = self.path.partition(":")
        rare = bundled.FEWEST.get(name, {}) if scheme == "bundled" else {}
        return self.min_count or rare.get(self.label_column, 1)


class LabelledTask(SequenceTask):
    """The label of every line, from [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""

    Config: ClassVar[type] = LabelledConfig
    target_column: ClassVar[str] = "label_column"

    def record(self, texts: tuple[str, ...], value: Any, where: str, what: str) -> records.Record:
        """Raises ValueError for what is no label."""
        return records.Record(texts, (records.label(value, where, what),))

    def kind(self) -> list[Any]:
        return ["labelled", *super().kind()[1:]]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return super().columns(ids, labels) | {"label": labels}

    def prepare_splits(self) -> None:
        """Drop rare labels, number the others, and report what is dropped and cut.

        Raises:
          ValueError: fewer than two labels, or one that training lacks.
        """
        fewest = self.config.fewest()
        dropped = {name for name, count in self._counts().items() if count < fewest}
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
                self.config.path, len(dropped), fewest, lost,
                ", ".join(sorted(dropped)),
            )  # fmt: skip
        self._numbers = number_labels(
            self.splits, "label", self.config.path, self.config.labels, dropped
        )
        super().prepare_splits()

    def _counts(self) -> dict[str, int]:
        """Lines of data.path by label."""
        table = self.splits["train"].table
        found = np.bincount(table.columns["label"].values(), minlength=len(table.labels))
        return dict(zip(table.labels, found.tolist(), strict=True))

    def labels(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def make_target(self, table: records.Table, row: int) -> np.ndarray:
        """The number of its label, int32 [1]."""
        label = table.labels[table.columns["label"][row][0]]
        return np.array([self._numbers[label]], np.int32)

    def show_target(self, target: np.ndarray) -> str:
        """The label."""
        return self.labels()[target[0]]
