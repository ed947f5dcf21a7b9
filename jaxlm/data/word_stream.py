"""A token stream as words to be centres of windows: frequent ones thinned out, negatives drawn, all a function of (key, epoch).

Numpy, a block of the stream at once, ahead of the loop. What examples are made of it is for tasks/word_windows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.data import shuffle, store

BLOCK = 1 << 22
"""Words of a stream that are held at once."""
_KEEP, _ORDER, _ROWS = 1, 2, 3
_SIGMAS = 6.0  # rows are made for so many standard deviations more words than are expected


def keep_probability(counts_V: np.ndarray, sample: float) -> np.ndarray:
    """How likely a word stays in the stream, float64 [V]: min(1, sqrt(s / f) + s / f), f its share of all words.

    Source: Mikolov et al. 2013, arXiv:1310.4546, section 2.3; this is the form of their code (word2vec.c, gensim), the
    paper's is sqrt(s / f).

    Args:
      counts_V: how often each word stands in the text.
      sample: s; 0: every word stays.
    """
    if not sample:
        return np.ones(len(counts_V))
    shares_V = np.maximum(counts_V, 1e-9) / max(1, counts_V.sum())
    return np.minimum(1.0, np.sqrt(sample / shares_V) + sample / shares_V)


def noise(counts_V: np.ndarray, power: float) -> np.ndarray:
    """The distribution that negatives are drawn from, cumulative, float64 [V]: counts ** power, normalised.

    Source: Mikolov et al. 2013, arXiv:1310.4546, section 2.2 (power 3/4). Theirs is a table of 10^8 places, this is exact.
    """
    weights_V = np.where(counts_V > 0, np.maximum(counts_V, 1).astype(np.float64) ** power, 0.0)
    return np.cumsum(weights_V) / weights_V.sum()


def uniform(key: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each place, float64, from 53 random bits."""
    bits = shuffle.mix64(shuffle.mix64(places.astype(np.uint64)) ^ key)
    return (bits >> np.uint64(11)) * (1.0 / (1 << 53))


class Thinned(NamedTuple):
    """Words that stay, and the document that each is of: equal numbers, same document."""

    words: np.ndarray  # int32 [L]
    documents: np.ndarray  # int32 [L], from 1


class Frame(NamedTuple):
    """A row: T places for centres, and R more on both sides that are only seen."""

    words: np.ndarray  # int32 [T + 2 R]
    documents: np.ndarray  # int32 [T + 2 R], 0 for filling
    num_centres: int  # those from place R on; T in a full row


def thin(ids: np.ndarray, first: int, keep_V: np.ndarray, eos_id: int, key: np.ndarray) -> Thinned:
    """The words of part of a stream that stay; unknown ones and the ends of documents are no words.

    Words that are left out make no gap: a window reaches beyond them, as in word2vec.

    Args:
      ids: int32 [N]; from len(keep_V) on they are no words.
      first: the place of the first in the stream.
      keep_V: see `keep_probability`.
      eos_id: what ends a document.
      key: uint64 [1], of this epoch.
    """
    chance_V = np.append(keep_V, 0.0)
    chances = chance_V[np.minimum(ids, len(keep_V))]
    stay = uniform(key, np.arange(first, first + len(ids))) < chances
    documents = 1 + np.cumsum(ids == eos_id, dtype=np.int32)
    return Thinned(ids[stay].astype(np.int32), documents[stay])


class Rows:
    """Rows of at most T centres, cut from a stream: each word that stays is in one row of an epoch.

    Args:
      tokens: the stream.
      start, stop: its part.
      size: T.
      keep_V: see `keep_probability`.
      eos_id: what ends a document.
      key: words that make the random numbers.
      block: words that are held at once; windows end where a block does.
    """

    def __init__(
        self,
        tokens: store.Store,
        start: int,
        stop: int,
        size: int,
        keep_V: np.ndarray,
        eos_id: int,
        key: Sequence[int],
        block: int = BLOCK,
    ):
        self._tokens, self._span, self._size, self._block = tokens, (start, stop), size, block
        self._keep_V, self._eos_id, self._key = keep_V, eos_id, tuple(key)
        self._counts = np.array([self._num_rows(b) for b in range(-(-(stop - start) // block))])
        self._held: dict[tuple[int, int], Thinned] = {}

    def __len__(self) -> int:
        return int(self._counts.sum())

    def _ids(self, number: int) -> tuple[np.ndarray, int]:
        first = self._span[0] + number * self._block
        ids = np.empty(min(self._block, self._span[1] - first), np.int32)
        self._tokens.fill(first, ids)
        return ids, first

    def _num_rows(self, number: int) -> int:
        """So many that the words of any epoch fit, but for a chance of 1 in 10^9."""
        ids, _ = self._ids(number)
        chance = np.append(self._keep_V, 0.0)[np.minimum(ids, len(self._keep_V))]
        most = chance.sum() + _SIGMAS * np.sqrt((chance * (1 - chance)).sum())
        return -(-int(np.ceil(most)) // self._size)

    def locate(self, index: int) -> tuple[int, int, int]:
        """Epoch, block and row in it: blocks are in another order each epoch, and so are the rows of each."""
        epoch, place = divmod(int(index), len(self))
        key = shuffle.make_key(*self._key, _ORDER, epoch)
        blocks = np.arange(len(self._counts))
        order = shuffle.permute(blocks, len(blocks), key) if len(blocks) > 1 else blocks
        ends = np.cumsum(self._counts[order])
        turn = int(np.searchsorted(ends, place, side="right"))
        number = int(order[turn])
        inside = place - int(ends[turn] - self._counts[number])
        key = shuffle.make_key(*self._key, _ROWS, epoch, number)
        row = shuffle.permute(np.array([inside]), int(self._counts[number]), key)
        return epoch, number, int(row[0])

    def thinned(self, epoch: int, number: int) -> Thinned:
        """A block's words in an epoch; the last two that were asked for are kept."""
        if (epoch, number) not in self._held:
            while len(self._held) > 1:
                self._held.pop(next(iter(self._held)))
            ids, first = self._ids(number)
            key = shuffle.make_key(*self._key, _KEEP, epoch)
            self._held[epoch, number] = thin(ids, first, self._keep_V, self._eos_id, key)
        return self._held[epoch, number]

    def row(self, epoch: int, number: int, row: int, reach: int) -> Frame:
        """A row's words, with `reach` more on both sides."""
        return framed(
            self.thinned(epoch, number), row, int(self._counts[number]), self._size, reach
        )


def framed(stream: Thinned, row: int, num_rows: int, size: int, reach: int) -> Frame:
    """Row `row` of a stream cut into rows as even as can be."""
    total = min(len(stream.words), num_rows * size)
    first, last = row * total // num_rows, (row + 1) * total // num_rows
    words = np.zeros(size + 2 * reach, np.int32)
    documents = np.zeros(size + 2 * reach, np.int32)
    begin, end = max(0, first - reach), min(len(stream.words), last + reach)
    place = slice(begin - first + reach, end - first + reach)
    words[place], documents[place] = stream.words[begin:end], stream.documents[begin:end]
    return Frame(words, documents, last - first)
