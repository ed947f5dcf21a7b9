"""T5's buckets of relative positions, by hand."""

import jax.numpy as jnp
import numpy as np

from jaxlm.layers.positions import relative_buckets


def test_causal():
    """Of 8 buckets 4 are single distances; then 4 + floor(4 log(d / 4) / log(16 / 4)): 4 5, 6 7, 8 to 11, the rest."""
    back = jnp.arange(0, -18, -1)
    buckets = relative_buckets(back, 8, 16, bidirectional=False)
    assert buckets.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7]
    assert relative_buckets(jnp.array([1, 5, 99]), 8, 16, bidirectional=False).tolist() == [0, 0, 0]


def test_bidirectional():
    """Half of 8 buckets for each side, of which 2 are single distances; then 2 + floor(2 log(d / 2) / log(16 / 2))."""
    distance = jnp.array([0, -1, -2, -5, -6, -99, 1, 2, 5, 6, 99])
    buckets = relative_buckets(distance, 8, 16, bidirectional=True)
    assert buckets.tolist() == [0, 1, 2, 2, 3, 3, 5, 6, 6, 7, 7]


def test_edges_of_the_weights_that_everybody_has():
    """32 buckets up to 128: a bucket begins at 8 * 16^(n/8), so 16, 32 and 64 begin one, though 8 log 2 / log 16 is not exact."""
    at = jnp.array([-7, -8, -15, -16, -31, -32, -63, -64, -127, -128])
    assert relative_buckets(at, 32, 128, bidirectional=True).tolist() == [
        7, 8, 9, 10, 11, 12, 13, 14, 15, 15,
    ]  # fmt: skip
    assert np.asarray(relative_buckets(-at, 32, 128, bidirectional=True) - 16).tolist() == [
        7, 8, 9, 10, 11, 12, 13, 14, 15, 15,
    ]  # fmt: skip
