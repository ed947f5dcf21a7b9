"""How often the likeliest answer is right, beside what always giving the commonest answer would reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.metric import collect, make_row


class Accuracy:
    """The share of weighed targets that are the argmax (of equal logits the first), and its yardstick.

    `majority` is the accuracy of always answering the scored split's own most frequent target. For data with
    `TaskInfo.labels` there are also `macro_f1`, the plain mean of F1 = 2 TP / (predicted + true) over the classes that are
    predicted or true somewhere (Sokolova and Lapalme 2009, table 3; scikit-learn's default), and `loss`, nats a target.
    Standard errors are over rows (Cochran 1977, section 6.4), those of macro_f1 by linearising its ratios.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Args: seq_len is not used: every row of the split is scored once."""
        self.labels, self.num_labels = info.labels, len(info.labels)
        self.signature = f"objective={objective}"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """correct_BT, 0 or 1; with labels predictions_BT, their probability and nll_BT as well."""
        stats = output.token_stats(batch["targets"])
        if not self.num_labels:
            return {"correct": stats.correct}
        logits = output.logits()
        return {
            "correct": stats.correct,
            "predictions": jnp.argmax(logits, axis=-1).astype(jnp.int32),
            "confidences": jnp.exp(jnp.max(logits, axis=-1) - stats.log_z),
            "nll": stats.nll,
        }

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows `accuracy`, `majority`; with labels `macro_f1` and `loss` as well; of each example its accuracy.

        Raises:
          ValueError: the data holds no weighed target.
        """
        arrays = collect(predict, data)
        targets, weights = arrays["targets"], arrays["weights"]
        per_row = weights.sum(1)
        signature = f"{self.signature}|targets={int(per_row.sum())}|rows={len(per_row)}"

        def share(name: str, values: np.ndarray, about: str = "", unit: str = "fraction") -> Row:
            return make_row(
                name,
                np.stack([(values * weights).sum(1), per_row], 1),
                unit=unit,
                finish="ratio",
                signature=signature + about,
                higher_is_better=unit == "fraction",
            )

        commonest = int(np.argmax(np.bincount(targets.ravel(), weights.ravel())))
        always = f"|always answering this split's most frequent target, {commonest}"
        rows = [
            share("accuracy", arrays["correct"]),
            share("majority", targets == commonest, always),
        ]
        right = (rows[0].statistics[:, 0] / per_row).tolist()
        examples = [
            {"id": int(arrays["id"][row]), **self._answer(arrays, row), "score": score}
            for row, score in enumerate(right)
        ]
        if self.num_labels:
            counts = class_counts(arrays["predictions"], targets, weights, self.num_labels)
            rows += [
                macro_f1(counts, signature),
                share("loss", arrays["nll"], unit="nats/target"),
            ]
        return Scores(rows, examples)

    def _answer(self, arrays: dict[str, np.ndarray], row: int) -> dict[str, Any]:
        """Of data with labels what was predicted, and the truth."""
        if not self.num_labels:
            return {}
        found: dict[str, Any] = {}
        for name, classes in (("prediction", "predictions"), ("reference", "targets")):
            chosen = arrays[classes][row][arrays["weights"][row] > 0]
            found[name] = " ".join(self.labels[number] for number in chosen)
        if arrays["targets"].shape[1] == 1:
            found["probability"] = float(arrays["confidences"][row, 0])
        return found


def class_counts(
    predictions_NT: np.ndarray, targets_NT: np.ndarray, weights_NT: np.ndarray, num_labels: int
) -> np.ndarray:
    """Of every row how often each class was hit, predicted and true: float64 [N, 3 C], for FINISH of that form.

    Args:
      predictions_NT, targets_NT: classes, 0 to num_labels - 1.
      weights_NT: 0 leaves a place out.
    """
    count = len(targets_NT)

    def table(classes: np.ndarray, values: np.ndarray) -> np.ndarray:
        places = classes + num_labels * np.arange(count)[:, None]
        found = np.bincount(places.ravel(), values.ravel(), minlength=count * num_labels)
        return found.reshape(count, num_labels)

    hits = (predictions_NT == targets_NT) * weights_NT
    parts = (targets_NT, hits), (predictions_NT, weights_NT), (targets_NT, weights_NT)
    return np.concatenate([table(classes, values) for classes, values in parts], 1)


def macro_f1(counts: np.ndarray, signature: str, value: float | None = None) -> Row:
    """The row of that name, from `class_counts`; `value` is the defining library's."""
    _, predicted, true = np.split(counts.sum(0), 3)
    return make_row(
        "macro_f1",
        counts,
        unit="fraction",
        finish="macro_f1",
        signature=f"{signature}|classes={int((predicted + true > 0).sum())} of {len(true)}",
        higher_is_better=True,
        value=value,
    )
