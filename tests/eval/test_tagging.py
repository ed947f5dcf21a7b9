"""Entities: seqeval's scores on a baseline's tags, two ways of counting by hand, sentences put together from rows."""

import numpy as np
import pytest
from real_predictions import tags, values
from seqeval import metrics
from seqeval.scheme import IOB2, IOBES

from jaxlm.core.types import TaskInfo
from jaxlm.eval import tagging
from jaxlm.eval.finish import FINISH
from jaxlm.eval.tagging import Tagging

LABELS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


def test_scores_are_those_of_seqeval():
    predictions, references = tags()
    found = values(tagging.rows(predictions, references))
    for name in ("f1", "precision", "recall"):
        score = getattr(metrics, f"{name}_score")
        assert found[f"entity_{name}"] == score(references, predictions)
        strict = score(references, predictions, mode="strict", scheme=IOB2)
        assert found[f"strict_{name}"] == strict
    assert found["entity_macro_f1"] == metrics.f1_score(references, predictions, average="macro")
    assert found["token_accuracy"] == metrics.accuracy_score(references, predictions)
    assert found["strict_f1"] != found["entity_f1"]  # the baseline has I- without B-
    assert 0.5 < found["entity_f1"] < 0.9


def test_types_are_those_of_seqeval():
    predictions, references = tags()
    report = metrics.classification_report(references, predictions, output_dict=True)
    table = tagging.tables(predictions, references)["types"]
    assert {row["type"] for row in table} == {"LOC", "ORG", "PER"}
    for row in table:
        expected = report[row["type"]]
        assert row["true"] == expected["support"]
        assert row["f1"] == pytest.approx(expected["f1-score"])
        assert (row["recall"] or 0) == pytest.approx(expected["recall"])


def test_two_ways_of_counting_by_hand():
    """An I- that begins an entity is one for conlleval, and none strictly."""
    references = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    predictions = [["I-PER", "I-PER", "O"], ["B-LOC", "B-LOC"]]
    rows = {row.name: row for row in tagging.rows(predictions, references)}
    assert rows["entity_precision"].value == 2 / 3 and rows["entity_recall"].value == 1
    assert rows["entity_f1"].value == pytest.approx(0.8)
    assert rows["strict_precision"].value == 1 / 2 and rows["strict_recall"].value == 1 / 2
    assert rows["token_accuracy"].value == 3 / 5
    assert "mode=default (conlleval)|scheme=any" in rows["entity_f1"].signature
    assert "mode=strict|scheme=IOB2" in rows["strict_f1"].signature
    np.testing.assert_array_equal(rows["strict_f1"].statistics, [[0, 0, 1], [1, 2, 1]])


def test_the_scheme_is_that_of_the_tags():
    ends = [["B-PER", "E-PER", "S-LOC", "O"]]
    wrong = [["B-PER", "E-PER", "B-LOC", "O"]]  # an entity that never ends is none, strictly
    rows = {row.name: row for row in tagging.rows(wrong, ends)}
    assert "scheme=IOBES" in rows["strict_f1"].signature
    expected = metrics.f1_score(ends, wrong, mode="strict", scheme=IOBES)
    assert rows["strict_f1"].value == expected == pytest.approx(2 / 3)
    assert tagging.scheme_of({"O"}) == "IOB2"
    with pytest.raises(ValueError, match=r"tags NN, VB: .*\(schemes IOB2, IOBES\)"):
        tagging.scheme_of({"NN", "VB"})


class Words:
    name = "words"

    def special_ids(self):
        return {"[CLS]": 0}

    def decode(self, ids):
        return " ".join(map(str, ids))


def batches(predictions, references, size):
    """[CLS] and words, some of them of two pieces: tags stand at first pieces."""
    numbers = {label: number for number, label in enumerate(LABELS)}
    width = 2 + 2 * max(map(len, references))
    for first in range(0, len(references), size):
        names = ("tokens", "segment_ids", "targets", "predictions")
        batch = {name: np.zeros((size, width), np.int32) for name in names}
        batch |= {"weights": np.zeros((size, width), np.float32), "id": np.full(size, -1)}
        for row, number in enumerate(range(first, min(first + size, len(references)))):
            place = 1
            for wanted, found in zip(references[number], predictions[number], strict=True):
                batch["targets"][row, place] = numbers[wanted]
                batch["predictions"][row, place] = numbers[found]
                batch["weights"][row, place] = 1
                place += 1 + place % 2
            batch["tokens"][row, 1:place] = 7
            batch["segment_ids"][row, :place] = 1
            batch["id"][row] = number
        yield batch


def test_sentences_of_rows_score_as_they_are_in_any_order_and_batch():
    known = set(LABELS)
    pairs = [
        [["O" if tag not in known else tag for tag in sentence] for sentence in side][:40]
        for side in tags()
    ]
    evaluator = Tagging(TaskInfo(9, {}, Words(), labels=LABELS), 8, "classification")
    scores = evaluator.run(lambda batch: {"predictions": batch["predictions"]}, batches(*pairs, 16))
    expected = values(tagging.rows(*pairs))
    assert values(scores.rows) == expected
    order = np.random.default_rng(0).permutation(40)
    mixed = [[side[number] for number in order] for side in pairs]
    again = evaluator.run(lambda batch: {"predictions": batch["predictions"]}, batches(*mixed, 7))
    assert values(again.rows) == pytest.approx(expected, rel=1e-12)
    errors = [(one.stderr, two.stderr) for one, two in zip(scores.rows, again.rows, strict=True)]
    assert errors == [(pytest.approx(two), two) for _, two in errors]
    assert scores.tables == again.tables
    example = scores.examples[3]
    assert example["reference"] == " ".join(pairs[1][3]) and example["input"].startswith("7 7")
    assert "|objective=classification|tokenizer=words" in scores.rows[0].signature


def test_statistics_finish_as_seqeval_says():
    for row in tagging.rows(*tags()):
        assert FINISH[row.finish](row.statistics.sum(0)) == pytest.approx(row.value, rel=1e-12)


def test_edges():
    nothing = values(tagging.rows([["O", "O"]], [["O", "O"]]))
    assert nothing == {
        "entity_f1": 0, "entity_precision": 0, "entity_recall": 0,
        "strict_f1": 0, "strict_precision": 0, "strict_recall": 0, "token_accuracy": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="as many predicted as true tags"):
        tagging.rows([["O"]], [["O", "O"]])
    with pytest.raises(ValueError, match="tags without entities are scored by classification"):
        Tagging(TaskInfo(9, {}, labels=("NN", "VB")), 8, "classification")
    with pytest.raises(ValueError, match='"tagging" scores tagged words'):
        Tagging(TaskInfo(9, {}), 8, "causal_lm")
