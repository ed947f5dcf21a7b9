"""Matrix products with named axes: the one place where kernels are made, and where low-rank adapters meet them."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array

Initializer = Callable[..., Array]


def named(init: Initializer, *axes: str | None) -> Initializer:
    """An initializer whose parameter carries logical axis names (train/parallel.py maps them to the mesh)."""
    return nn.with_logical_partitioning(init, axes)


class Linear(nn.Module):
    """y = x W (+ b): float32 parameters, products in `dtype`. W is [in, out], always two-dimensional.

    Products are of all positions as rows of one matrix: the gradient of W is then one product too, where that of x [B, T, in]
    would copy its operands, which on a CPU was a third of BERT's step.

    Where the parameters hold `lora_a` and `lora_b` beside the kernel (train/tuning/lora.py), their product is added to W.
    """

    features: int
    axes: tuple[str, str | None]
    kernel_init: Initializer
    bias: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel", named(self.kernel_init, *self.axes), (x.shape[-1], self.features)
        )
        dtype = jnp.dtype(self.dtype)
        rows = x.astype(dtype).reshape(-1, x.shape[-1])
        y = jnp.matmul(rows, kernel.astype(dtype))
        if self.has_variable("params", "lora_a"):
            y = y + self._adapter(rows)
        y = y.reshape(*x.shape[:-1], self.features)
        if self.bias:
            bias = self.param("bias", named(nn.initializers.zeros, self.axes[1]), (self.features,))
            y = y + as_row(bias.astype(dtype), y)
        return y

    def _adapter(self, x: Array) -> Array:
        """drop(x) A B, with B already scaled."""
        if self.has_variable("params", "lora_dropout"):
            kept = 1 - self.get_variable("params", "lora_dropout")
            mask = jax.random.bernoulli(self.make_rng("dropout"), kept, x.shape)
            x = jnp.where(mask, x / kept.astype(x.dtype), jnp.zeros((), x.dtype))
        low = jnp.matmul(x, self.get_variable("params", "lora_a").astype(x.dtype))
        return jnp.matmul(low, self.get_variable("params", "lora_b").astype(x.dtype))


class Head(nn.Module):
    """An output projection of its own, [D, V], not applied: `NeuralOutput` does that."""

    rows: int
    width: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self) -> Array:
        init = named(self.kernel_init, "embed", "vocab")
        return self.param("kernel", init, (self.width, self.rows))


def as_row(vector: Array, like: Array) -> Array:
    """A vector shaped to broadcast over `like`'s last axis, its rank spelled out."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


@jax.custom_vjp
def times_row(x: Array, vector: Array) -> Array:
    """x times a vector over its last axis.

    On a CPU the vector's gradient is a product with ones: of a batch of one row, the sum that XLA fuses with what it is of
    took six to thirty times as long (1,024 x 256 numbers).
    """
    return x * as_row(vector, x)


def _times_row(x, vector):
    return times_row(x, vector), (x, vector)


def _times_row_back(kept, grad):
    x, vector = kept
    products = x * grad
    if jax.default_backend() == "cpu":
        rows = products.reshape(-1, x.shape[-1])
        of_vector = jnp.matmul(jnp.ones((1, rows.shape[0]), rows.dtype), rows)[0]
    else:
        of_vector = jnp.sum(products, axis=tuple(range(x.ndim - 1)))
    return grad * as_row(vector, grad), of_vector


times_row.defvjp(_times_row, _times_row_back)
