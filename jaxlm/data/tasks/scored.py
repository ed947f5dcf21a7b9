"""Texts with a number each: ratings, similarities of two texts.

Not for numbers that are names of classes (tasks/labelled.py).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import records
from jaxlm.data.tasks.sequences import SequenceConfig, SequenceTask


@dataclasses.dataclass(frozen=True)
class ScoredConfig(SequenceConfig):
    """As SequenceConfig.

    Attributes:
      score_column: the number.
      mean: of the numbers, which a model learns less this and by `deviation`.
      deviation: 0: both are those of the training lines, which the loop fills in.
    """

    score_column: str = "score"
    mean: float = 0.0
    deviation: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.mean) and 0 <= self.deviation < math.inf):
            raise ValueError(
                f"data.mean={self.mean} and data.deviation={self.deviation}: expected numbers, the second above 0, or "
                "0 for those of the training lines"
            )


class ScoredTask(SequenceTask):
    """The number of every line, from [CLS] text [SEP], or [CLS] text [SEP] pair [SEP].

    A model is given it less their mean and by their deviation (`TaskInfo.scale`), so that numbers of any size are learnt
    alike; scores are in the data's own.
    """

    Config: ClassVar[type] = ScoredConfig
    target_column: ClassVar[str] = "score_column"
    num_outputs: ClassVar[int] = 1

    def record(self, texts: tuple[str, ...], value: Any, where: str, what: str) -> records.Record:
        """Raises ValueError for what is no number."""
        try:
            score = float("nan" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            score = math.nan
        if not abs(score) <= float(np.finfo(np.float32).max):
            raise ValueError(
                f"{where} has no score: {what} is {value!r}, not a number that fits into float32"
            )
        return records.Record(texts, numbers={"score": np.array([score], np.float32)})

    def kind(self) -> list[Any]:
        return ["scored", *super().kind()[1:]]

    def prepare_splits(self) -> None:
        """Measure the training lines' scores where the config doesn't say it, and report what is cut.

        Raises:
          ValueError: all scores are the same.
        """
        self._scale = self.config.mean, self.config.deviation
        if not self.config.deviation:
            table, rows = self.splits["train"]
            scores = table.columns["score"].values()[rows].astype(np.float64)
            if not len(scores) or scores.min() == scores.max():
                raise ValueError(
                    f"data.path={self.config.path}: all training lines have the same score, {scores[:1].tolist()}"
                )
            self._scale = float(scores.mean()), float(scores.std())
        super().prepare_splits()

    def scale(self) -> tuple[float, float]:
        return self._scale

    def settings(self) -> list[Any]:
        return [*super().settings(), *self._scale]

    def make_target(self, table: records.Table, row: int) -> np.ndarray:
        """The score, standardised, float32 [1]."""
        mean, deviation = self._scale
        return ((table.columns["score"][row] - mean) / deviation).astype(np.float32)

    def show_target(self, target: np.ndarray) -> str:
        """The score in the data's own numbers."""
        mean, deviation = self._scale
        return f"{float(target[0]) * deviation + mean:.4g}"
