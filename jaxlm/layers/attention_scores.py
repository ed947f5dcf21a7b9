"""What attention is asked for (`Spec`) and the masked, biased scores that say what it means. Not for kernels.

Everything here is defined by positions: a key's place is its index, a query's is its index too or, with a cache, given.
"""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp

from jaxlm.core import masks
from jaxlm.core.types import Array
from jaxlm.layers.positions import alibi_slopes, relative_buckets

product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is asked of attention, known before compiling."""

    causal: bool = True
    window: int = 0  # 0: no limit; else the last `window` positions, a query's own included
    soft_cap: float = 0.0
    alibi: bool = False  # minus slope times distance (Press et al. 2022), to both sides alike
    segments: bool = False  # packed documents, filling
    prefix: bool = False  # each row's first positions are seen by all its queries
    cross: bool = False  # keys are of another sequence, of another length
    scale: float | None = None  # of scores; None: head width to the power of -1/2
    relative: tuple[int, int] | None = (
        None  # T5's position bias: number of buckets, farthest distance
    )

    def __post_init__(self):
        if self.cross and (self.causal or self.alibi or self.relative):
            raise ValueError(
                "Spec(cross=True) needs causal=False and neither alibi nor relative: "
                "a position of one sequence has no place in the other"
            )
        if self.prefix and not self.causal:
            raise ValueError("Spec(prefix=True) needs causal=True: without it every key is seen")
        if self.window and not self.causal:
            raise ValueError("Spec(window=...) needs causal=True: it is of the last positions")


def group(q_BHTK: Array, k_BGSK: Array) -> Array:
    """Queries by the key head that they share, [B, G, R, T, K] with R = H / G."""
    batch, heads, length, width = q_BHTK.shape
    groups = k_BGSK.shape[1]
    return q_BHTK.reshape(batch, groups, heads // groups, length, width)


def distance_bias(spec: Spec, distance: Array, num_heads: int, bias_RH: Array | None) -> Array:
    """What is added to scores of keys `distance` [...] after (before: negative) their query, float32 [H, ...]."""
    if spec.alibi:
        slopes_H = jnp.asarray(alibi_slopes(num_heads)).reshape(-1, *[1] * distance.ndim)
        return -slopes_H * jnp.abs(distance)[None].astype(jnp.float32)
    num_buckets, farthest = spec.relative
    buckets = relative_buckets(distance, num_buckets, farthest, bidirectional=not spec.causal)
    return jnp.moveaxis(bias_RH.astype(jnp.float32)[buckets], -1, 0)


def scaled(q_BHTK: Array, spec: Spec) -> Array:
    """Queries times the scale of scores: fewer products than scaling the scores."""
    scale = q_BHTK.shape[-1] ** -0.5 if spec.scale is None else spec.scale
    return q_BHTK * jnp.asarray(scale, q_BHTK.dtype)


def finish(capped: Array, bias: Array | None, mask: Array | None) -> Array:
    """Scores with their bias, and the lowest number for keys that are hidden."""
    scores = capped if bias is None else capped + bias
    return scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)


def visible(spec: Spec, query_pos, key_pos, segments=None, prefix_B=None) -> Array | None:
    """Which key a query sees, to be broadcast to [B, 1, T, S]; None: all. `segments` is (query_BT, key_BS)."""
    parts = []
    if spec.causal:
        seen = masks.causal(query_pos, key_pos)
        if prefix_B is not None:
            seen = seen | masks.prefix(key_pos, prefix_B)
        parts.append(seen)
    if spec.window:
        parts.append(masks.sliding_window(query_pos, key_pos, spec.window))
    if segments is not None:
        parts.append(masks.segments(*segments))
    return functools.reduce(jnp.logical_and, parts) if parts else None
