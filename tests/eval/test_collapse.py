"""How varied freely written texts are: a model that writes one text is told from one that writes many; what is asked of it."""

import numpy as np
import pytest

from jaxlm.core.types import TaskInfo
from jaxlm.data.tokenizers import CharsTokenizer
from jaxlm.eval import collapse, diversity

TOKENIZER = CharsTokenizer("abcdefgh ")
INFO = TaskInfo(TOKENIZER.vocab_size, {}, TOKENIZER)


def batches(rows=4, count=2):
    for number in range(count):
        ids = np.arange(rows) + rows * number
        tokens = np.stack([TOKENIZER.encode("abcdefg"[n % 7 :][:1] + " abc") for n in ids])
        yield {
            "tokens": tokens,
            "targets": tokens,
            "weights": np.ones(tokens.shape, np.float32),
            "id": np.where(ids < 7, ids, -1),
        }


def test_scores_are_those_of_the_texts_with_their_first_token():
    evaluator = collapse.Collapse(INFO, 5, "adversarial")
    written = [f" {n} words of {n * n}" for n in range(8)]

    def predict(batch):
        assert (batch["targets"] == TOKENIZER.eos_id).all() and batch["weights"].all()
        return {"texts": [written[n] if n >= 0 else "" for n in batch["id"]]}

    found = evaluator.run(predict, batches())
    texts = ["abcdefg"[n] + written[n] for n in range(7)]
    expected = diversity.rows(texts)
    assert [row.name for row in found.rows] == [row.name for row in expected]
    np.testing.assert_allclose(
        [row.value for row in found.rows], [row.value for row in expected], equal_nan=True
    )
    assert all("at most 3 more|tokenizer=chars" in row.signature for row in found.rows)
    assert [one["id"] for one in found.examples] == list(range(7))
    assert found.examples[2] == {"id": 2, "input": "c", "prediction": written[2]}


def test_a_collapsed_model_is_told_from_one_that_is_not():
    evaluator = collapse.Collapse(INFO, 5, "adversarial")

    def scored(write):
        found = evaluator.run(lambda b: {"texts": [write(n) for n in b["id"]]}, batches())
        return {row.name: row.value for row in found.rows}

    one = scored(lambda n: " the same words for all of them")
    many = scored(lambda n: "".join(f" {chr(97 + n)}{k}" for k in range(7)))
    assert one["self_bleu"] > 80 and many["self_bleu"] < 20
    assert many["distinct_2"] > 3 * one["distinct_2"]


def test_no_more_texts_than_are_needed(monkeypatch):
    monkeypatch.setattr(collapse, "NUM_TEXTS", 6)
    evaluator = collapse.Collapse(INFO, 5, "adversarial")
    found = list(evaluator.own(batches(count=3)))
    assert [batch["id"].tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, -1, -1]]


def test_data_without_texts_is_refused():
    with pytest.raises(ValueError, match='"collapse" is of texts'):
        collapse.Collapse(TaskInfo(5, {}), 5, "adversarial")
    with pytest.raises(ValueError, match="holds no text"):
        collapse.Collapse(INFO, 5, "adversarial").run(lambda batch: {"texts": []}, [])
