"""Scores of classes: scikit-learn's on a baseline's predictions, by hand on four; no order, padding or batch moves one."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from real_predictions import sections, values
from sklearn import metrics

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import TaskInfo
from jaxlm.eval import bootstrap, classification
from jaxlm.eval.classification import Classification
from jaxlm.eval.finish import FINISH

INFO = TaskInfo(9, {}, labels=("a", "b", "c"))


def test_scores_are_those_of_scikit_learn():
    predictions, references, confidences = sections()
    found = values(classification.rows(predictions, references, confidences))
    assert 0.2 < found["accuracy"] < 0.9  # a baseline that is neither perfect nor lost
    for average in ("macro", "micro"):
        expected = metrics.precision_recall_fscore_support(
            references, predictions, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert found[f"{average}_{name}"] == pytest.approx(value, rel=1e-12)
    assert found["accuracy"] == metrics.accuracy_score(references, predictions)
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(references, predictions))
    assert not set(references) >= set(predictions) or not set(predictions) >= set(references)


def test_tables_are_those_of_scikit_learn():
    predictions, references, confidences = sections()
    answers, labels = classification.answers_of(predictions, references, confidences)
    tables = classification.tables(answers, labels)
    matrix = metrics.confusion_matrix(references, predictions, labels=labels)
    shown = [[row[f"predicted {label}"] for label in labels] for row in tables["confusion"]]
    np.testing.assert_array_equal(shown, matrix)
    report = metrics.classification_report(
        references, predictions, output_dict=True, zero_division=np.nan
    )
    for row in tables["classes"]:
        expected = report[row["class"]]
        assert row["true"] == expected["support"]
        for name in ("precision", "recall"):
            value = math.nan if row[name] is None else row[name]
            assert value == pytest.approx(expected[name], nan_ok=True)


def test_calibration_by_hand():
    """Of 15 bins: 0.95 and 0.99 share the last one, one of them right; 0.5 and 0.52 the eighth, both right."""
    rows = classification.rows("aabb", "abbb", [0.95, 0.99, 0.5, 0.52])
    found = values(rows)
    assert found["ece"] == pytest.approx((abs(1.94 - 1) + abs(1.02 - 2)) / 4)
    answers, labels = classification.answers_of("aabb", "abbb", [0.95, 0.99, 0.5, 0.52])
    bins = classification.tables(answers, labels)["calibration"]
    assert [row["answers"] for row in bins] == [0] * 7 + [2] + [0] * 6 + [2]
    assert bins[7]["accuracy"] == 1 and bins[14]["confidence"] == pytest.approx(0.97)
    assert bins[0]["accuracy"] is None
    # on a border a probability belongs to the bin that it ends
    answers, _ = classification.answers_of("a", "a", [1 / 15])
    assert classification._bins(answers)[0, :2].tolist() == [1, 0]


def batches(predictions, targets, weights, size):
    """Of a split; the last batch is filled up."""
    for first in range(0, len(targets), size):
        part = slice(first, first + size)
        fill = ((0, size - len(targets[part])), (0, 0))
        yield {
            "predictions": np.pad(predictions[part], fill),
            "targets": np.pad(targets[part], fill),
            "weights": np.pad(weights[part], fill),
            "id": np.pad(np.arange(len(targets))[part], fill[0], constant_values=-1),
        }


def predict(batch):
    confidences = 0.3 + 0.2 * batch["predictions"]
    return {
        "predictions": batch["predictions"],
        "confidences": confidences,
        "nll": confidences * (1 + batch["targets"]),
    }


def test_no_order_padding_or_batch_size_moves_a_score():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, (23, 4))
    predictions = np.where(rng.random((23, 4)) < 0.6, targets, rng.integers(0, 3, (23, 4)))
    weights = (rng.random((23, 4)) < 0.7).astype(np.float32)
    weights[5] = 0  # an example without a target
    evaluator = Classification(INFO, 4, "classification")
    whole = evaluator.run(predict, batches(predictions, targets, weights, 23))
    order = rng.permutation(23)
    other = evaluator.run(predict, batches(predictions[order], targets[order], weights[order], 5))
    for one, two in zip(whole.rows, other.rows, strict=True):
        assert (one.value, one.stderr) == pytest.approx((two.value, two.stderr), rel=1e-12)
        assert one.signature == two.signature
    assert whole.tables["confusion"] == other.tables["confusion"]
    assert len(whole.examples) == 22 and whole.examples[5]["id"] == 6
    used = weights > 0
    expected = metrics.f1_score(targets[used], predictions[used], average="macro")
    assert values(whole.rows)["macro_f1"] == pytest.approx(expected)
    first = whole.examples[0]
    names = ["abc"[number] for number in predictions[0][weights[0] > 0]]
    assert first["prediction"] == " ".join(names)
    right = (predictions[0] == targets[0])[weights[0] > 0]
    assert first["score"] == right.mean()


def test_every_row_can_be_resampled():
    predictions, references, confidences = sections()
    for row in classification.rows(predictions, references, confidences):
        assert row.value == pytest.approx(FINISH[row.finish](row.statistics.sum(0)))
        assert row.stderr > 0 and "rows=60" in row.signature
        if (
            row.name != "macro_f1"
        ):  # linear in rare classes, which a resample may lack: test_accuracy
            drawn = bootstrap.stderr(row.statistics, row.finish)
            assert row.stderr == pytest.approx(drawn, rel=0.15)


def test_outputs_of_a_model():
    logits = jnp.log(jnp.array([[[0.1, 0.7, 0.2]], [[0.25, 0.25, 0.5]]]))
    output = NeuralOutput(logits, jnp.eye(3), {}, vocab_size=3)
    evaluator = Classification(INFO, 4, "classification")
    found = evaluator.outputs(output, {"targets": jnp.array([[1], [0]])})
    assert found["predictions"].tolist() == [[1], [2]]
    np.testing.assert_allclose(found["confidences"], [[0.7], [0.5]], rtol=1e-6)
    np.testing.assert_allclose(found["nll"], -np.log([[0.7], [0.25]]), rtol=1e-6)


def test_edges():
    one = values(classification.rows(["a"], ["b"]))
    assert one["accuracy"] == one["macro_f1"] == one["mcc"] == 0
    assert math.isnan(classification.rows(["a"], ["b"])[0].stderr)
    assert values(classification.rows("aa", "aa"))["mcc"] == 0  # nothing varies: scikit-learn's 0
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        classification.rows(["a", "b"], ["a"])
    with pytest.raises(ValueError, match='"classification" scores classes, and this data has none'):
        Classification(TaskInfo(9, {}), 4, "causal_lm")
    evaluator = Classification(INFO, 4, "classification")
    nothing = batches(np.zeros((2, 1), int), np.zeros((2, 1), int), np.zeros((2, 1)), 2)
    with pytest.raises(ValueError, match="no target to score"):
        evaluator.run(predict, nothing)
