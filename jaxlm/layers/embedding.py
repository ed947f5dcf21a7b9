"""Tables from ids to vectors."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.linear import Initializer, named

ONE_HOT_LIMIT = 512
"""Up to this many rows the lookup is a product with a one-hot matrix, so that its gradient is no scatter."""


class Embedding(nn.Module):
    """A table [rows, features], float32; looked up in `dtype`."""

    rows: int
    features: int
    kernel_init: Initializer
    axes: tuple[str | None, str] = ("vocab", "embed")
    dtype: str = "float32"

    def setup(self):
        self.embedding = self.param(
            "embedding", named(self.kernel_init, *self.axes), (self.rows, self.features)
        )

    def __call__(self, ids: Array) -> Array:
        table = self.embedding.astype(self.dtype)
        if self.rows <= ONE_HOT_LIMIT:
            return jnp.matmul(jax.nn.one_hot(ids, self.rows, dtype=self.dtype), table)
        return jnp.take(table, ids, axis=0, mode="clip")
