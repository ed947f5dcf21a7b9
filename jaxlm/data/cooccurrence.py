"""How often words stand together, each time counted 1 / distance: what GloVe learns from.

Source: Pennington, Socher and Manning, GloVe, 2014, section 4.2; as their tool counts (symmetric, by documents).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_CHUNK = 1 << 18  # words whose windows are counted at once


class Counts(NamedTuple):
    """The pairs that stand together somewhere, both orders of each; sorted."""

    words: np.ndarray  # int32 [N]
    contexts: np.ndarray  # int32 [N]
    counts: np.ndarray  # float32 [N]


def count(streams: Iterable[tuple[np.ndarray, np.ndarray]], num_words: int, window: int) -> Counts:
    """Every pair of words at most `window` apart in one document adds 1 / distance.

    Args:
      streams: words and the documents that they are of, int32 [L] each; held in memory.
      num_words: V.
      window: words on each side.
    """
    total = np.zeros(0, np.int64), np.zeros(0)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for words, documents in streams:
        for first in range(0, len(words), _CHUNK):
            held.append(_chunk(words, documents, first, num_words, window))
            if sum(len(keys) for keys, _ in held) > len(total[0]) + _CHUNK:
                total, held = _merged([total, *held]), []
    keys, values = _merged([total, *held])
    low, high = np.divmod(keys, num_words)
    values = np.where(low == high, 2 * values, values)  # from either side
    apart = low != high
    both = [np.concatenate([low, high[apart]]), np.concatenate([high, low[apart]])]
    order = np.lexsort((both[1], both[0]))
    values = np.concatenate([values, values[apart]])[order].astype(np.float32)
    return Counts(both[0][order].astype(np.int32), both[1][order].astype(np.int32), values)


def _chunk(
    words: np.ndarray, documents: np.ndarray, first: int, num_words: int, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose left word is in a chunk, as smaller word * V + larger word."""
    keys, values = [], []
    for distance in range(1, window + 1):
        last = min(first + _CHUNK, len(words) - distance)
        left, right = slice(first, last), slice(first + distance, last + distance)
        same = documents[left] == documents[right]
        one, other = words[left][same].astype(np.int64), words[right][same].astype(np.int64)
        keys.append(np.minimum(one, other) * num_words + np.maximum(one, other))
        values.append(np.full(len(one), 1.0 / distance))
    return _merged(list(zip(keys, values, strict=True)))


def _merged(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Different keys, sorted, and the sums of their values."""
    keys, places = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    values = np.concatenate([values for _, values in parts])
    return keys, np.bincount(places, values, minlength=len(keys))


def weighting(counts_N: np.ndarray, x_max: float, alpha: float) -> np.ndarray:
    """f(X) = min(1, (X / x_max) ** alpha), equation 9, float32 [N]."""
    return np.minimum(1.0, (counts_N / x_max) ** alpha).astype(np.float32)
