"""Kneser-Ney with one discount and Witten-Bell against nltk.lm."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm.models.ngram import NGram, NGramConfig

lm = pytest.importorskip("nltk.lm")

WORDS = list("abcdefg")
TEXT = [WORDS[i] for i in np.random.default_rng(2).zipf(1.5, 300) % 6]  # "g" is never seen
UNSEEN = len(WORDS)  # nltk's <UNK>


@pytest.mark.parametrize(
    ("kind", "options", "settings"),
    [
        (lm.WittenBellInterpolated, {}, {"smoothing": "witten_bell"}),
        (
            lm.KneserNeyInterpolated,
            {"discount": 0.3},
            {"smoothing": "kneser_ney", "discount": 0.3},
        ),
    ],
    ids=["witten_bell", "kneser_ney"],
)
@pytest.mark.parametrize("order", [2, 3])
def test_probabilities_are_nltks_but_for_words_never_seen(kind, options, settings, order):
    from nltk.util import everygrams

    reference = kind(order, **options)
    grams = list(everygrams(TEXT, max_len=order))
    grams.remove((TEXT[0],))  # nothing stands before it: to us it is context only
    reference.fit([grams], WORDS)
    model = NGram(NGramConfig(vocab_size=len(WORDS) + 1, order=order, **settings))
    ids = np.array([WORDS.index(word) for word in TEXT])
    params, _ = model.estimated(model.counted(None, ids, np.arange(len(ids)) > 0))
    alone = np.asarray(params["order_1"]["mass"])
    rows = np.lib.stride_tricks.sliding_window_view(ids, order - 1)[20:60].astype(np.int32)
    found = np.exp(np.asarray(model.apply({"params": params}, rows).logits()))[:, -1]
    for row, probs in zip(rows, found, strict=True):
        # nltk's single words have plain shares and leave nothing to those never seen: what reaches them here is
        # the share of the shortest context, which a word never seen shows.
        reaching = probs[UNSEEN] / alone[UNSEEN]
        context = [WORDS[word] for word in row]
        for number, word in enumerate(WORDS):
            differs = reaching * (alone[number] - reference.score(word))
            want = reference.score(word, context)
            assert probs[number] - differs == pytest.approx(want, abs=1e-6)
