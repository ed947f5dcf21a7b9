"""The attention layer: projections, query-key norm, rotary positions, cache. The products are in `attention_backends`."""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers import attention_backends, positions
from jaxlm.layers.attention_backends import Part, Spec
from jaxlm.layers.linear import Initializer, Linear
from jaxlm.layers.norm import RMSNorm

SHOWN = ("states", "attention")
"""What every layer of a stack can give besides its states, on request: those states themselves, and its probabilities."""


@flax.struct.dataclass
class Sight:
    """What every layer of a stack knows of its tokens' places, and of the sequence that cross-attention reads."""

    positions_BT: Array
    lengths_B: Array | None = None  # with a cache: how many tokens of a row are real; None: all
    rotary: tuple[Array, Array] | None = None  # cosines, sines [B, 1, T, K]
    segment_ids_BT: Array | None = None
    prefix_B: Array | None = None  # all tokens of a row see its first so many
    bias_RH: Array | None = None  # T5's relative position bias; the stack puts it in
    source_BSD: Array | None = None  # an encoder's output
    source_segment_ids_BS: Array | None = None
    shown: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())  # of SHOWN

    def real(self, length: int) -> Array | None:
        """Which of `length` tokens are no filling, bool [B, T]; None: all."""
        if self.segment_ids_BT is not None:
            return self.segment_ids_BT != 0
        if self.lengths_B is not None:
            return jnp.arange(length, dtype=jnp.int32)[None] < self.lengths_B[:, None]
        return None


@flax.struct.dataclass
class LayerCache:
    """One layer's keys and values in S slots; slot s holds the last position of a row that is s modulo S.

    So slot s holds position s where S is a text's length. Under a window S is no more than window + RING_SLACK, and
    the cache a ring, which still holds all that RING_SLACK more queries see, or a row's next one when it is rewound.
    """

    k_BGKS: Array
    v_BGSK: Array
    cross: LayerCache | None = None  # of the source; None until a first call has made it


Caches = LayerCache | tuple[LayerCache, ...]
"""Of a whole stack; see `empty_caches`."""

RING_SLACK = 32
"""Slots of a ring beyond its window."""

NOWHERE = 2**30
"""The position of a slot that holds nothing: after any query."""


class Attention(nn.Module):
    """Multi- or grouped-query attention (Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245).

    To a layer's own tokens, or with `spec.cross` to those of `sight.source_BSD`, which have no rotary positions. Gives what
    is read, the new cache, and the probabilities [B, H, T, S] where `sight.shown` asks for them.
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
    ) -> tuple[Array, LayerCache | None, Array | None]:
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
            k, v = jnp.swapaxes(cache.k_BGKS, 2, 3), cache.v_BGSK
        else:
            origin = sight.source_BSD if self.spec.cross else x
            k = heads("k", self.num_kv_heads, origin, self.kernel_init)
            v = heads("v", self.num_kv_heads, origin, self.kernel_init)
        if self.spec.cross:
            y, probs = self._cross(q, k, v, sight, decoding=cache is not None)
            cache = LayerCache(jnp.swapaxes(k, 2, 3), v)
        else:
            y, cache, probs = self._self(q, k, v, sight, cache)
        y = jnp.swapaxes(y, 1, 2).reshape(*x.shape[:2], -1)
        out = Linear(
            x.shape[-1], ("heads", "embed"), self.out_init, self.bias, self.dtype, name="out"
        )
        return out(y), cache, probs

    def _self(self, q, k, v, sight: Sight, cache: LayerCache | None):
        if sight.rotary is not None:
            q, k = positions.rotate(q, sight.rotary), positions.rotate(k, sight.rotary)
        given = {"prefix_B": sight.prefix_B, "bias_RH": sight.bias_RH}
        if cache is None:
            ids = sight.segment_ids_BT
            pair = None if ids is None else (ids, ids)
            y, probs = self._whole(q, k, v, sight, segments=pair, **given)
            return y, None, probs
        places_BT = sight.positions_BT
        new = Part(jnp.swapaxes(k, 2, 3), v, places_BT)
        start_B, length = places_BT[:, 0], places_BT.shape[1]
        end_B = start_B + (length if sight.lengths_B is None else sight.lengths_B)
        written = _write(cache, new, end_B)
        if self.spec.window and length > RING_SLACK:  # some keys that a first query sees are gone
            parts = (_held(cache, start_B), new)
        else:
            parts = (_held(written, end_B),)
        y = attention_backends.attend_cache(q, parts, self.spec, places_BT, **given)
        return y, written, None

    def _whole(self, q, k, v, sight: Sight, **given) -> tuple[Array, Array | None]:
        if "attention" in sight.shown:
            return attention_backends.attend_shown(q, k, v, self.spec, **given)
        return attention_backends.attend(q, k, v, self.spec, self.backend, **given), None

    def _cross(self, q, k, v, sight: Sight, decoding: bool) -> tuple[Array, Array | None]:
        pair = source_segments(sight, q.shape[2], k.shape[2])
        if decoding:
            where = sight.positions_BT
            slots = jnp.arange(k.shape[2], dtype=jnp.int32)[None]
            part = Part(jnp.swapaxes(k, 2, 3), v, slots)
            y = attention_backends.attend_cache(q, (part,), self.spec, where, segments=pair)
            return y, None
        return self._whole(q, k, v, sight, segments=pair)


def source_segments(sight: Sight, length: int, source_length: int) -> tuple[Array, Array] | None:
    """Segment ids [B, T] of the tokens and [B, S] of the source; None: there are none.

    Where only one side has them, every token of the other is of segment 1.
    """
    mine, theirs = sight.segment_ids_BT, sight.source_segment_ids_BS
    if mine is None and theirs is None:
        return None
    batch = (theirs if mine is None else mine).shape[0]
    mine = jnp.ones((batch, length), jnp.int32) if mine is None else mine
    theirs = jnp.ones((batch, source_length), jnp.int32) if theirs is None else theirs
    return mine, theirs


def _write(cache: LayerCache, new: Part, end_B: Array) -> LayerCache:
    """Put new keys and values into their slots; filling, and what a ring would overwrite again, goes nowhere."""
    num_slots = cache.v_BGSK.shape[2]
    kept_BT = (new.positions < end_B[:, None]) & (new.positions >= end_B[:, None] - num_slots)
    slots_BT = jnp.where(kept_BT, new.positions % num_slots, num_slots)

    @jax.vmap
    def row(k_GKS: Array, v_GSK: Array, new: Part, slots_T: Array) -> LayerCache:
        k_GKS = k_GKS.at[:, :, slots_T].set(new.k_BGKS.astype(k_GKS.dtype), mode="drop")
        v_GSK = v_GSK.at[:, slots_T].set(new.v_BGSK.astype(v_GSK.dtype), mode="drop")
        return LayerCache(k_GKS, v_GSK)

    return row(cache.k_BGKS, cache.v_BGSK, new, slots_BT)


def _held(cache: LayerCache, length_B: Array) -> Part:
    """What a cache holds of rows that are so long."""
    num_slots = cache.v_BGSK.shape[2]
    last_B1 = length_B[:, None] - 1
    back_BS = (last_B1 - jnp.arange(num_slots, dtype=jnp.int32)[None]) % num_slots
    held_BS = jnp.where(back_BS <= last_B1, last_B1 - back_BS, NOWHERE)
    return Part(cache.k_BGKS, cache.v_BGSK, held_BS)


def empty_caches(
    num_layers: int, batch: int, num_slots: int, heads: int, head_dim: int, dtype, stacked: bool
) -> Caches:
    """`num_slots` slots in every layer.

    One LayerCache a layer, so that a step writes into each in place; for layers that are scanned, `stacked`, a
    single one with a second axis for them, [B, N, G, ...].
    """
    before = (batch, num_layers, heads) if stacked else (batch, heads)

    def one() -> LayerCache:
        k = jnp.zeros((*before, head_dim, num_slots), dtype)
        return LayerCache(k, jnp.zeros((*before, num_slots, head_dim), dtype))

    return one() if stacked else tuple(one() for _ in range(num_layers))
