"""Normalisation over the last axis, computed in float32 whatever comes in."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.linear import as_row, named, times_row


class RMSNorm(nn.Module):
    """x / rms(x) * scale (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4)."""

    eps: float = 1e-6
    gains: bool = True
    axis: str = "norm"  # logical name of the gain's axis

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        y = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        if self.gains:
            scale = self.param("scale", named(nn.initializers.ones, self.axis), (x.shape[-1],))
            y = times_row(y, scale)
        return y.astype(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std * scale + bias (Ba et al. 2016, arXiv:1607.06450)."""

    eps: float = 1e-5
    bias: bool = True
    axis: str = "norm"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", named(nn.initializers.ones, self.axis), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        y = times_row(centred * inverse, scale)
        if self.bias:
            y = y + as_row(
                self.param("bias", named(nn.initializers.zeros, self.axis), scale.shape), x
            )
        return y.astype(x.dtype)


NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
