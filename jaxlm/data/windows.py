"""Endless windows of a token stream, or of any other list, shuffled or in order, as a grain.MapDataset.

Importing this imports grain. Mixing sources and cutting batches is left to grain and to
pipeline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from jaxlm.data import shuffle, store

_ORDER, _JITTER, _EXAMPLE = 1, 2, 4


class Windows(grain.MapDataset):
    """Windows of T tokens whose starts are random, but spread evenly.

    The stream is cut into strata of T tokens; an epoch visits every stratum once, in random order,
    and starts a window at a random place inside it: every token is seen about once an epoch,
    and in another alignment each time. Element i is a function of (key, i) alone. Elements are
    read a batch at a time (`_getitems`, which grain's own transformations pass down): grain's
    shuffle and random_map take 1.3 ms for a batch of 64 x 256, this 0.4.

    Args:
      tokens: the stream.
      size: length of its training part, tokens.
      seq_len: T.
      key: words that make the random numbers: (seed, number of the source).
      make_example: from int32 [T + 1] ids, the first of them context, and the example's own uint64
        [1] random bits to an element.
    """

    def __init__(
        self,
        tokens: store.Store,
        size: int,
        seq_len: int,
        key: Sequence[int],
        make_example: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
    ):
        super().__init__()
        self._tokens, self._seq_len, self._key = tokens, seq_len, tuple(key)
        self._make_example = make_example
        self._num_starts = size - seq_len
        self._num_strata = -(-self._num_starts // seq_len)

    def __len__(self) -> int:
        return self._num_strata

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._getitems([index])[0]

    def starts(self, indices: np.ndarray) -> np.ndarray:
        """Where each window begins, int64 [N]; index // len is the epoch."""
        epochs, places = np.divmod(indices, self._num_strata)
        order, jitter = (epoch_keys(self._key, purpose, epochs) for purpose in (_ORDER, _JITTER))
        strata = shuffle.permute(places, self._num_strata, order)
        first = strata * self._seq_len
        room = np.minimum(self._seq_len, self._num_starts - first)
        return first + shuffle.random_below(jitter ^ strata.astype(np.uint64), room)

    def _getitems(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        places = np.asarray(indices, np.int64)
        rows = np.empty((len(places), self._seq_len + 1), np.int32)
        for start, row in zip(self.starts(places).tolist(), rows, strict=True):
            self._tokens.fill(start, row)
        keys = shuffle.mix64(shuffle.make_key(*self._key, _EXAMPLE) ^ places.astype(np.uint64))
        return [
            self._make_example(row, keys[number : number + 1]) for number, row in enumerate(rows)
        ]


class Shuffled(grain.MapDataset):
    """Everything in a list once an epoch, in another random order each epoch.

    Element i is a function of (key, i) alone.

    Args:
      get: from a place in the list to its element.
      size: length of the list.
      key: words that make the random numbers: (seed, number of the source).
    """

    def __init__(self, get: Callable[[int], dict[str, np.ndarray]], size: int, key: Sequence[int]):
        super().__init__()
        self._get, self._size, self._key = get, size, tuple(key)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._getitems([index])[0]

    def _getitems(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        epochs, places = np.divmod(np.asarray(indices, np.int64), self._size)
        keys = epoch_keys(self._key, _ORDER, epochs)
        return [self._get(place) for place in shuffle.permute(places, self._size, keys).tolist()]


class InOrder(grain.MapDataset):
    """Everything in a list, in its order.

    Args:
      get: from a place in the list to its element.
      size: length of the list.
    """

    def __init__(self, get: Callable[[int], dict[str, np.ndarray]], size: int):
        super().__init__()
        self._get, self._size = get, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._get(int(index) % self._size)

    def _getitems(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        return [self[index] for index in indices]


class Numbered(grain.MapDataset):
    """What a function makes of a number: element i of epoch e is get(e * size + i).

    Args:
      get: from a number, 0 and up without end, to its element.
      size: how many make an epoch.
    """

    def __init__(self, get: Callable[[int], dict[str, np.ndarray]], size: int):
        super().__init__()
        self._get, self._size = get, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._get(int(index))

    def _getitems(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        return [self._get(int(index)) for index in indices]


def epoch_keys(key: Sequence[int], purpose: int, epochs: np.ndarray) -> np.ndarray:
    """Random bits for each epoch's order, uint64 [N]."""
    first = shuffle.make_key(*key, purpose)
    return shuffle.mix64(first + epochs.astype(np.uint64) * np.uint64(1 << 32))
