"""Evaluators: scores with unit, standard error and signature. Named in a config's `evaluators`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo

EVALUATORS = {
    "perplexity": "jaxlm.eval.perplexity:Perplexity",
    "accuracy": "jaxlm.eval.accuracy:Accuracy",
    "classification": "jaxlm.eval.classification:Classification",
    "tagging": "jaxlm.eval.tagging:Tagging",
    "multi_task": "jaxlm.eval.multi_task:MultiTask",
    "multi_label": "jaxlm.eval.multi_label:MultiLabel",
    "regression": "jaxlm.eval.regression:Regression",
    "choices": "jaxlm.eval.choices:Choices",
    "spans": "jaxlm.eval.spans:Spans",
    "answered_spans": "jaxlm.eval.spans:AnsweredSpans",
    "translation": "jaxlm.eval.translation:Translation",
    "summaries": "jaxlm.eval.summaries:Summaries",
    "preference": "jaxlm.eval.preference:Preference",
    "answers": "jaxlm.eval.answers:Answers",
    "exact_match": "jaxlm.eval.exact_match:ExactMatch",
    "number_match": "jaxlm.eval.exact_match:NumberMatch",
    "retrieval": "jaxlm.eval.retrieval:Retrieval",
    "collapse": "jaxlm.eval.collapse:Collapse",
    "latent": "jaxlm.eval.elbo:Latent",
    "iw_bound": "jaxlm.eval.elbo:ImportanceWeighted",
    "word_pairs": "jaxlm.eval.word_pairs:WordPairs",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One score. `stderr` is the standard error of `value`; `signature` says how it was computed.

    `value` is a function, `eval.finish.FINISH[finish]`, of the sum of every example's `statistics`: so errors,
    comparisons of two models and merged splits are the same for all scores. Made by `eval.metric.make_row`.
    """

    name: str
    value: float
    unit: str
    stderr: float
    signature: str
    higher_is_better: bool = False
    finish: str = ""  # "": can't be resampled
    statistics: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    """float64 [N, K], in the data's order."""


class Scores(NamedTuple):
    """What an evaluator found."""

    rows: list[Row]
    examples: list[dict[str, Any]] = []
    """One a row of statistics: id, input, prediction, reference, score (higher is better); those that make sense."""
    tables: dict[str, list[dict[str, Any]]] = {}
    """By class, by domain, confusions."""


class Evaluator(Protocol):
    """Built as `Evaluator(info, seq_len, objective)`; knows nothing of models or devices.

    `seq_len` is the positions of a row; `objective` is the kind whose targets are scored, for the signature.
    One that scores texts which the model writes has `writes` in place of `outputs`: settings of a way of decoding
    (decode.METHODS) under their names, its name under "method", and "max_tokens" (0: as long as the data's targets
    may be), and a `tokenizer`. Its `predict(batch)` gives {"texts": a text for every row}. See eval/generation.py.

    Raises:
      ValueError: data that it does not score.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str): ...

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """What it needs of a model's output: pure, compiled with the model."""

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Scores over all of `data`; predict(batch) gives `outputs` as host arrays."""
