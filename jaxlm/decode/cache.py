"""What can be done with any family's cache, because every leaf's first axis is the batch."""

from __future__ import annotations

import jax

from jaxlm.core.types import Array, PyTree


def take_rows(cache: PyTree, rows_B: Array) -> PyTree:
    """The cache of these rows, in this order; one may be named more than once."""
    return jax.tree.map(lambda leaf: leaf[rows_B], cache)


def put_rows(cache: PyTree, rows_R: Array, new: PyTree) -> PyTree:
    """The cache with these rows replaced by those of another one; row numbers beyond its own are left out."""
    return jax.tree.map(lambda leaf, row: leaf.at[rows_R].set(row, mode="drop"), cache, new)
