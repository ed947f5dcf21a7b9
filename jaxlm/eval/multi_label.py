"""Sets of labels: F1 over labels and texts, and how often a whole set is right (scikit-learn's)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm import registry
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.classification import class_lines
from jaxlm.eval.metric import collect, input_text, make_row, version


class MultiLabel:
    """A label is predicted where it is more likely than not.

    A label that is neither predicted nor true anywhere is left out of `macro_f1`; without any, F1 is 0 (zero_division=0).
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are no sets of labels, or scikit-learn is missing."""
        if objective != "multi_label":
            raise ValueError(
                'evaluators: "multi_label" scores data.kind="multi_labelled" with objective.kind="multi_label", not '
                f'"{objective}"'
            )
        registry.need("sklearn.metrics", "eval")
        self.labels, self.tokenizer = info.labels, info.tokenizer
        self.signature = (
            f"{version('scikit-learn')}|zero_division=0|threshold=0.5|objective={objective}|"
            f"tokenizer={info.tokenizer.name}"
        )

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """Logits and nll of every label, [B, C]."""
        logits_BC = output.logits()[:, 0]
        nll = jnp.logaddexp(0.0, logits_BC) - batch["targets"] * logits_BC
        return {"logits": logits_BC, "nll": nll}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows `micro_f1`, `macro_f1`, `subset_accuracy`, `loss`; table `classes`; of each text the share of right labels.

        Raises:
          ValueError: the data holds no text.
        """
        arrays = collect(predict, data, ("tokens", "segment_ids"))
        predicted, true = arrays["logits"] > 0, arrays["targets"] > 0
        right = (predicted == true).mean(1)
        examples = [
            {
                "id": int(arrays["id"][row]),
                "input": input_text(self.tokenizer, arrays, row),
                "prediction": self._names(predicted[row]),
                "reference": self._names(true[row]),
                "score": float(right[row]),
            }
            for row in range(len(right))
        ]
        found = rows(predicted, true, arrays["nll"], self.signature)
        classes = class_lines(label_counts(predicted, true).sum(0), self.labels)
        return Scores(found, examples, {"classes": classes})

    def _names(self, there: np.ndarray) -> list[str]:
        return [name for name, one in zip(self.labels, there, strict=True) if one]


def rows(
    predicted_NC: np.ndarray, true_NC: np.ndarray, nll_NC: np.ndarray, signature: str = ""
) -> list[Row]:
    """Scores of sets of labels, bool [N, C], and of their probabilities."""
    metrics = registry.need("sklearn.metrics", "eval")
    counts = label_counts(predicted_NC, true_NC)
    sums = counts.reshape(len(counts), 3, -1).sum(2)
    seen = np.flatnonzero((predicted_NC | true_NC).any(0))
    ones = np.ones(len(counts))
    about = f"{signature}|texts={len(counts)}"

    def f1(average: str) -> float:
        if not len(seen):
            return 0.0
        chosen = {"labels": seen, "average": average, "zero_division": 0}
        return metrics.f1_score(true_NC, predicted_NC, **chosen)

    whole = (predicted_NC == true_NC).all(1)
    share = metrics.accuracy_score(true_NC, predicted_NC)
    labels = f"{about}|labels={len(seen)} of {predicted_NC.shape[1]}"
    given = [
        ("micro_f1", sums, "f1", f1("micro"), about),
        ("macro_f1", counts, "macro_f1", f1("macro"), labels),
        ("subset_accuracy", np.stack([whole, ones], 1), "ratio", share, about),
    ]
    found = [
        make_row(
            name,
            statistics,
            unit="fraction",
            finish=finish,
            signature=text,
            higher_is_better=True,
            value=value,
        )
        for name, statistics, finish, value, text in given
    ]
    nats = np.stack([nll_NC.mean(1), ones], 1)
    return [*found, make_row("loss", nats, unit="nats/label", finish="ratio", signature=about)]


def label_counts(predicted_NC: np.ndarray, true_NC: np.ndarray) -> np.ndarray:
    """Of every text which labels were hit, predicted and true, float64 [N, 3 C]."""
    return np.concatenate([predicted_NC & true_NC, predicted_NC, true_NC], 1).astype(np.float64)
