"""From counts of n-grams to shares of probability: what each word has of its own behind a context, and what a shorter one says.

Every interpolated estimate is p(w | h) = mass(h w) + rest(h) p(w | h without its first word), down to p(w) = mass(w) + rest / V; so
it sums to one over a vocabulary of V words, those never seen included. A context that was never seen has rest 1. Numpy only.
"""

from __future__ import annotations

import numpy as np

from jaxlm.core import ngrams
from jaxlm.core.ngrams import Counts

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where counts of counts say none, as KenLM's --discount_fallback has them."""

Shares = list[tuple[np.ndarray, np.ndarray]]
"""For each order: mass of each node [N], rest of each context [N of the level above], float64; of order 1 the rest is [1]."""


def kneser_ney(
    counts: Counts, separator: int, modified: bool = True, discount: float = 0.0
) -> tuple[Shares, list[int]]:
    """Interpolated Kneser-Ney, by default modified: three discounts an order.

    Below the highest order a count is the number of words that an n-gram was seen behind; of one that begins with a separator,
    which nothing is behind, and of those never seen behind a word (at the first of all) it is the plain count.

    Args:
      counts: of n-grams.
      separator: the word between texts; -1: none.
      modified: discounts D1, D2, D3+ for counts of 1, 2, and more; else one for all.
      discount: of those that are not modified; 0: n1 / (n1 + 2 n2) of each order.

    Returns:
      Shares, and the orders whose counts of counts give no discounts, which took FALLBACK (0.75 where not modified).

    Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998, TR-10-98), section 3;
    Kneser and Ney, "Improved backing-off for m-gram language modeling" (1995).
    """
    order = len(counts)
    fell_back, shares = [], []
    for k, adjusted in enumerate(_adjusted(counts, separator), 1):
        discounts = (discount,) * 3 if discount and not modified else _discounts(adjusted, modified)
        if discounts is None and len(adjusted):
            fell_back.append(k)
        discounts = discounts or (FALLBACK if modified else (0.75,) * 3)
        amount = np.select([adjusted == 1, adjusted == 2, adjusted > 2], discounts, 0.0)
        taken = np.minimum(amount, adjusted)
        shares.append(_shares(counts, k, adjusted - taken, taken, adjusted))
    assert len(shares) == order
    return shares, fell_back


def _adjusted(counts: Counts, separator: int) -> list[np.ndarray]:
    """Of each order: how many words each n-gram was seen behind, or how often it was seen; int64 [N]."""
    order, found = len(counts), []
    behind = ngrams.suffixes(counts)
    begins = np.arange(len(counts[ngrams.name(1)]["counts"])) == separator
    for k in range(1, order + 1):
        plain = np.asarray(counts[ngrams.name(k)]["counts"], np.int64)
        if k > 1:
            begins = begins[ngrams.parents(counts[ngrams.name(k)])]
        if k == order:
            found.append(plain)
            break
        seen = np.asarray(counts[ngrams.name(k + 1)]["counts"]) > 0
        continued = np.bincount(behind[k - 1][seen], minlength=len(plain))
        raw = continued == 0
        if k > 1:
            raw |= begins
        found.append(np.where(raw, plain, continued))
    return found


def _discounts(adjusted: np.ndarray, modified: bool) -> tuple[float, float, float] | None:
    """D1, D2, D3+ (Chen and Goodman 1998, eq. 26; one for all: section 2.6); None where a count of counts is missing."""
    n = [int((adjusted == times).sum()) for times in range(5)]
    if not modified:
        return (n[1] / (n[1] + 2 * n[2]),) * 3 if n[1] and n[2] else None
    if not all(n[1:]):
        return None
    share = n[1] / (n[1] + 2 * n[2])
    found = tuple(times - (times + 1) * share * n[times + 1] / n[times] for times in (1, 2, 3))
    return (
        found if all(0 <= d <= times for times, d in zip((1, 2, 3), found, strict=True)) else None
    )


def witten_bell(counts: Counts) -> Shares:
    """Interpolated Witten-Bell: a context's rest is that of its words which are different, T / (C + T).

    Source: Bell, Cleary and Witten, "Text Compression" (1990), method C; Chen and Goodman (1998), section 2.5.
    """
    shares = []
    for k in range(1, len(counts) + 1):
        plain = np.asarray(counts[ngrams.name(k)]["counts"], np.int64)
        kinds = (plain > 0).astype(np.int64)
        shares.append(_shares(counts, k, plain, kinds, plain + kinds))
    return shares


def add_k(counts: Counts, k: float) -> Shares:
    """(c(h w) + k) / (c(h) + k V) behind contexts of the highest order that were seen, 1 / V behind all others.

    Source: Lidstone (1920); Laplace's law at k = 1.
    """
    order, vocab_size = len(counts), len(counts[ngrams.name(1)]["counts"])
    shares = []
    for n in range(1, order):
        level = counts[ngrams.name(n)]["counts"]
        contexts = 1 if n == 1 else len(counts[ngrams.name(n - 1)]["counts"])
        shares.append((np.zeros(len(level)), np.ones(contexts)))
    plain = np.asarray(counts[ngrams.name(order)]["counts"], np.float64)
    totals = _totals(counts, order, plain)
    whole = totals + k * vocab_size
    by_node = whole[ngrams.parents(counts[ngrams.name(order)])] if order > 1 else whole
    rest = np.where(totals > 0, k * vocab_size / whole, 1.0)
    return [*shares, (plain / by_node, rest)]


def stupid_backoff(counts: Counts) -> Shares:
    """c(h w) / c(h): scores of n-grams that were seen, no shares; the rest is not used.

    Source: Brants et al., "Large Language Models in Machine Translation" (2007), eq. 5.
    """
    shares = []
    for k in range(1, len(counts) + 1):
        plain = np.asarray(counts[ngrams.name(k)]["counts"], np.float64)
        shares.append(_shares(counts, k, plain, np.zeros_like(plain), plain))
    return shares


def _totals(counts: Counts, order: int, values: np.ndarray) -> np.ndarray:
    """Sums over the children of each context, float64 [N of the level above], [1] of order 1."""
    if order == 1:
        return np.array([values.sum()], np.float64)
    level = counts[ngrams.name(order)]
    contexts = len(counts[ngrams.name(order - 1)]["counts"])
    return np.bincount(ngrams.parents(level), values, minlength=contexts)


def _shares(
    counts: Counts, order: int, own: np.ndarray, given: np.ndarray, whole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """mass = own / W and rest = sum of given / W, with W the sum of `whole` over a context's words; rest 1 where W is 0."""
    totals = _totals(counts, order, whole)
    safe = np.where(totals > 0, totals, 1.0)
    rest = np.where(totals > 0, _totals(counts, order, given) / safe, 1.0)
    by_node = safe[ngrams.parents(counts[ngrams.name(order)])] if order > 1 else safe
    return own / by_node, rest


def prune(counts: Counts, shares: Shares, least: tuple[int, ...]) -> tuple[Counts, Shares]:
    """Without n-grams seen too rarely: what they had goes to the rest of their context.

    Args:
      counts: of n-grams.
      shares: made of all of them.
      least: for each order from 2 the fewest times to be kept; the last one holds for the orders after. One that others
        begin with is kept with them.
    """
    wanted = [least[min(n, len(least) - 1)] for n in range(len(counts) - 1)]
    kept = [
        np.asarray(counts[ngrams.name(k)]["counts"]) >= wanted[k - 2]
        for k in range(2, len(counts) + 1)
    ]
    small, kept = ngrams.keep(counts, kept)
    pruned, contexts = [shares[0]], np.ones(len(counts[ngrams.name(1)]["counts"]), bool)
    for k, chosen in enumerate(kept, 2):
        mass, rest = shares[k - 1]
        lost = np.where(chosen, 0.0, mass)
        rest = (rest + _totals(counts, k, lost))[contexts]
        pruned.append((mass[chosen], rest))
        contexts = chosen
    return small, pruned
