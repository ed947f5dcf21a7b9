"""Choices, answers in texts, sets of labels and scores: by hand, and as scikit-learn, scipy and SQuAD count them."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from jaxlm.core.types import TaskInfo
from jaxlm.data.tasks.answer_spans import Window
from jaxlm.data.tokenizers import BytesTokenizer
from jaxlm.eval import bootstrap, multi_label, regression, spans
from jaxlm.eval.choices import Choices
from jaxlm.eval.classification import class_lines
from jaxlm.eval.finish import FINISH
from jaxlm.eval.multi_label import MultiLabel
from jaxlm.eval.perplexity import Perplexity
from jaxlm.eval.regression import Regression
from jaxlm.eval.spans import AnsweredSpans, Spans

INFO = TaskInfo(257, {}, BytesTokenizer(), num_outputs=1)


def values(rows):
    return {row.name: row.value for row in rows}


def objects(*entries):
    column = np.empty(len(entries), object)
    column[:] = entries
    return column


def tokens(*texts):
    rows = [list(text.encode()) for text in texts]
    size = max(map(len, rows))
    return np.array([row + [0] * (size - len(row)) for row in rows])


# --- choices -------------------------------------------------------------------------------------------------------


def test_choices_by_hand():
    batch = {
        "id": np.array([0, 1, 2, -1]),
        "starts": np.array([[0, 1, -1], [0, 1, 2], [0, 1, -1], [0, 0, 0]]),
        "targets": np.array([[1], [2], [0], [0]]),
        "weights": np.float32([[1], [1], [1], [0]]),
        "input": objects("q", "r", "s", ""),
        "reference": objects("b", "c", "a", ""),
        "raw": objects(("a", "b"), ("a", "b", "c"), ("a", "b"), ""),
    }
    logits = np.log([[1, 3, 1e-9], [2, 1, 1], [1, 1, 1e-9], [1, 1, 1]])
    scores = Choices(INFO, 8, "choice").run(lambda batch: {"logits": logits}, [batch])
    found = values(scores.rows)
    assert found["accuracy"] == pytest.approx(
        2 / 3
    )  # of the equal scores of the last the first one counts
    assert found["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert found["loss"] == pytest.approx(-np.log([3 / 4, 1 / 4, 1 / 2]).mean(), rel=1e-5)
    assert [one["prediction"] for one in scores.examples] == ["b", "a", "a"]
    assert scores.examples[0]["input"] == "q\n- a\n- b"
    assert scores.examples[0]["probability"] == pytest.approx(3 / 4)
    assert [one["score"] for one in scores.examples] == [1, 0, 1]


# --- answers in texts ----------------------------------------------------------------------------------------------


def test_the_best_span_of_a_window():
    """Places 0 [CLS], 1 a question's, 2 to 5 the text: the best sum whose end is not before its beginning."""
    allowed = np.array([1, 0, 1, 1, 1, 1])
    offsets = np.array([[0, 0], [0, 0], [3, 5], [5, 6], [7, 9], [9, 12]])
    begin = np.array([1.0, 99, 0, 0, 5, 2])
    end = np.array([2.0, 99, 9, 4, 3, 1])
    # 5 + 9 would end before it begins; 0 + 9 at place 2, 5 + 3 at place 4
    assert spans.best_span(np.stack([begin, end]), allowed, offsets) == (9, 3, 5, 3)
    end[2] = 4
    assert spans.best_span(np.stack([begin, end]), allowed, offsets) == (8, 7, 9, 3)
    nothing = spans.best_span(np.stack([begin, end]), np.array([1, 0, 0, 0, 0, 0]), offsets)
    assert nothing.score == -np.inf and nothing.none == 3


def test_answers_are_not_longer_than_the_longest(monkeypatch):
    monkeypatch.setattr(spans, "LONGEST", 2)
    logits = np.array([[0.0, 9, 0, 0], [0.0, 0, 1, 9]])
    offsets = np.array([[0, 0], [0, 1], [1, 2], [2, 3]])
    assert spans.best_span(logits, np.ones(4), offsets)[:3] == (10, 0, 2)


def windows():
    """Question 0 in two windows of "the cat sat"; question 1 has no answer in "a dog"."""
    first = Window("the cat sat", np.array([[0, 0], [0, 3], [4, 7]]))
    second = Window("the cat sat", np.array([[0, 0], [4, 7], [8, 11]]))
    third = Window("a dog", np.array([[0, 0], [0, 1], [2, 5]]))
    batch = {
        "id": np.array([0, 0, 1, -1]),
        "allowed": np.array([[1, 1, 1]] * 3 + [[0, 0, 0]]),
        "weights": np.ones((4, 2)),
        "input": objects("who?", "who?", "what?", ""),
        "reference": objects(["The cat.", "cat sat"], ["The cat.", "cat sat"], [], ""),
        "raw": objects(first, second, third, ""),
    }
    logits = np.array(
        [
            [[5.0, 4, 0], [5, 0, 4]],  # 8 of "the cat", none 10
            [[1.0, 3, 0], [1, 0, 3]],  # 6 of "cat sat", none 2
            [[2.0, 0, 1], [2, 0, 1]],  # 2 of "dog", none 4
            [[0.0, 0, 0], [0, 0, 0]],
        ]
    )
    return batch, logits


def test_answers_over_windows():
    """The best span of all windows, against the lowest [CLS] of them."""
    batch, logits = windows()
    scores = Spans(INFO, 3, "span").run(lambda batch: {"logits": logits}, [batch])
    assert values(scores.rows) == {
        "exact_match": 1.0,  # articles and punctuation do not count
        "f1": 1.0,
        "answerable_f1": 1.0,
        "no_answer_accuracy": 1.0,
    }
    first, second = scores.examples
    assert (first["prediction"], first["start"], first["end"]) == ("the cat", 0, 7)
    assert (second["prediction"], second["start"]) == ("", None)
    assert first["reference"] == ["The cat.", "cat sat"] and first["score"] == 1
    always = AnsweredSpans(INFO, 3, "span").run(lambda batch: {"logits": logits}, [batch])
    assert [one["prediction"] for one in always.examples] == ["the cat", "dog"]
    assert values(always.rows)["no_answer_accuracy"] == 0.0 and values(always.rows)["f1"] == 0.5
    assert "no answer=never" in always.rows[0].signature


# --- sets of labels ------------------------------------------------------------------------------------------------


def test_sets_of_labels_are_scikit_learns():
    rng = np.random.default_rng(0)
    true, predicted = rng.random((40, 6)) < 0.3, rng.random((40, 6)) < 0.4
    true[:, 5] = predicted[:, 5] = False  # a label that is nowhere is left out
    nll = rng.random((40, 6))
    found = values(multi_label.rows(predicted, true, nll))
    for average in ("micro", "macro"):
        expected = metrics.f1_score(true[:, :5], predicted[:, :5], average=average)
        assert found[f"{average}_f1"] == pytest.approx(expected, rel=1e-12)
    assert found["subset_accuracy"] == metrics.accuracy_score(true, predicted)
    assert found["loss"] == pytest.approx(nll.mean())
    table = class_lines(multi_label.label_counts(predicted, true).sum(0), "abcdef")
    assert table[5] == {
        "class": "f", "precision": None, "recall": None, "f1": None, "predicted": 0, "true": 0,
    }  # fmt: skip
    assert table[1]["precision"] == metrics.precision_score(true[:, 1], predicted[:, 1])


def test_an_evaluation_of_sets_of_labels():
    batch = {
        "id": np.array([3, 4, -1]),
        "tokens": tokens("ab", "c", ""),
        "targets": np.float32([[1, 0], [0, 0], [0, 0]]),
        "weights": np.float32([[1, 1], [1, 1], [0, 0]]),
    }
    logits = np.array([[2.0, 1.0], [-1.0, -2.0], [5.0, 5.0]])
    info = TaskInfo(257, {}, BytesTokenizer(), labels=("x", "y"))
    evaluator = MultiLabel(info, 2, "multi_label")
    scores = evaluator.run(lambda batch: {"logits": logits, "nll": np.ones((3, 2))}, [batch])
    assert values(scores.rows)["subset_accuracy"] == 0.5
    assert values(scores.rows)["micro_f1"] == pytest.approx(2 / 3)
    assert [(one["prediction"], one["reference"], one["score"]) for one in scores.examples] == [
        (["x", "y"], ["x"], 0.5),
        ([], [], 1.0),
    ]
    none = multi_label.rows(np.zeros((2, 2), bool), np.zeros((2, 2), bool), np.ones((2, 2)))
    assert values(none)["micro_f1"] == values(none)["macro_f1"] == 0.0


# --- scores --------------------------------------------------------------------------------------------------------


def test_correlations_are_scipys_and_errors_the_bootstraps():
    rng = np.random.default_rng(1)
    true = rng.normal(1000, 2, 60)  # far from 0, where sums of squares lose their digits
    predicted = true + rng.normal(0, 3, 60)
    rows = {row.name: row for row in regression.rows(predicted, true)}
    assert rows["pearson"].value == pytest.approx(stats.pearsonr(predicted, true).statistic)
    assert rows["spearman"].value == pytest.approx(stats.spearmanr(predicted, true).statistic)
    assert rows["mse"].value == pytest.approx(np.square(predicted - true).mean())
    assert rows["mae"].value == pytest.approx(np.abs(predicted - true).mean())
    drawn = bootstrap.stderr(rows["pearson"].statistics, "pearson", seed=7)
    assert rows["pearson"].stderr == pytest.approx(drawn, rel=0.15)
    assert drawn == pytest.approx((1 - rows["pearson"].value ** 2) / 60**0.5, rel=0.3)  # Fisher's
    assert not rows["mse"].higher_is_better and rows["pearson"].higher_is_better


def test_a_correlation_of_sums_by_hand():
    """x 1, 2, 4 and y 1, 3, 2: not centred, as sums over a resample are not."""
    x, y = np.array([1.0, 2, 4]), np.array([1.0, 3, 2])
    sums = np.stack([np.ones(3), x, y, x**2, y**2, x * y], 1).sum(0)
    assert FINISH["pearson"](sums) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert FINISH["pearson"](np.array([2.0, 2, 4, 2, 10, 4])) == 0.0


def test_what_never_varies_goes_with_nothing():
    found = values(regression.rows(np.zeros(3), np.array([1.0, 2.0, 3.0])))
    assert found["pearson"] == found["spearman"] == 0.0 and found["mae"] == 2.0


def test_scores_are_in_the_datas_own_numbers():
    info = TaskInfo(257, {}, BytesTokenizer(), num_outputs=1, scale=(50.0, 10.0))
    batch = {
        "id": np.array([0, 1, -1]),
        "tokens": tokens("a", "b", ""),
        "targets": np.float32([[1], [-1], [0]]),
        "weights": np.float32([[1], [1], [0]]),
    }
    scores = Regression(info, 1, "regression").run(
        lambda batch: {"predictions": np.float32([[0.5], [-1], [9]])}, [batch]
    )
    assert values(scores.rows)["mse"] == pytest.approx(12.5)
    assert scores.examples[0] == {
        "id": 0, "input": "a", "prediction": 55.0, "reference": 60.0, "score": -5.0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [Choices, Spans, MultiLabel, Regression])
def test_other_objectives_are_refused(kind):
    with pytest.raises(ValueError, match='evaluators: ".*" scores data.kind=.*"classification"'):
        kind(INFO, 8, "classification")


def test_perplexity_is_of_texts():
    with pytest.raises(ValueError, match='"perplexity" scores text, and the targets .* are none'):
        Perplexity(INFO, 8, "span")
