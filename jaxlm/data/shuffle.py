"""Random numbers as a function of (key, index), vectorised over the index: no state to keep.

Numpy's generators promise no fixed stream across versions and need the whole permutation in
memory; a keyed permutation does neither. Not for jax keys: those are in core/randomness.py.
"""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_ROUNDS = 8
_MULTIPLIER = np.uint64(0xD1342543DE82EF95)


def mix64(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64.

    Args:
      x: uint64, any shape.

    Returns:
      uint64 of the same shape; a bijection in which one changed bit changes half of the others.

    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators, 2014.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_ROUND_KEYS = mix64(np.arange(1, _ROUNDS + 1, dtype=np.uint64))


def make_key(*words: int) -> np.ndarray:
    """One uint64 key, shape [1], from whole numbers: (seed, purpose, ...); the order matters."""
    key = np.zeros(1, np.uint64)
    for word in words:
        key = mix64(key ^ np.asarray([word & _MASK], np.uint64))
    return key


def random_below(keys: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """A number in [0, bound) for each uint64 key, int64; bounds are below 2^32."""
    high = mix64(keys) >> np.uint64(32)
    return ((high * bounds.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def permute(indices: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Where a keyed random permutation of range(size) sends each index.

    A Feistel network over the next power of two (at least 64), walked until it lands in the range
    (Black, Rogaway, Ciphers with arbitrary finite domains, 2002, methods 2 and 3).

    Args:
      indices: int64 [N], each in [0, size).
      size: length of the permuted range, below 2^62.
      keys: uint64 [N] or [1]; equal keys share one permutation.

    Returns:
      int64 [N].
    """
    bits = max(6, (size - 1).bit_length())
    keys = np.broadcast_to(keys, indices.shape)
    out = indices.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        out[todo] = _feistel(out[todo], bits, keys[todo])
        todo = todo[out[todo] >= np.uint64(size)]
    return out.astype(np.int64)


def _feistel(x: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """A keyed bijection of [0, 2^bits); the halves trade widths, an even number of times."""
    left_bits, right_bits = bits // 2, bits - bits // 2
    left, right = x >> np.uint64(right_bits), x & np.uint64((1 << right_bits) - 1)
    for round_number in range(_ROUNDS):
        word = (right ^ keys ^ _ROUND_KEYS[round_number]) * _MULTIPLIER
        word = (word ^ (word >> np.uint64(29))) * _MULTIPLIER
        left, right = right, left ^ (word >> np.uint64(64 - left_bits))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right
