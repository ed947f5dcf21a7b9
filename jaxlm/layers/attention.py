"""The attention layer: projections, query-key norm, rotary positions, cache. The products are in `attention_backends`."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers import attention_backends, positions
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.linear import Initializer, Linear
from jaxlm.layers.norm import RMSNorm


@flax.struct.dataclass
class Sight:
    """What every layer of a stack knows of its tokens' places."""

    positions_BT: Array
    rotary: tuple[Array, Array] | None = None  # cosines, sines [B, 1, T, K]
    segment_ids_BT: Array | None = None


@flax.struct.dataclass
class LayerCache:
    """One layer's keys and values, [B, G, S, K]; slot s holds position s."""

    k: Array
    v: Array


class Attention(nn.Module):
    """Multi- or grouped-query self-attention (Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    spec: Spec
    kernel_init: Initializer
    out_init: Initializer
    backend: str = "auto"
    qk_norm: bool = (
        False  # RMS norm of queries and keys a head (Dehghani et al. 2023, arXiv:2302.05442)
    )
    norm_eps: float = 1e-6
    norm_gains: bool = True
    bias: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, sight: Sight, cache: LayerCache | None = None
    ) -> tuple[Array, LayerCache | None]:
        def heads(name: str, count: int) -> Array:
            width = count * self.head_dim
            linear = Linear(
                width, ("embed", "heads"), self.kernel_init, self.bias, self.dtype, name=name
            )
            return jnp.swapaxes(linear(x).reshape(*x.shape[:2], count, self.head_dim), 1, 2)

        groups = self.num_kv_heads
        q, k, v = heads("q", self.num_heads), heads("k", groups), heads("v", groups)
        if self.qk_norm:
            q = RMSNorm(self.norm_eps, self.norm_gains, "head_dim", name="q_norm")(q)
            k = RMSNorm(self.norm_eps, self.norm_gains, "head_dim", name="k_norm")(k)
        if sight.rotary is not None:
            q, k = positions.rotate(q, sight.rotary), positions.rotate(k, sight.rotary)
        if cache is None:
            y = attention_backends.attend(q, k, v, self.spec, self.backend, sight.segment_ids_BT)
        else:
            cache = _write(cache, k, v, sight.positions_BT[:, 0])
            y = attention_backends.attend_cache(q, cache.k, cache.v, self.spec, sight.positions_BT)
        y = jnp.swapaxes(y, 1, 2).reshape(*x.shape[:2], -1)
        out = Linear(
            x.shape[-1], ("heads", "embed"), self.out_init, self.bias, self.dtype, name="out"
        )
        return out(y), cache


def _write(cache: LayerCache, k: Array, v: Array, start_B: Array) -> LayerCache:
    """Put new keys and values at each row's own start; what lies beyond a row's length is overwritten later."""

    def row(old: Array, new: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, start, 0))

    write = jax.vmap(row)
    return LayerCache(write(cache.k, k, start_B), write(cache.v, v, start_B))


def empty_cache(
    num_layers: int, batch: int, max_len: int, heads: int, head_dim: int, dtype
) -> LayerCache:
    """Room for `max_len` positions in every layer, stacked: [N, B, G, S, K]."""
    shape = (num_layers, batch, heads, max_len, head_dim)
    return LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
