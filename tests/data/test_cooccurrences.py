"""Counts of words that stand together: against a loop over all pairs, and as rows that hold each of them once."""

import collections
import json

import numpy as np
import pytest

from jaxlm.data import cooccurrence
from jaxlm.data.tasks.cooccurrences import CooccurrencesConfig, CooccurrencesTask


def by_hand(documents, window):
    found = collections.Counter()
    for words in documents:
        for place, word in enumerate(words):
            for other in range(max(0, place - window), min(len(words), place + window + 1)):
                if other != place:
                    found[int(word), int(words[other])] += 1 / abs(place - other)
    return found


@pytest.mark.parametrize("chunk", [3, 1 << 18])
def test_counts_are_those_of_a_loop(monkeypatch, chunk):
    monkeypatch.setattr(cooccurrence, "_CHUNK", chunk)
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 5, size) for size in (9, 1, 14)]
    stream = np.concatenate(documents), np.repeat([1, 2, 3], [9, 1, 14])
    found = cooccurrence.count([stream], 5, 3)
    expected = by_hand(documents, 3)
    pairs = list(zip(found.words.tolist(), found.contexts.tolist(), strict=True))
    assert pairs == sorted(expected)
    np.testing.assert_allclose(found.counts, [expected[pair] for pair in pairs], rtol=1e-6)


def test_weighting_in_closed_form():
    """Equation 9: a count of 16 of 100 with alpha 1/2 weighs 0.4, all from 100 on weigh 1."""
    weights = cooccurrence.weighting(np.array([16.0, 100.0, 1000.0]), 100.0, 0.5)
    assert weights.tolist() == pytest.approx([0.4, 1.0, 1.0])


@pytest.fixture
def task(tmp_path):
    rng = np.random.default_rng(1)
    lines = [" ".join(f"w{n}" for n in rng.integers(0, 30, 20)) for _ in range(20)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return CooccurrencesTask(
        CooccurrencesConfig(
            path=str(path), tokenizer="words:25", seq_len=64, val_fraction=0.2, window=4, x_max=2.0
        )
    )


def pairs_of(rows):
    used = [row["weights"] > 0 for row in rows]
    return [
        pair
        for row, own in zip(rows, used, strict=True)
        for pair in zip(row["tokens"][own].tolist(), row["contexts"][own].tolist(), strict=True)
    ]


def test_an_epoch_has_every_training_pair_once_and_the_next_another_order(task):
    data, rows = task.train(0), task.info.splits["train"].num_examples
    first, second = (pairs_of([data[n] for n in range(e * rows, (e + 1) * rows)]) for e in (0, 1))
    held_out = pairs_of(list(task.eval("val", 1)))
    every = set(zip(task.counts.words.tolist(), task.counts.contexts.tolist(), strict=True))
    assert len(first) == len(set(first)) and set(first) == set(second) and first != second
    assert set(first) | set(held_out) == every and not set(first) & set(held_out)
    assert {(b, a) for a, b in held_out} == set(held_out)  # both orders together
    assert len(held_out) == pytest.approx(0.2 * len(every), rel=0.5)


def test_an_epoch_counts_for_the_text_and_no_pair_for_a_token(task):
    train = task.info.splits["train"]
    assert train.num_tokens == 20 * 21 < len(task.places["train"])
    assert task.info.row_tokens == pytest.approx(train.num_tokens / train.num_examples)


def test_filling_has_no_weight_and_a_logarithm(task):
    last = list(task.eval("val", 2))[-1]
    assert (last["counts"] > 0).all() and "weight" in task.show(last, 1)
    assert (task.train(0)[5]["tokens"] == task.train(0)[5]["tokens"]).all()


def test_wrong_settings(tmp_path):
    with pytest.raises(ValueError, match="data.x_max=0 must be above 0"):
        CooccurrencesConfig(x_max=0)
    path = tmp_path / "apart.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match="no two words stand together"):
        CooccurrencesTask(
            CooccurrencesConfig(path=str(path), tokenizer="words:5", val_fraction=0.0)
        )
