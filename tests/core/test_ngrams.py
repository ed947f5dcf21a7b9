"""Counts of n-grams by hand, merged, looked into, and what smoothing makes of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import ngrams, smoothing

A, B, C, END = 0, 1, 2, 3
TEXT = [END, A, B, A, B, C, END, A, C]  # "abab c" and "ac", ends between


def grams(counts: ngrams.Counts, order: int) -> dict[tuple[int, ...], int]:
    """Every n-gram of an order with its count."""
    level = counts[ngrams.name(order)]
    if order == 1:
        return {(word,): int(n) for word, n in enumerate(level["counts"]) if n}
    above = [(word,) for word in range(len(counts[ngrams.name(1)]["counts"]))]
    for k in range(2, order + 1):
        one = counts[ngrams.name(k)]
        above = [
            (*above[p], int(w)) for p, w in zip(ngrams.parents(one), one["words"], strict=True)
        ]
    return {gram: int(n) for gram, n in zip(above, level["counts"], strict=True)}


@pytest.fixture
def counts() -> ngrams.Counts:
    return ngrams.count(np.array(TEXT), np.arange(len(TEXT)) > 0, 3, 5, END)


def test_counts_of_ten_words_are_those_counted_by_hand(counts):
    assert grams(counts, 1) == {(A,): 3, (B,): 2, (C,): 2, (END,): 1}  # the first is context
    assert grams(counts, 2) == {
        (A, B): 2, (A, C): 1, (B, A): 1, (B, C): 1, (C, END): 1, (END, A): 2,
    }  # fmt: skip
    # None reaches across the end of a text: not c END a.
    assert grams(counts, 3) == {
        (A, B, A): 1, (A, B, C): 1, (B, A, B): 1, (B, C, END): 1, (END, A, B): 1, (END, A, C): 1,
    }  # fmt: skip


@pytest.mark.parametrize("cut", range(1, len(TEXT)))
def test_counts_of_two_halves_merge_to_those_of_the_whole(counts, cut):
    left = ngrams.count(np.array(TEXT[:cut]), np.arange(cut) > 0, 3, 5, END)
    before = max(0, cut - 2)  # the last two words are the context of the next
    weights = np.arange(len(TEXT) - before) >= cut - before
    right = ngrams.count(np.array(TEXT[before:]), weights, 3, 5, END)
    merged = ngrams.merge(left, right)
    for order in (1, 2, 3):
        assert grams(merged, order) == grams(counts, order)


def test_nothing_merged_with_counts_leaves_them(counts):
    merged = ngrams.merge(ngrams.empty(3, 5), counts)
    assert [grams(merged, n) for n in (1, 2, 3)] == [grams(counts, n) for n in (1, 2, 3)]


def test_a_child_is_found_and_what_was_not_seen_is_not(counts):
    level = {key: jnp.asarray(value) for key, value in counts["order_2"].items()}
    seen = ngrams.child(level, jnp.array([A, A, B, END, -1]), jnp.array([B, C, A, A, A]), 5)
    assert np.asarray(level["words"])[np.asarray(seen[:4])].tolist() == [B, C, A, A]
    assert seen[4] == -1
    unseen = ngrams.child(level, jnp.array([A, B, C, 4]), jnp.array([A, END, A, B]), 5)
    assert unseen.tolist() == [-1] * 4


def test_an_n_gram_without_its_first_word_is_a_node_of_the_level_above(counts):
    for order, places in zip((2, 3), ngrams.suffixes(counts), strict=True):
        above = list(grams(counts, order - 1)) if order > 2 else [(w,) for w in range(5)]
        shorter = [above[place] for place in places]
        assert shorter == [gram[1:] for gram in grams(counts, order)]


def test_kneser_ney_by_hand():
    # Orders 1 and 2 of "a b a b a c": bigrams ab 2, ba 2, ac 1; b and c stand behind one word, a behind one.
    counts = ngrams.count(np.array([A, B, A, B, A, C]), np.arange(6) > 0, 2, 4)
    shares, fell_back = smoothing.kneser_ney(counts, -1, modified=False, discount=0.5)
    assert fell_back == []
    (mass_1, rest_1), (mass_2, rest_2) = shares
    # Continuations a 1, b 1, c 1: (1 - 0.5) / 3 each, 3 * 0.5 / 3 for all four words alike.
    np.testing.assert_allclose(mass_1, [1 / 6, 1 / 6, 1 / 6, 0])
    np.testing.assert_allclose(rest_1, [0.5])
    # Behind a: b (2 - 0.5) / 3, c (1 - 0.5) / 3, rest 2 * 0.5 / 3. Behind b: a (2 - 0.5) / 2, rest 0.5 / 2.
    np.testing.assert_allclose(mass_2, [0.5, 1 / 6, 0.75])
    np.testing.assert_allclose(rest_2, [1 / 3, 0.25, 1, 1])


def test_discounts_by_hand():
    # n1..n4 = 4, 2, 1, 1: Y = 4 / 8; D = 1 - 2 Y 2/4, 2 - 3 Y 1/2, 3 - 4 Y 1/1.
    adjusted = np.array([1, 1, 1, 1, 2, 2, 3, 4])
    assert smoothing._discounts(adjusted, modified=True) == (0.5, 1.25, 1.0)
    assert smoothing._discounts(adjusted, modified=False) == (0.5,) * 3
    assert smoothing._discounts(np.array([1, 2, 3]), modified=True) is None  # nothing came 4 times


def test_witten_bell_by_hand():
    counts = ngrams.count(np.array([A, B, A, B, A, C]), np.arange(6) > 0, 2, 4)
    (mass_1, rest_1), (mass_2, rest_2) = smoothing.witten_bell(counts)
    np.testing.assert_allclose(mass_1, [2 / 8, 2 / 8, 1 / 8, 0])  # 5 words, 3 kinds
    np.testing.assert_allclose(rest_1, [3 / 8])
    np.testing.assert_allclose(mass_2, [2 / 5, 1 / 5, 2 / 3])  # behind a 3 words of 2 kinds
    np.testing.assert_allclose(rest_2, [2 / 5, 1 / 3, 1, 1])


def test_what_is_pruned_goes_to_the_rest(counts):
    shares, _ = smoothing.kneser_ney(counts, END)
    small, pruned = smoothing.prune(counts, shares, (1, 2))  # no trigram came twice
    assert grams(small, 2) == grams(counts, 2) and not grams(small, 3)
    assert len(pruned[2][0]) == 0
    np.testing.assert_allclose(pruned[2][1], 1.0)  # all is left to the shorter context
    small, pruned = smoothing.prune(counts, shares, (2,))
    assert grams(small, 2) == {(A, B): 2, (END, A): 2}
    totals = smoothing._totals(small, 2, pruned[1][0])
    np.testing.assert_allclose(totals + pruned[1][1], 1.0)
