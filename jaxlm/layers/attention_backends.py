"""Scaled dot-product attention by backend. A requested backend runs or raises; `auto` says what it chose and why.

One signature for all: q [B, T, H, K]; k, v [B, S, G, K] with G dividing H (grouped queries); returns [B, T, H, K].
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxlm.core import masks, numerics
from jaxlm.core.types import Array
from jaxlm.layers.positions import alibi_slopes

BACKENDS = ("auto", "xla", "cudnn", "splash")
SPLASH_TILE = 128
QUERY_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is asked of attention, known before compiling."""

    causal: bool = True
    window: int = 0  # 0: no limit; else the last `window` positions, a query's own included
    soft_cap: float = 0.0
    alibi: bool = False
    segments: bool = False  # packed documents


def _refusal(backend: str, spec: Spec, dtype: str, head_dim: int, platform: str) -> str:
    """Why a backend can't do this, or an empty string."""
    if backend == "xla":
        return ""
    if backend == "cudnn":
        if platform != "gpu" or "nvidia" not in jax.devices()[0].device_kind.lower():
            return f"it needs an NVIDIA GPU and this is {jax.devices()[0].device_kind}"
        if dtype not in ("bfloat16", "float16"):
            return f"it needs model.dtype=bfloat16, not {dtype}"
        if head_dim % 8 or head_dim > 128:
            return f"it needs a head width that is a multiple of 8 up to 128, not {head_dim}"
        if spec.window and not spec.causal:
            return "its window without causality looks ahead (jax#39576)"
    if backend == "splash":
        if platform != "tpu":
            return f"it needs a TPU and this is {jax.devices()[0].device_kind}"
        if jax.device_count() > 1:
            return "it is not partitioned over several devices here"
        if head_dim % SPLASH_TILE:
            return f"it needs a head width that is a multiple of {SPLASH_TILE}, not {head_dim}"
    if spec.alibi:
        return "it has no ALiBi bias"
    if spec.segments and backend == "cudnn":
        return "it can't keep packed documents apart (jax#29731)"
    if spec.soft_cap and backend == "cudnn":
        return "it has no soft-cap"
    return ""


def choose(requested: str, spec: Spec, dtype: str, head_dim: int) -> tuple[str, str]:
    """The backend that will run, and why.

    Raises:
      ValueError: an unknown name, or the requested backend can't do what is asked on this device.
    """
    platform = jax.default_backend()
    if requested not in BACKENDS:
        raise ValueError(f"model.attention={requested!r}: accepted are {', '.join(BACKENDS)}")
    if requested != "auto":
        refusal = _refusal(requested, spec, dtype, head_dim, platform)
        if refusal:
            raise ValueError(
                f'model.attention="{requested}" can\'t run: {refusal}; use "auto" or "xla"'
            )
        return requested, "requested"
    favourite = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
    refusal = _refusal(favourite, spec, dtype, head_dim, platform)
    if refusal:
        return "xla", f"auto: not {favourite}, {refusal}"
    return favourite, f"auto: fastest on {platform}"


def attend(q, k, v, spec: Spec, backend: str, segment_ids_BT: Array | None = None) -> Array:
    """Self-attention over whole sequences, q and k at the same positions.

    Raises:
      ValueError: the backend can't do what `spec` asks (see `choose`).
    """
    if segment_ids_BT is not None and not spec.segments:
        spec = dataclasses.replace(spec, segments=True)
    chosen, _ = choose(backend, spec, str(q.dtype), q.shape[-1])
    if chosen == "cudnn":
        return _cudnn(q, k, v, spec)
    if chosen == "splash":
        return _splash(q, k, v, spec, segment_ids_BT)
    return _xla(q, k, v, spec, segment_ids_BT)


def attend_cache(q, k, v, spec: Spec, query_pos_BT: Array) -> Array:
    """Attention of new queries to a cache whose slot s holds position s; slots after a query are hidden."""
    key_pos_BS = jnp.arange(k.shape[1], dtype=jnp.int32)[None]
    return _block(q, k, v, spec, query_pos_BT, key_pos_BS, None, None)


def _xla(q, k, v, spec: Spec, segment_ids: Array | None) -> Array:
    """Query blocks against the keys that they can see: causal attention does half of the work, windowed less."""
    length = q.shape[1]
    step = QUERY_BLOCK if spec.causal and length > QUERY_BLOCK else length
    blocks = []
    for start in range(0, length, step):
        end = min(start + step, length)
        first = max(0, start - spec.window + 1) if spec.window else 0
        keys = slice(first, end if spec.causal else length)
        positions = jnp.arange(length, dtype=jnp.int32)[None]
        query_seg = None if segment_ids is None else segment_ids[:, start:end]
        key_seg = None if segment_ids is None else segment_ids[:, keys]
        blocks.append(
            _block(
                q[:, start:end],
                k[:, keys],
                v[:, keys],
                spec,
                positions[:, start:end],
                positions[:, keys],
                query_seg,
                key_seg,
            )
        )
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)


def _block(q, k, v, spec: Spec, query_pos, key_pos, query_seg, key_seg) -> Array:
    batch, length, heads, width = q.shape
    groups = k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, width) * jnp.asarray(width**-0.5, q.dtype)
    scores = jnp.einsum("BTGRK,BSGK->BGRTS", q, k, preferred_element_type=jnp.float32)
    scores = numerics.soft_cap(scores, spec.soft_cap)
    if spec.alibi:
        slopes = alibi_slopes(heads).reshape(1, groups, heads // groups, 1, 1)
        distance = key_pos[:, None, None, None, :] - query_pos[:, None, None, :, None]
        scores = scores + slopes * distance.astype(jnp.float32)
    visible = None
    if spec.causal:
        visible = masks.causal(query_pos, key_pos)
    if spec.window:
        near = masks.sliding_window(query_pos, key_pos, spec.window)
        visible = near if visible is None else visible & near
    if query_seg is not None:
        same = masks.segments(query_seg, key_seg)
        visible = same if visible is None else visible & same
    if visible is not None:
        scores = jnp.where(visible[:, :, None], scores, jnp.finfo(jnp.float32).min)
    probs = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("BGRTS,BSGK->BTGRK", probs, v)
    return out.reshape(batch, length, heads, width)


def _cudnn(q, k, v, spec: Spec) -> Array:
    window = (spec.window - 1, 0) if spec.window else None
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=spec.causal, local_window_size=window, implementation="cudnn"
    )


def _splash(q, k, v, spec: Spec, segment_ids: Array | None, interpret: bool = False) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    length, heads = q.shape[1], q.shape[2]
    if length % SPLASH_TILE:
        raise ValueError(
            f'model.attention="splash" needs a length divisible by {SPLASH_TILE}, not {length}'
        )
    shape = (length, length)
    mask = splash_attention_mask.FullMask(shape)
    if spec.causal:
        mask = splash_attention_mask.CausalMask(shape)
    if spec.window:
        ahead = 0 if spec.causal else None
        mask = splash_attention_mask.LocalMask(shape, (spec.window - 1, ahead), 0)
    kernel = splash_attention_kernel.make_splash_mha_single_device(
        splash_attention_mask.MultiHeadMask([mask] * heads),
        attn_logits_soft_cap=spec.soft_cap or None,
        interpret=interpret,
    )
    repeat = heads // k.shape[2]

    def heads_first(x: Array) -> Array:
        return jnp.moveaxis(x, 2, 1)

    q = heads_first(q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype))
    k, v = (heads_first(jnp.repeat(x, repeat, axis=2)) for x in (k, v))
    ids = None
    if segment_ids is not None:
        ids = splash_attention_kernel.SegmentIds(segment_ids, segment_ids)
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None if ids is None else 0))(q, k, v, ids)
    return jnp.moveaxis(out, 1, 2)
