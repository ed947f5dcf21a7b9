"""Accuracy, the majority answer and macro F1 by hand; a standard error against the bootstrap."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import TaskInfo
from jaxlm.eval import bootstrap
from jaxlm.eval.accuracy import Accuracy, class_counts, macro_f1

LABELS = TaskInfo(100, {}, labels=("admin", "games", "libs"))


def values(scores):
    return {row.name: row for row in scores.rows}


def run(info, batches):
    """Scores where the predictions and nll are in the batch itself."""

    def predict(batch):
        return {
            "correct": (batch["predictions"] == batch["targets"]).astype(np.float32),
            "predictions": batch["predictions"],
            "confidences": np.full(batch["nll"].shape, 0.5),
            "nll": batch["nll"],
        }

    return values(Accuracy(info, 8, "classification").run(predict, batches))


def make_batch(predictions, targets, weights=None):
    targets = np.asarray(targets)[:, None]
    weights = np.ones(len(targets)) if weights is None else np.asarray(weights, np.float32)
    return {
        "predictions": np.asarray(predictions)[:, None],
        "targets": targets,
        "weights": weights[:, None],
        "nll": np.full(targets.shape, 0.5),
    }


def test_scores_by_hand():
    # classes:              0 right   1 for 0   2 right   2 right   filling
    batches = [
        make_batch([0, 1, 2], [0, 0, 2]),
        make_batch([2, 1, 1], [2, 1, 0], [1, 1, 0]),
    ]
    rows = run(LABELS, batches)
    assert rows["accuracy"].value == 4 / 5
    assert rows["accuracy"].stderr == pytest.approx(np.std([1, 0, 1, 1, 1], ddof=1) / math.sqrt(5))
    assert rows["majority"].value == 2 / 5  # 0 and 2 are there twice each: the lower one is taken
    assert "this split's most frequent target, 0" in rows["majority"].signature
    # F1: class 0 one of (1 predicted + 2 true), class 1 one of (2 + 1), class 2 two of (2 + 2)
    assert rows["macro_f1"].value == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert rows["loss"].value == 0.5 and rows["loss"].unit == "nats/target"
    assert "targets=5|rows=5" in rows["accuracy"].signature
    assert rows["accuracy"].higher_is_better and not rows["loss"].higher_is_better


def test_a_class_that_is_nowhere_is_left_out_of_macro_f1():
    rows = run(LABELS, [make_batch([0, 2, 0], [0, 2, 2])])
    assert rows["macro_f1"].value == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert "classes=2 of 3" in rows["macro_f1"].signature


def test_the_error_of_macro_f1_is_that_of_a_bootstrap_over_rows():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, (400, 3))
    predictions = np.where(rng.random((400, 3)) < 0.7, targets, rng.integers(0, 4, (400, 3)))
    weights = (rng.random((400, 3)) < 0.8).astype(float)
    counts = class_counts(predictions, targets, weights, 4)
    error = macro_f1(counts, "").stderr
    again = [rng.integers(0, 400, 400) for _ in range(500)]
    drawn = [macro_f1(counts[rows], "").value for rows in again]
    assert error == pytest.approx(np.std(drawn, ddof=1), rel=0.1)
    assert error == pytest.approx(bootstrap.stderr(counts, "macro_f1"), rel=0.1)


def test_outputs_of_a_model_and_text_without_classes():
    logits = jnp.array([[[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]])
    output = NeuralOutput(logits, jnp.eye(3), {}, vocab_size=3)
    batch = {"targets": jnp.array([[1, 2]]), "weights": jnp.ones((1, 2))}
    classes = Accuracy(LABELS, 2, "classification").outputs(output, batch)
    np.testing.assert_array_equal(classes["correct"], [[1, 0]])
    np.testing.assert_array_equal(classes["predictions"], [[1, 0]])
    text = Accuracy(TaskInfo(3, {}), 2, "masked_lm")
    outputs = text.outputs(output, batch)
    assert set(outputs) == {"correct"}  # no logits of a whole vocabulary
    rows = values(text.run(lambda batch: outputs, [batch]))
    assert set(rows) == {"accuracy", "majority"} and rows["accuracy"].value == 0.5
    assert math.isnan(rows["accuracy"].stderr)


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no target to score"):
        run(LABELS, [make_batch([0], [0], [0])])


def test_places_of_weight_zero_in_a_row_count_for_nothing():
    batch = {
        "predictions": np.array([[0, 1, 2], [2, 2, 2]]),
        "targets": np.array([[0, 0, 2], [2, 1, 2]]),
        "weights": np.array([[1.0, 1, 0], [1, 0, 0]]),
        "nll": np.array([[1.0, 2, 50], [3, 50, 50]]),
    }
    rows = run(LABELS, [batch])
    assert rows["accuracy"].value == 2 / 3
    assert rows["loss"].value == 2.0
    assert rows["majority"].value == 2 / 3


def test_macro_f1_is_that_of_scikit_learn():
    """With a class that is only predicted, and one that nobody has."""
    rng = np.random.default_rng(1)
    targets, predictions = rng.integers(0, 5, (50, 1)), rng.integers(0, 6, (50, 1))
    counts = class_counts(predictions, targets, np.ones((50, 1)), 7)
    row = macro_f1(counts, "")
    expected = metrics.f1_score(targets[:, 0], predictions[:, 0], average="macro", zero_division=0)
    assert row.value == pytest.approx(expected) and row.signature == "|classes=6 of 7"
    np.testing.assert_array_equal(counts.sum(0)[14:], np.bincount(targets[:, 0], minlength=7))
