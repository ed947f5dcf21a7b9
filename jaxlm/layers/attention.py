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
    """What every layer of a stack knows of its tokens' places, and of the sequence that cross-attention reads."""

    positions_BT: Array
    rotary: tuple[Array, Array] | None = None  # cosines, sines [B, 1, T, K]
    segment_ids_BT: Array | None = None
    prefix_B: Array | None = None  # all tokens of a row see its first so many
    bias_RH: Array | None = None  # T5's relative position bias; the stack puts it in
    source_BSD: Array | None = None  # an encoder's output
    source_segment_ids_BS: Array | None = None


@flax.struct.dataclass
class LayerCache:
    """One layer's keys and values, [B, G, S, K]; slot s holds position s."""

    k: Array
    v: Array
    cross: LayerCache | None = None  # of the source; None until a first call has made it


Caches = LayerCache | tuple[LayerCache, ...]
"""Of a whole stack; see `empty_caches`."""


class Attention(nn.Module):
    """Multi- or grouped-query attention (Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245).

    To a layer's own tokens, or with `spec.cross` to those of `sight.source_BSD`, which have no rotary positions.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    spec: Spec
    kernel_init: Initializer
    query_init: Initializer
    out_init: Initializer
    backend: str = "auto"
    qk_norm: bool = (
        False  # RMS norm of queries and keys a head (Dehghani et al. 2023, arXiv:2302.05442)
    )
    norm_eps: float = 1e-6
    norm_gains: bool = True
    qkv_bias: bool = False
    bias: bool = False  # of the output projection
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, sight: Sight, cache: LayerCache | None = None
    ) -> tuple[Array, LayerCache | None]:
        def heads(name: str, count: int, origin: Array, init: Initializer) -> Array:
            width = count * self.head_dim
            linear = Linear(width, ("embed", "heads"), init, self.qkv_bias, self.dtype, name=name)
            parts = linear(origin).reshape(*origin.shape[:2], count, self.head_dim)
            parts = jnp.swapaxes(parts, 1, 2)
            if self.qk_norm and name != "v":
                norm = RMSNorm(self.norm_eps, self.norm_gains, "head_dim", name=f"{name}_norm")
                parts = norm(parts)
            return parts

        q = heads("q", self.num_heads, x, self.query_init)
        if self.spec.cross and cache is not None:
            k, v = cache.k, cache.v
        else:
            origin = sight.source_BSD if self.spec.cross else x
            k = heads("k", self.num_kv_heads, origin, self.kernel_init)
            v = heads("v", self.num_kv_heads, origin, self.kernel_init)
        if self.spec.cross:
            y = self._cross(q, k, v, sight, decoding=cache is not None)
            cache = LayerCache(k, v)
        else:
            y, cache = self._self(q, k, v, sight, cache)
        y = jnp.swapaxes(y, 1, 2).reshape(*x.shape[:2], -1)
        out = Linear(
            x.shape[-1], ("heads", "embed"), self.out_init, self.bias, self.dtype, name="out"
        )
        return out(y), cache

    def _self(self, q, k, v, sight: Sight, cache: LayerCache | None):
        if sight.rotary is not None:
            q, k = positions.rotate(q, sight.rotary), positions.rotate(k, sight.rotary)
        given = {"prefix_B": sight.prefix_B, "bias_RH": sight.bias_RH}
        if cache is None:
            ids = sight.segment_ids_BT
            pair = None if ids is None else (ids, ids)
            y = attention_backends.attend(q, k, v, self.spec, self.backend, segments=pair, **given)
            return y, None
        cache = _write(cache, k, v, sight.positions_BT[:, 0])
        y = attention_backends.attend_cache(
            q, cache.k, cache.v, self.spec, sight.positions_BT, **given
        )
        return y, cache

    def _cross(self, q, k, v, sight: Sight, decoding: bool) -> Array:
        """Where only one side has segment ids, every token of the other is of segment 1."""
        mine, theirs = sight.segment_ids_BT, sight.source_segment_ids_BS
        pair = None
        if mine is not None or theirs is not None:
            batch, _, length, _ = q.shape
            mine = jnp.ones((batch, length), jnp.int32) if mine is None else mine
            theirs = jnp.ones((batch, k.shape[2]), jnp.int32) if theirs is None else theirs
            pair = (mine, theirs)
        if decoding:
            where = sight.positions_BT
            return attention_backends.attend_cache(q, k, v, self.spec, where, segments=pair)
        return attention_backends.attend(q, k, v, self.spec, self.backend, segments=pair)


def _write(cache: LayerCache, k: Array, v: Array, start_B: Array) -> LayerCache:
    """Put new keys and values at each row's own start; what lies beyond a row's length is overwritten later."""

    def row(old: Array, new: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (0, start, 0))

    write = jax.vmap(row)
    return LayerCache(write(cache.k, k, start_B), write(cache.v, v, start_B))


def empty_caches(
    num_layers: int, batch: int, max_len: int, heads: int, head_dim: int, dtype, stacked: bool
) -> Caches:
    """Room for `max_len` positions in every layer.

    One LayerCache a layer, so that a step writes into each in place; for layers that are scanned, `stacked`, a
    single one with a second axis for them, [B, N, G, S, K].
    """
    shape = (batch, heads, max_len, head_dim)

    def one(shape: tuple[int, ...]) -> LayerCache:
        return LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    if stacked:
        return one((batch, num_layers, *shape[1:]))
    return tuple(one(shape) for _ in range(num_layers))
