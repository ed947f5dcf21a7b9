"""How often the likeliest answer is right, beside what always giving the commonest answer would reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row
from jaxlm.eval.perplexity import ratio


class Accuracy:
    """The share of weighed targets that are the argmax (of equal logits the first), and its yardstick.

    `majority` is the accuracy of always answering the scored split's own most frequent target. For data with
    `TaskInfo.labels` there are also `macro_f1`, the plain mean of F1 = 2 TP / (predicted + true) over the classes that are
    predicted or true somewhere (Sokolova and Lapalme 2009, table 3; scikit-learn's default), and `loss`, nats a target.
    Standard errors are over rows (Cochran 1977, section 6.4), those of macro_f1 by linearising its ratios.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Args: seq_len is not used: every row of the split is scored once."""
        self.num_labels = len(info.labels)
        self.signature = f"objective={objective}"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """correct_BT, 0 or 1; with labels predictions_BT and nll_BT as well."""
        stats = output.token_stats(batch["targets"])
        if not self.num_labels:
            return {"correct": stats.correct}
        predictions = jnp.argmax(output.logits(), axis=-1).astype(jnp.int32)
        return {"correct": stats.correct, "predictions": predictions, "nll": stats.nll}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> list[Row]:
        """Rows `accuracy`, `majority`; with labels `macro_f1` and `loss` as well.

        Raises:
          ValueError: the data holds no weighed target.
        """
        parts: dict[str, list[np.ndarray]] = {}
        for batch in data:
            found = predict(batch) | {"targets": batch["targets"], "weights": batch["weights"]}
            used = np.asarray(batch["weights"]).sum(1) > 0
            for name, values in found.items():
                parts.setdefault(name, []).append(np.asarray(values)[used])
        if not parts or not sum(map(len, parts["weights"])):
            raise ValueError("evaluation: the split holds no target to score")
        arrays = {name: np.concatenate(values) for name, values in parts.items()}
        targets, weights = arrays["targets"], arrays["weights"].astype(np.float64)
        per_row = weights.sum(1)
        signature = f"{self.signature}|targets={int(per_row.sum())}|rows={len(per_row)}"

        def share(name: str, hits: np.ndarray, about: str = "") -> Row:
            value, error = ratio((hits * weights).sum(1), per_row)
            return Row(name, value, "fraction", error, signature + about, higher_is_better=True)

        commonest = int(np.argmax(np.bincount(targets.ravel(), weights.ravel())))
        always = f"|always answering this split's most frequent target, {commonest}"
        rows = [
            share("accuracy", arrays["correct"]),
            share("majority", targets == commonest, always),
        ]
        if not self.num_labels:
            return rows
        value, error, seen = macro_f1(arrays["predictions"], targets, weights, self.num_labels)
        about = f"{signature}|classes={seen} of {self.num_labels}"
        loss, loss_error = ratio((arrays["nll"] * weights).sum(1), per_row)
        return [
            *rows,
            Row("macro_f1", value, "fraction", error, about, higher_is_better=True),
            Row("loss", loss, "nats/target", loss_error, signature),
        ]


def macro_f1(
    predictions_BT: np.ndarray, targets_BT: np.ndarray, weights_BT: np.ndarray, num_labels: int
) -> tuple[float, float, int]:
    """The mean F1 of the classes that are predicted or true somewhere, its standard error, their number.

    Args:
      predictions_BT, targets_BT: classes, 0 to num_labels - 1; a row is the unit of the error.
      weights_BT: 0 leaves a place out.

    Returns:
      The mean; its standard error (nan for a single row); how many classes it is over.
    """

    def count(classes: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(classes.ravel(), values.ravel(), minlength=num_labels)

    hits_BT = (predictions_BT == targets_BT) * weights_BT
    sizes_C = count(predictions_BT, weights_BT) + count(targets_BT, weights_BT)
    seen = sizes_C > 0
    sizes_C = np.where(seen, sizes_C, 1.0)
    f1_C = 2 * count(targets_BT, hits_BT) / sizes_C
    value = float(f1_C[seen].mean())
    num_rows = len(targets_BT)
    if num_rows < 2:
        return value, math.nan, int(seen.sum())
    # d F1_c = (2 d TP_c - F1_c d size_c) / size_c, summed over the classes of a row's places
    pull_C = f1_C / sizes_C
    places_BT = 2 * hits_BT / sizes_C[targets_BT]
    places_BT = places_BT - weights_BT * (pull_C[predictions_BT] + pull_C[targets_BT])
    residuals = places_BT.sum(1) / seen.sum()
    return value, math.sqrt((residuals**2).sum() * num_rows / (num_rows - 1)), int(seen.sum())
