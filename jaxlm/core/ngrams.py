"""Counts of n-grams as a tree in flat arrays: counted from a text, merged with other counts, looked into by binary search.

A node of level k is an n-gram of k words: its last word and, by the place it stands in, the node of the k - 1 before. Nodes of
a level are sorted by (parent, word), so the children of node p are words[first[p]:first[p + 1]]. Level 1 has a node for each word
of the vocabulary, seen or not. Counting is numpy on the host, looking is JAX. What counts become is in smoothing.py.
Letters here: N nodes of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array

Level = dict[str, Any]
"""words int32 [N], first int32 [N of the level above + 1], and a number for each node."""
Counts = dict[str, Level]
"""Level of each order by `name`; counts int32 [N]. Of order 1 only counts [V]."""


def name(order: int) -> str:
    """The key of an order's level."""
    return f"order_{order}"


def empty(order: int, vocab_size: int) -> Counts:
    """Nothing counted."""
    none = np.zeros(0, np.int32)
    counts = {name(1): {"counts": np.zeros(vocab_size, np.int32)}}
    return counts | {
        name(k): {"words": none, "first": none, "counts": none} for k in range(2, order + 1)
    }


def count(
    ids: np.ndarray, weights: np.ndarray, order: int, vocab_size: int, separator: int = -1
) -> Counts:
    """How often each n-gram of up to `order` words ends at a weighed place.

    An n-gram holds a separator only as its first word (what begins a text) or as its last (what ends one).

    Args:
      ids: int [M], one text after the other.
      weights: bool [M]; an n-gram that ends elsewhere has a node, which counts 0.
      order: longest n-grams.
      vocab_size: V, above all ids.
      separator: between texts; -1: there is none.
    """
    ids, weights = np.asarray(ids, np.int64), np.asarray(weights, bool)
    unigrams = np.bincount(ids[weights], minlength=vocab_size)
    counts: Counts = {name(1): {"counts": unigrams.astype(np.int32)}}
    reach = _reach(ids, separator)
    nodes, num_nodes = ids, vocab_size  # of the n-gram of this order that ends at each place
    for k in range(2, order + 1):
        ends = np.flatnonzero(reach >= k)
        keys, places = np.unique(nodes[ends - 1] * vocab_size + ids[ends], return_inverse=True)
        found = np.bincount(places[weights[ends]], minlength=len(keys))
        counts[name(k)] = _level(keys, num_nodes, vocab_size) | {"counts": found.astype(np.int32)}
        nodes = np.zeros(len(ids), np.int64)
        nodes[ends], num_nodes = places, len(keys)
    return counts


def _reach(ids: np.ndarray, separator: int) -> np.ndarray:
    """Words of the longest n-gram that ends at each place, int64 [M]."""
    places = np.arange(len(ids))
    last = np.maximum.accumulate(np.where(ids == separator, places, 0))
    before = np.concatenate([[0], last[:-1]])[: len(ids)]
    return places - before + 1


def _level(keys: np.ndarray, num_parents: int, vocab_size: int) -> Level:
    """Of sorted keys parent * V + word."""
    parents, words = np.divmod(keys, vocab_size)
    first = np.searchsorted(parents, np.arange(num_parents + 1))
    return {"words": words.astype(np.int32), "first": first.astype(np.int32)}


def parents(level: Level) -> np.ndarray:
    """The parent of each node, int64 [N]."""
    first = np.asarray(level["first"], np.int64)
    return np.repeat(np.arange(len(first) - 1), np.diff(first))


def keys_of(level: Level, vocab_size: int) -> np.ndarray:
    """parent * V + word of each node, ascending, int64 [N]."""
    return parents(level) * vocab_size + level["words"]


def merge(left: Counts, right: Counts) -> Counts:
    """The sum of two counts of the same orders and vocabulary."""
    sides = (left, right)
    unigrams = sum(np.asarray(side[name(1)]["counts"]) for side in sides)
    vocab_size = len(unigrams)
    merged: Counts = {name(1): {"counts": unigrams}}
    numbers = [np.arange(vocab_size)] * 2  # of each side's nodes in the sum
    num_nodes = vocab_size
    for k in range(2, len(left) + 1):
        levels = [side[name(k)] for side in sides]
        keys = [
            number[parents(level)] * vocab_size + level["words"]
            for level, number in zip(levels, numbers, strict=True)
        ]
        union = np.unique(np.concatenate(keys))
        numbers = [np.searchsorted(union, one) for one in keys]
        counts = np.zeros(len(union), np.int32)
        for level, number in zip(levels, numbers, strict=True):
            counts[number] += level["counts"]
        merged[name(k)] = _level(union, num_nodes, vocab_size) | {"counts": counts}
        num_nodes = len(union)
    return merged


def suffixes(counts: Counts) -> list[np.ndarray]:
    """For each order from 2 the node, one level above, of each n-gram without its first word, int64 [N]."""
    vocab_size = len(counts[name(1)]["counts"])
    found = []
    for k in range(2, len(counts) + 1):
        level = counts[name(k)]
        words = np.asarray(level["words"], np.int64)
        if k == 2:
            found.append(words)
            continue
        keys = found[-1][parents(level)] * vocab_size + words
        found.append(np.searchsorted(keys_of(counts[name(k - 1)], vocab_size), keys))
    return found


def child(level: Level, nodes: Array, words: Array, vocab_size: int) -> Array:
    """The nodes of a level that are these nodes' children by these words, int32; -1 where there is none.

    Args:
      level: `words` and `first`, as JAX arrays.
      nodes: int32 of any shape, of the level above; -1: none.
      words: int32 of a shape that broadcasts with it.
      vocab_size: more than the children that any node has.
    """
    nodes, words = jnp.broadcast_arrays(nodes, words)
    size = level["words"].shape[0]
    if not size:
        return jnp.full(nodes.shape, -1, jnp.int32)
    there = nodes >= 0
    low = jnp.where(there, level["first"][jnp.maximum(nodes, 0)], 0)
    end = jnp.where(there, level["first"][jnp.maximum(nodes, 0) + 1], 0)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        right = (low < high) & (level["words"][jnp.minimum(middle, size - 1)] < words)
        return jnp.where(right, middle + 1, low), jnp.where(right, high, jnp.maximum(middle, low))

    low, _ = jax.lax.fori_loop(0, int(vocab_size).bit_length() + 1, halve, (low, end))
    hit = (low < end) & (level["words"][jnp.minimum(low, size - 1)] == words)
    return jnp.where(hit, low, -1).astype(jnp.int32)


def keep(counts: Counts, kept: Sequence[np.ndarray]) -> tuple[Counts, list[np.ndarray]]:
    """The tree of some nodes of each order from 2 and of all that lead to them; and which those are, bool [N] each."""
    vocab_size = len(counts[name(1)]["counts"])
    kept = [np.asarray(one).copy() for one in kept]
    for k in range(len(counts), 2, -1):
        kept[k - 3][parents(counts[name(k)])[kept[k - 2]]] = True
    small: Counts = {name(1): counts[name(1)]}
    number, num_nodes = np.arange(vocab_size), vocab_size
    for k, chosen in enumerate(kept, 2):
        level = counts[name(k)]
        keys = number[parents(level)[chosen]] * vocab_size + level["words"][chosen]
        rest = {key: value[chosen] for key, value in level.items() if key not in ("words", "first")}
        small[name(k)] = _level(keys, num_nodes, vocab_size) | rest
        number, num_nodes = np.cumsum(chosen) - 1, int(chosen.sum())
    return small, kept
