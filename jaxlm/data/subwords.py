"""Character n-grams of words as rows of a table: fastText's, so that a word that was never seen has a vector too.

Source: Bojanowski et al. 2017, arXiv:1607.04606, section 3.2. Ids are those of fastText and gensim.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)
_FNV_START, _FNV_PRIME, _MASK = 2166136261, 16777619, 0xFFFFFFFF
_ROOM = 1.25  # times the largest number of pieces of rows that were looked at


def fnv1a(data: bytes) -> int:
    """FNV-1a, 32 bits, of bytes read as signed ones: fastText's hash, which differs from the standard from byte 128 on."""
    value = _FNV_START
    for byte in data:
        value ^= byte if byte < 128 else byte | 0xFFFFFF00
        value = (value * _FNV_PRIME) & _MASK
    return value


def ngrams(word: str, min_n: int, max_n: int) -> list[str]:
    """The n-grams of <word>, from left to right, short ones first; a lone < or > is none."""
    text = f"<{word}>"
    found = []
    for start in range(len(text)):
        for size in range(min_n, min(max_n, len(text) - start) + 1):
            if size > 1 or 0 < start < len(text) - 1:
                found.append(text[start : start + size])
    return found


@functools.lru_cache(maxsize=1 << 16)
def _hash(gram: str) -> int:
    return fnv1a(gram.encode("utf-8"))


def bucket_ids(word: str, num_buckets: int, min_n: int, max_n: int) -> np.ndarray:
    """The bucket of each n-gram, int32 [N], N 0 for a word that is too short."""
    ids = [_hash(gram) % num_buckets for gram in ngrams(word, min_n, max_n)]
    return np.array(ids, np.int32)


def finder(data: Any) -> Callable[[str], np.ndarray]:
    """`bucket_ids` as a section of data with num_buckets, min_n and max_n says."""
    how = {name: data[name] for name in ("num_buckets", "min_n", "max_n")}
    return functools.partial(bucket_ids, **how)


class Subwords:
    """The buckets of every word of a vocabulary, one list after the other."""

    def __init__(self, words: Sequence[str], num_buckets: int, min_n: int, max_n: int):
        lists = [bucket_ids(word, num_buckets, min_n, max_n) for word in words]
        self.ends_V = np.cumsum([len(ids) for ids in lists])
        self.ids = np.concatenate(lists) if lists else np.zeros(0, np.int32)
        self.num_V = np.diff(self.ends_V, prepend=0)

    def of(self, words_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The buckets of these words, int32 [Q], and which of the N each is of, int32 [Q]."""
        sizes_N = self.num_V[words_N]
        owners_Q = np.repeat(np.arange(len(words_N)), sizes_N)
        inside_Q = np.arange(len(owners_Q)) - np.repeat(np.cumsum(sizes_N) - sizes_N, sizes_N)
        starts_N = self.ends_V[words_N] - sizes_N
        return self.ids[starts_N[owners_Q] + inside_Q], owners_Q.astype(np.int32)


class RowPieces:
    """The n-grams of a row's different words, in as many places for every row.

    Args:
      subwords: of the vocabulary.
      rows: words of some rows, int32 [J] each, by which the number of places is chosen.
    """

    def __init__(self, subwords: Subwords, rows: Sequence[np.ndarray]):
        self._subwords = subwords
        most = max(int(subwords.num_V[np.unique(row)].sum()) for row in rows)
        self.num_places = max(1, int(np.ceil(most * _ROOM)))
        self._told = False

    def of(
        self, words_J: np.ndarray, documents_J: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """What a model needs to make the vectors of a row.

        Of a row with more n-grams than there are places, the last words are filling; that is said once.

        Returns:
          {"words" int32 [J]: the different words, 0 behind the last; "places" int32 [J]: where each word of the row stands
          among them; "pieces" int32 [Q]: their buckets; "owners" int32 [Q]: which word each is of, J for none}, and words
          and documents of the row.
        """
        unique, first, places_J = np.unique(words_J, return_index=True, return_inverse=True)
        if self._subwords.num_V[unique].sum() > self.num_places:
            if not self._told:
                _log.warning("a row has more n-grams than room: its last words are left out")
                self._told = True
            order = np.argsort(first, kind="stable")
            total = np.cumsum(self._subwords.num_V[unique[order]])
            stop = first[order[np.searchsorted(total, self.num_places, side="right")]]
            words_J, documents_J = words_J.copy(), documents_J.copy()
            words_J[stop:], documents_J[stop:] = words_J[0], 0
            unique, places_J = np.unique(words_J, return_inverse=True)
        size = len(words_J)
        pieces, owners = self._subwords.of(unique)
        found = {"words": np.zeros(size, np.int32), "places": places_J.astype(np.int32)}
        found |= {
            "pieces": np.zeros(self.num_places, np.int32),
            "owners": np.full(self.num_places, size, np.int32),
        }
        found["words"][: len(unique)] = unique
        found["pieces"][: len(pieces)], found["owners"][: len(pieces)] = pieces, owners
        return found, words_J, documents_J
