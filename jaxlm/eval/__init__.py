"""Evaluators: scores with unit, standard error and signature. Named in a config's `evaluators`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo

EVALUATORS = {
    "perplexity": "jaxlm.eval.perplexity:Perplexity",
    "accuracy": "jaxlm.eval.accuracy:Accuracy",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One score. `stderr` is the standard error of `value`; `signature` says how it was computed."""

    name: str
    value: float
    unit: str
    stderr: float
    signature: str
    higher_is_better: bool = False


class Evaluator(Protocol):
    """Built as `Evaluator(info, seq_len, objective)`; knows nothing of models or devices.

    `seq_len` is the positions of a row; `objective` is the kind whose targets are scored, for the signature.

    Raises:
      ValueError: data that it does not score.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str): ...

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """What it needs of a model's output: pure, compiled with the model."""

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> list[Row]:
        """Scores over all of `data`; predict(batch) gives `outputs` as host arrays."""
