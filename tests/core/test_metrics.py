"""Sums merge by adding and divide once."""

import jax.numpy as jnp
import numpy as np

from jaxlm.core import metrics


def test_merging_ragged_parts_is_the_mean_of_the_whole():
    left = metrics.weighted(jnp.array([1.0, 2.0, 9.0]), jnp.array([1.0, 1.0, 0.0]))
    right = metrics.weighted(jnp.array([6.0]), jnp.array([1.0]))
    assert float(metrics.mean(metrics.merge(left, right))) == 3.0


def test_no_weight_is_zero_and_not_nan():
    assert float(metrics.mean(metrics.weighted(jnp.ones(3), jnp.zeros(3)))) == 0.0
    assert np.isfinite(metrics.mean(metrics.weighted(jnp.ones(3), jnp.zeros(3))))
