"""What can be done with any family's cache, because every leaf's first axis is the batch."""

from __future__ import annotations

import jax

from jaxlm.core.types import Array, PyTree


def take_rows(cache: PyTree, rows_B: Array) -> PyTree:
    """The cache of these rows, in this order; one may be named more than once."""
    return jax.tree.map(lambda leaf: leaf[rows_B], cache)
