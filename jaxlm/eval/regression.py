"""Predicted numbers against true ones: squared error, and how far they go together (scipy's correlations)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxlm import registry
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.metric import collect, input_text, make_row, version


class Regression:
    """Scores in the data's own numbers."""

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are no numbers, or scipy is missing."""
        if objective != "regression":
            raise ValueError(
                'evaluators: "regression" scores data.kind="scored" with objective.kind="regression", not '
                f'"{objective}"'
            )
        registry.need("scipy.stats", "eval")
        self.scale, self.tokenizer = info.scale, info.tokenizer
        self.signature = f"objective={objective}|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """predictions_B1, standardised."""
        return {"predictions": output.logits()[:, 0]}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """The rows of `rows`; of each text the error, as a negative number.

        Raises:
          ValueError: the data holds no text.
        """
        arrays = collect(predict, data, ("tokens", "segment_ids"))
        mean, deviation = self.scale
        predicted, true = (
            arrays[name][:, 0].astype(np.float64) * deviation + mean
            for name in ("predictions", "targets")
        )
        examples = [
            {
                "id": int(arrays["id"][row]),
                "input": input_text(self.tokenizer, arrays, row),
                "prediction": round(predicted[row], 6),
                "reference": round(true[row], 6),
                "score": -abs(predicted[row] - true[row]),
            }
            for row in range(len(true))
        ]
        return Scores(rows(predicted, true, self.signature), examples)


def rows(predicted_N: np.ndarray, true_N: np.ndarray, signature: str = "") -> list[Row]:
    """Rows `mse`, `mae`, `pearson` and `spearman`; a correlation is 0 where one side never varies.

    The error of `spearman` is that of a correlation of ranks, which are not taken anew in each resample.
    """
    stats = registry.need("scipy.stats", "eval")
    ones = np.ones(len(true_N))
    about = "|".join(filter(None, [signature, f"texts={len(true_N)}"]))
    errors = (
        ("mse", np.square(predicted_N - true_N), "squared"),
        ("mae", np.abs(predicted_N - true_N), "absolute"),
    )
    found = [
        make_row(name, np.stack([values, ones], 1), unit=unit, finish="ratio", signature=about)
        for name, values, unit in errors
    ]
    varies = len(true_N) > 1 and np.ptp(predicted_N) > 0 and np.ptp(true_N) > 0
    ranks = stats.rankdata(predicted_N), stats.rankdata(true_N)
    given = (
        ("pearson", (predicted_N, true_N), stats.pearsonr),
        ("spearman", ranks, stats.spearmanr),
    )
    for name, (one, other), correlation in given:
        one, other = one - one.mean(), other - other.mean()
        found.append(
            make_row(
                name,
                np.stack([ones, one, other, one**2, other**2, one * other], 1),
                unit="correlation",
                finish="pearson",
                signature=f"{about}|{version('scipy')}",
                higher_is_better=True,
                value=float(correlation(one, other).statistic) if varies else 0.0,
            )
        )
    return found
