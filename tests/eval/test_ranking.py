"""Scores of rankings: by hand, against scikit-learn, and of vectors."""

import math

import numpy as np
import pytest

from jaxlm.core.types import TaskInfo
from jaxlm.eval import ranking
from jaxlm.eval.retrieval import Retrieval


def values(rows):
    return {row.name: row.value for row in rows}


def test_four_queries_by_hand():
    rows = ranking.rows(np.array([1, 3, 0, 21]), "by hand", "x_")
    assert values(rows) == pytest.approx(
        {
            "x_recall@1": 0.25,
            "x_recall@5": 0.5,
            "x_recall@20": 0.5,
            "x_mrr": (1 + 1 / 3 + 0 + 1 / 21) / 4,
            "x_ndcg@10": (1 + 1 / math.log2(4)) / 4,
        }
    )
    assert rows[0].signature == "by hand|queries=4" and rows[0].higher_is_better
    assert rows[0].stderr == pytest.approx(np.std([1, 0, 0, 0], ddof=1) / 2)


def test_ranks_of_lists():
    found = np.array([[4, 2, 7], [1, 0, -1], [5, 6, -1]])
    assert ranking.ranks(found, np.array([2, 1, 9])).tolist() == [2, 1, 0]
    np.testing.assert_allclose(ranking.reciprocal(np.array([2, 1, 0])), [0.5, 1, 0])


def test_ndcg_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    scores = np.random.default_rng(0).normal(size=(40, 30))
    right = np.arange(40) % 30
    found = np.argsort(-scores, axis=1)
    own = values(ranking.rows(ranking.ranks(found, right), ""))["ndcg@10"]
    relevant = np.eye(30)[right]
    assert own == pytest.approx(metrics.ndcg_score(relevant, scores, k=10))


def batch(ids, texts):
    anchors, positives = zip(*texts, strict=True)
    return {
        "id": np.array(ids),
        "input": np.array(anchors, object),
        "reference": np.array(positives, object),
    }


def scored(vectors, texts):
    """Two batches, the second with a row of filling."""
    evaluator = Retrieval(TaskInfo(8, {}), 8, "contrastive")
    parts = [
        (batch([0, 1], texts[:2]), vectors[:2]),
        (batch([2, -1], [texts[2], ("", "")]), np.concatenate([vectors[2:], vectors[:1]])),
    ]
    found = iter([one for _, one in parts])
    return evaluator.run(lambda _: {"vectors": next(found)}, [one for one, _ in parts])


def test_vectors_find_their_own_among_the_different_texts():
    x, y = [1.0, 0.0], [0.0, 1.0]
    # The second question's vector is nearer to the first one's answer; the third answer is the first one's.
    vectors = np.array([[x, x], [[0.8, 0.6], y], [y, x]])
    scores = scored(vectors, [("q1", "a"), ("q2", "b"), ("q3", "a")])
    assert values(scores.rows) == pytest.approx(
        {"recall@1": 1 / 3, "recall@5": 1, "recall@20": 1, "mrr": 2 / 3,
         "ndcg@10": (1 + 2 / math.log2(3)) / 3}
    )  # fmt: skip
    assert scores.rows[0].signature == "cosine of mean vectors|candidates=2|queries=3"
    assert scores.examples[1] == {
        "id": 1, "input": "q2", "prediction": "a", "reference": "b", "score": 0.5,
    }  # fmt: skip


def test_vectors_that_are_all_the_same_find_nothing():
    scores = scored(np.ones((3, 2, 2)), [("q1", "a"), ("q2", "b"), ("q3", "c")])
    assert values(scores.rows)["recall@1"] == 0
    assert values(scores.rows)["mrr"] == pytest.approx(1 / 3)


def test_a_text_does_not_find_itself():
    """The third anchor is the first one's positive, with the very same vector."""
    x, y = [1.0, 0.0], [0.0, 1.0]
    scores = scored(
        np.array([[x, x], [y, y], [x, [0.6, 0.8]]]), [("q", "a"), ("b", "b"), ("a", "c")]
    )
    assert values(scores.rows)["recall@1"] == 1 and scores.examples[2]["prediction"] == "c"
    assert scores.rows[0].signature.endswith(
        "candidates=3|own text left out of 1 queries|queries=3"
    )
    found = np.array([[2, 0, 1], [1, 0, 2], [0, 2, -1]])
    assert ranking.without(found, np.array([2, -1, 2])).tolist() == [
        [0, 1, -1],
        [1, 0, 2],
        [0, -1, -1],
    ]


def test_vectors_that_are_no_numbers_find_nothing():
    scores = scored(np.full((3, 2, 2), np.nan), [("q1", "a"), ("q2", "b"), ("q3", "c")])
    assert values(scores.rows)["mrr"] == 0 and scores.examples[0]["score"] == 0


def test_refuses_other_data_and_texts_that_belong_to_themselves():
    with pytest.raises(ValueError, match='"retrieval" scores texts that belong together'):
        Retrieval(TaskInfo(8, {}), 8, "classification")
    with pytest.raises(ValueError, match="each text belongs to itself"):
        scored(np.ones((3, 2, 2)), [("a", "a"), ("b", "b"), ("c", "c")])
