"""Means kept as (total, weight): merged by adding, divided once, when they are written."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array, Sums


def weighted(values: Array, weights: Array) -> Sums:
    """Sums of values under weights of the same shape; float32."""
    values = values.astype(jnp.float32)
    weights = weights.astype(jnp.float32)
    return Sums(total=jnp.sum(values * weights), weight=jnp.sum(weights))


def merge(left, right):
    """Add two trees of sums leaf by leaf."""
    return jax.tree.map(jnp.add, left, right)


def mean(sums: Sums) -> Array:
    """total / weight, and 0 where nothing was weighed."""
    return jnp.where(sums.weight > 0, sums.total / jnp.maximum(sums.weight, 1e-30), 0.0)
