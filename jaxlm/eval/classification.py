"""Classes against true classes: accuracy, precision, recall, F1, correlation, calibration, confusions (scikit-learn's).

Not for entities of several words: eval/tagging.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import registry
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.accuracy import class_counts, macro_f1
from jaxlm.eval.finish import divide
from jaxlm.eval.metric import collect, input_text, make_row, version

BINS = 15
"""Of equal width, over the probability of the class that was chosen (Guo et al. 2017)."""


class Answers(NamedTuple):
    """What was predicted; N examples of T places."""

    predictions: np.ndarray  # int [N, T]
    targets: np.ndarray  # int [N, T]
    weights: np.ndarray  # float [N, T], 0: leave out
    confidences: np.ndarray | None = None  # [N, T], probability of the prediction
    nll: np.ndarray | None = None  # [N, T], nats


class Classification:
    """All of scikit-learn's scores of the argmax (of equal logits the first), and how far its probability is right.

    A class that is neither predicted nor true is left out of means; one that is only predicted has recall 0, one that is
    only true precision 0 (zero_division=0). Labels that training lacks are refused by the data.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are no classes, or scikit-learn is missing."""
        if not info.labels:
            raise ValueError(
                'evaluators: "classification" scores classes, and this data has none: data.kind="labelled" and '
                '"tagged" do'
            )
        registry.need("sklearn.metrics", "eval")
        self.labels, self.tokenizer = info.labels, info.tokenizer
        self.signature = f"objective={objective}"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """predictions_BT, their probability, nll_BT."""
        probabilities = jax.nn.softmax(output.logits(), axis=-1)
        return {
            "predictions": probabilities.argmax(-1).astype(np.int32),
            "confidences": probabilities.max(-1),
            "nll": output.token_stats(batch["targets"]).nll,
        }

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """See `score`; tables `classes`, `confusion`, `calibration`; of each example its accuracy.

        Raises:
          ValueError: the data holds no weighed target.
        """
        arrays = collect(predict, data, ("tokens", "segment_ids"))
        answers = Answers(*(arrays[name] for name in Answers._fields))
        rows = score(answers, self.labels, self.signature)
        right = rows[0].statistics[:, 0] / rows[0].statistics[:, 1]
        examples = [
            {
                "id": int(arrays["id"][row]),
                "input": input_text(self.tokenizer, arrays, row),
                "prediction": self._shown(answers.predictions[row], answers.weights[row]),
                "reference": self._shown(answers.targets[row], answers.weights[row]),
                "score": float(right[row]),
            }
            for row in range(len(right))
        ]
        return Scores(rows, examples, tables(answers, self.labels))

    def _shown(self, classes: np.ndarray, weights: np.ndarray) -> str:
        return " ".join(self.labels[number] for number in classes[weights > 0])


def rows(
    predictions: Sequence[str],
    references: Sequence[str],
    confidences: Sequence[float] | None = None,
) -> list[Row]:
    """Scores of labels against true labels.

    Args:
      predictions, references: one each an example; a predicted label that is never true counts as a class of its own.
      confidences: probability of each prediction.

    Raises:
      ValueError: none, or not as many.
    """
    return score(*answers_of(predictions, references, confidences))


def answers_of(
    predictions: Sequence[str],
    references: Sequence[str],
    confidences: Sequence[float] | None = None,
) -> tuple[Answers, list[str]]:
    """What `score` and `tables` take, of labels as text: the answers, and the labels in sorted order."""
    if len(predictions) != len(references) or not predictions:
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references: expected as many, and at least one"
        )
    labels = sorted({*predictions, *references})
    numbers = {label: number for number, label in enumerate(labels)}
    found, true = (
        np.array([[numbers[label]] for label in side]) for side in (predictions, references)
    )
    sure = None if confidences is None else np.asarray(confidences, np.float64)[:, None]
    return Answers(found, true, np.ones(found.shape), sure), labels


def score(answers: Answers, labels: Sequence[str], signature: str = "") -> list[Row]:
    """Rows `accuracy`, precision, recall and F1 (`macro_`, `micro_`), `mcc`; `ece` and `loss` where there is what they need.

    Values are scikit-learn's, weights as its sample_weight. Every target has exactly one answer, so micro precision, recall
    and F1 are the accuracy.
    """
    metrics = registry.need("sklearn.metrics", "eval")
    used = answers.weights > 0
    given = answers.targets[used], answers.predictions[used]
    weighed = {"sample_weight": answers.weights[used]}
    counts = class_counts(answers.predictions, answers.targets, answers.weights, len(labels))
    per_row = answers.weights.sum(1)
    signature = "|".join(filter(None, [signature, version("scikit-learn"), "zero_division=0"]))
    signature += f"|targets={int(per_row.sum())}|rows={len(per_row)}"

    def row(name: str, finish: str, statistics: np.ndarray, value: float, about: str = "") -> Row:
        return make_row(
            name,
            statistics,
            unit="correlation" if name == "mcc" else "fraction",
            finish=finish,
            signature=signature + about,
            higher_is_better=True,
            value=value,
        )

    varied = len({*given[0].tolist(), *given[1].tolist()}) > 1  # else scikit-learn warns, of a 0
    found = {
        average: metrics.precision_recall_fscore_support(
            *given, average=average, zero_division=0, **weighed
        )
        for average in ("macro", "micro")
    }
    macro_p, macro_r, macro_f, _ = found["macro"]
    hits = np.stack(
        [(answers.weights * (answers.predictions == answers.targets)).sum(1), per_row], 1
    )
    same = "|equals accuracy: one answer a target"
    rows = [
        row("accuracy", "ratio", hits, metrics.accuracy_score(*given, **weighed)),
        row("macro_precision", "macro_precision", counts, macro_p),
        row("macro_recall", "macro_recall", counts, macro_r),
        macro_f1(counts, signature, macro_f),
        *(
            row(f"micro_{name}", "ratio", hits, value, same)
            for name, value in zip(("precision", "recall", "f1"), found["micro"], strict=False)
        ),
        row("mcc", "mcc", counts, metrics.matthews_corrcoef(*given, **weighed) if varied else 0.0),
    ]
    return rows + _probability_rows(answers, per_row, signature)


def _probability_rows(answers: Answers, per_row: np.ndarray, signature: str) -> list[Row]:
    rows = []
    if answers.confidences is not None:
        about = f"{signature}|bins={BINS} of equal width|confidence of the chosen class"
        bins = _bins(answers)
        rows.append(make_row("ece", bins, unit="fraction", finish="ece", signature=about))
    if answers.nll is not None:
        nats = np.stack([(answers.nll * answers.weights).sum(1), per_row], 1)
        rows.append(make_row("loss", nats, unit="nats/target", finish="ratio", signature=signature))
    return rows


def _bins(answers: Answers) -> np.ndarray:
    """Of every row its answers, their confidences and hits in each bin, [N, 3 BINS]; bin m holds (m / BINS, (m + 1) / BINS]."""
    bins = np.ceil(np.asarray(answers.confidences, np.float64) * BINS).astype(int) - 1
    bins = np.clip(bins, 0, BINS - 1)
    places = (bins + BINS * np.arange(len(bins))[:, None]).ravel()
    weights = answers.weights
    hits = weights * (answers.predictions == answers.targets)
    found = [
        np.bincount(places, values.ravel(), minlength=len(bins) * BINS).reshape(-1, BINS)
        for values in (weights, weights * answers.confidences, hits)
    ]
    return np.concatenate(found, 1)


def tables(answers: Answers, labels: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """`classes` (None where nothing is to be divided by), `confusion`, and `calibration` where confidences are known."""
    counts = class_counts(answers.predictions, answers.targets, answers.weights, len(labels))
    classes = class_lines(counts.sum(0), labels)
    size = len(labels)
    pairs = (answers.targets * size + answers.predictions).ravel()
    table = np.bincount(pairs, answers.weights.ravel(), minlength=size**2).reshape(size, size)
    confusion = [
        {"true": label}
        | {f"predicted {name}": value for name, value in zip(labels, line.tolist(), strict=True)}
        for label, line in zip(labels, table, strict=True)
    ]
    found = {"classes": classes, "confusion": confusion}
    if answers.confidences is not None:
        parts = _bins(answers).sum(0).reshape(3, BINS).T.tolist()
        found["calibration"] = [
            {
                "above": number / BINS,
                "up_to": (number + 1) / BINS,
                "answers": count,
                "confidence": sure / count if count else None,
                "accuracy": right / count if count else None,
            }
            for number, (count, sure, right) in enumerate(parts)
        ]
    return found


def class_lines(counts: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """A line for each label; None where nothing is to be divided by.

    Args:
      counts: how often each label was hit, then predicted, then true, float64 [3 C].
    """
    hits, predicted, true = np.split(counts, 3)
    columns = {
        "precision": divide(hits, predicted, np.nan),
        "recall": divide(hits, true, np.nan),
        "f1": divide(2 * hits, predicted + true, np.nan),
        "predicted": predicted,
        "true": true,
    }
    return [
        {"class": label} | {name: _known(values[number]) for name, values in columns.items()}
        for number, label in enumerate(labels)
    ]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
