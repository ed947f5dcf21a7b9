"""Endless shuffled windows of a token stream, as a grain.MapDataset.

Importing this imports grain. Mixing sources and cutting batches is left to grain and to
pipeline.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from jaxlm.data import shuffle, store

_ORDER, _JITTER = 1, 2


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
    """

    def __init__(self, tokens: store.Store, size: int, seq_len: int, key: Sequence[int]):
        super().__init__()
        self._tokens, self._seq_len, self._key = tokens, seq_len, tuple(key)
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
        order, jitter = (
            shuffle.make_key(*self._key, purpose) + epochs.astype(np.uint64) * np.uint64(1 << 32)
            for purpose in (_ORDER, _JITTER)
        )
        strata = shuffle.permute(places, self._num_strata, shuffle.mix64(order))
        first = strata * self._seq_len
        room = np.minimum(self._seq_len, self._num_starts - first)
        keys = shuffle.mix64(jitter) ^ strata.astype(np.uint64)
        return first + shuffle.random_below(keys, room)

    def _getitems(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        starts = self.starts(np.asarray(indices, np.int64))
        rows = np.empty((len(starts), self._seq_len + 1), np.int32)
        for start, row in zip(starts.tolist(), rows, strict=True):
            self._tokens.fill(start, row)
        weights = np.ones(self._seq_len, np.float32)
        return [{"tokens": row[:-1], "targets": row[1:], "weights": weights} for row in rows]
