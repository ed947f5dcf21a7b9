"""Loss, perplexity, bits per byte: a uniform model gives exactly V; standard errors by hand."""

import math

import numpy as np
import pytest

from jaxlm.core.types import TaskInfo
from jaxlm.eval.metric import ratio
from jaxlm.eval.perplexity import Perplexity


class Bytes:
    name = "two-byte letters"

    def token_bytes(self):
        return np.full(8, 2)


def batches(weights):
    weights = np.asarray(weights, np.float32)
    yield {"targets": np.zeros(weights.shape, np.int32), "weights": weights}


def values(scores):
    return {row.name: row for row in scores.rows}


def test_a_uniform_model_has_perplexity_v():
    evaluator = Perplexity(TaskInfo(8, {}, Bytes()), 4, "causal_lm")
    rows = values(
        evaluator.run(
            lambda batch: {"nll": np.full(batch["weights"].shape, math.log(8))},
            batches([[1, 1, 1, 1], [1, 1, 0, 0]]),
        )
    )
    assert rows["perplexity"].value == pytest.approx(8, rel=1e-12)
    assert rows["loss"].stderr == pytest.approx(0, abs=1e-12)
    assert rows["bits_per_byte"].value == pytest.approx(3 / 2)  # 3 bits for two bytes
    assert "windows=4|stride=4" in rows["loss"].signature and "tokens=6" in rows["loss"].signature
    assert (
        rows["bits_per_byte"].unit == "bits/byte" and "bytes=12" in rows["bits_per_byte"].signature
    )


def test_ragged_batches_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    nll = rng.random((5, 7))
    weights = (rng.random((5, 7)) < 0.6).astype(np.float32)
    evaluator = Perplexity(TaskInfo(8, {}, Bytes()), 7, "causal_lm")
    parts = [slice(0, 2), slice(2, 4), slice(4, 5)]
    data = [
        {"targets": np.zeros_like(nll[p], int), "weights": weights[p], "nll": nll[p]} for p in parts
    ]
    rows = values(evaluator.run(lambda batch: {"nll": batch["nll"]}, data))
    total = sum(nll[i, j] * weights[i, j] for i in range(5) for j in range(7))
    assert rows["loss"].value == pytest.approx(total / weights.sum(), rel=1e-12)
    assert rows["bits_per_byte"].value == pytest.approx(total / math.log(2) / (2 * weights.sum()))


def test_filling_rows_count_for_nothing():
    evaluator = Perplexity(TaskInfo(8, {}, Bytes()), 2, "causal_lm")
    some = [[1, 1], [1, 1]]
    filled = [*some, [0, 0]]
    left, right = (
        values(
            evaluator.run(
                lambda b: {"nll": np.arange(b["weights"].size).reshape(b["weights"].shape)},
                batches(w),
            )
        )
        for w in (some, filled)
    )
    assert left["loss"] == right["loss"]


def test_standard_error_is_that_of_a_mean_where_windows_are_equal():
    means = np.array([1.0, 2.0, 4.0, 5.0])
    value, error = ratio(means * 10, np.full(4, 10.0))
    assert value == 3.0
    assert error == pytest.approx(np.std(means, ddof=1) / 2)
    assert math.isnan(ratio(np.ones(1), np.ones(1))[1])


def test_nothing_to_score_is_an_error():
    evaluator = Perplexity(TaskInfo(8, {}, Bytes()), 2, "causal_lm")
    with pytest.raises(ValueError, match="no token to score"):
        evaluator.run(lambda batch: {"nll": batch["weights"]}, batches([[0, 0]]))


@pytest.mark.parametrize(
    ("objective", "extra", "expected"),
    [
        ("masked_lm", {}, "objective=masked_lm|length=4"),
        ("causal_lm", {"segment_ids": np.ones((2, 4))}, "documents, packed in windows=4"),
        ("causal_lm", {"weights": np.eye(4)[2:]}, "parts of windows=4"),
        ("multi_token", {}, "windows=4|stride=4"),  # its next token is any model's
    ],
)
def test_the_signature_names_what_was_scored(objective, extra, expected):
    evaluator = Perplexity(TaskInfo(8, {}, Bytes()), 4, objective)
    batch = {"targets": np.zeros((2, 4), int), "weights": np.ones((2, 4))} | extra
    scores = evaluator.run(lambda batch: {"nll": batch["weights"]}, [batch])
    for row in scores.rows:
        assert row.signature.startswith(f"{expected}|tokenizer=two-byte letters")


def test_texts_with_rows_of_their_own_are_no_windows():
    info = TaskInfo(8, {}, Bytes(), whole_texts=True)
    for objective, bound in (("causal_lm", ""), ("elbo", "|bound=elbo")):
        scores = Perplexity(info, 4, objective).run(
            lambda batch: {"nll": batch["weights"]}, batches([[1, 1, 0, 0]])
        )
        expected = f"texts<=4 tokens|tokenizer=two-byte letters{bound}"
        assert all(row.signature.startswith(expected) for row in scores.rows)


def test_classes_are_no_text():
    with pytest.raises(ValueError, match=r'evaluators.*set evaluators to \("accuracy",\)'):
        Perplexity(TaskInfo(8, {}, Bytes(), labels=("a", "b")), 4, "classification")
