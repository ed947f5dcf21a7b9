"""Masks as literal pictures: rows are queries, columns are keys."""

import jax.numpy as jnp
import numpy as np

from jaxlm.core import masks

POSITIONS = jnp.arange(4, dtype=jnp.int32)[None]


def picture(mask):
    return ["".join("x" if seen else "." for seen in row) for row in np.asarray(mask)[0, 0]]


def test_causal():
    assert picture(masks.causal(POSITIONS, POSITIONS)) == ["x...", "xx..", "xxx.", "xxxx"]


def test_sliding_window_counts_the_query_itself():
    near = masks.sliding_window(POSITIONS, POSITIONS, 2) & masks.causal(POSITIONS, POSITIONS)
    assert picture(near) == ["x...", "xx..", ".xx.", "..xx"]


def test_segments_see_only_themselves():
    ids = jnp.array([[1, 1, 2, 0]])
    assert picture(masks.segments(ids, ids)) == ["xx..", "xx..", "..x.", "...x"]
