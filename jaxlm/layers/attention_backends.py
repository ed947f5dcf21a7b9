"""Scaled dot-product attention by backend. A requested backend runs or raises; `auto` says what it chose and why.

One signature for all, heads first: q [B, H, T, K]; k, v [B, G, S, K] with G dividing H (grouped queries); returns
[B, H, T, K].
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxlm.core import masks, numerics
from jaxlm.core.types import Array
from jaxlm.layers.positions import alibi_slopes

BACKENDS = ("auto", "xla", "cudnn", "splash")
SPLASH_TILE = 128
MIN_BLOCK, MAX_BLOCKS = 64, 8
"""The XLA backend cuts queries into blocks of at least so many positions, and at most so many blocks."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is asked of attention, known before compiling."""

    causal: bool = True
    window: int = 0  # 0: no limit; else the last `window` positions, a query's own included
    soft_cap: float = 0.0
    alibi: bool = False
    segments: bool = False  # packed documents


def _refusal(
    backend: str, spec: Spec, dtype: str, head_dim: int, length: int, platform: str
) -> str:
    """Why a backend can't do this, or an empty string."""
    if backend == "xla":
        return ""
    if backend == "cudnn":
        if platform != "gpu" or "nvidia" not in jax.devices()[0].device_kind.lower():
            return f"it needs an NVIDIA GPU and this is {jax.devices()[0].device_kind}"
        if float(getattr(jax.devices()[0], "compute_capability", 0)) < 8:
            return "it needs compute capability 8.0 (Ampere) or newer"
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
        if length % SPLASH_TILE:
            return f"it needs a length divisible by {SPLASH_TILE}, not {length}"
        if head_dim % SPLASH_TILE:
            return f"it needs a head width that is a multiple of {SPLASH_TILE}, not {head_dim}"
    if spec.alibi:
        return "it has no ALiBi bias"
    if spec.segments and backend == "cudnn":
        return "it can't keep packed documents apart (jax#29731)"
    if spec.soft_cap and backend == "cudnn":
        return "it has no soft-cap"
    return ""


def choose(requested: str, spec: Spec, dtype: str, head_dim: int, length: int) -> tuple[str, str]:
    """The backend that will run for sequences of `length`, and why.

    Raises:
      ValueError: an unknown name, or the requested backend can't do what is asked on this device.
    """
    platform = jax.default_backend()
    if requested not in BACKENDS:
        raise ValueError(f"model.attention={requested!r}: accepted are {', '.join(BACKENDS)}")
    if requested != "auto":
        refusal = _refusal(requested, spec, dtype, head_dim, length, platform)
        if refusal:
            raise ValueError(
                f'model.attention="{requested}" can\'t run: {refusal}; use "auto" or "xla"'
            )
        return requested, "requested"
    favourite = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
    refusal = _refusal(favourite, spec, dtype, head_dim, length, platform)
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
    chosen, _ = choose(backend, spec, str(q.dtype), q.shape[-1], q.shape[2])
    if chosen == "cudnn":
        return _cudnn(q, k, v, spec)
    if chosen == "splash":
        return _splash(q, k, v, spec, segment_ids_BT)
    return _xla(q, k, v, segment_ids_BT, spec)


def attend_cache(q, k, v, spec: Spec, query_pos_BT: Array) -> Array:
    """Attention of new queries to a cache whose slot s holds position s; slots after a query are hidden."""
    key_pos_BS = jnp.arange(k.shape[2], dtype=jnp.int32)[None]
    scores = _scores(_group(q, k), k, spec, query_pos_BT, key_pos_BS)
    out = jnp.einsum("BGRTS,BGSK->BGRTK", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
    return out.reshape(q.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _xla(q, k, v, segment_ids, spec: Spec) -> Array:
    """Query blocks against the keys that they can see: causal attention does half of the work, windowed less.

    The backward pass computes probabilities again from the saved normalisers, as in FlashAttention-2
    (Dao 2023, arXiv:2307.08691, algorithm 2), so that no T x S matrix outlives its block.
    """
    return _xla_forward(q, k, v, segment_ids, spec)[0]


def _xla_forward(q, k, v, segment_ids, spec: Spec):
    queries = _group(q, k)
    outputs, normalisers = [], []
    for rows, keys in _blocks(q.shape[2], spec):
        score = _block_scores(spec, rows, keys, segment_ids)
        scores = score(queries[:, :, :, rows], k[:, :, keys])
        highest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = _product("BGRTS,BGSK->BGRTK", weights.astype(v.dtype), v[:, :, keys])
        outputs.append((mixed / total).astype(q.dtype))
        normalisers.append(highest + jnp.log(total))
    out = jnp.concatenate(outputs, axis=3)
    return out.reshape(q.shape), (q, k, v, segment_ids, out, normalisers)


def _xla_backward(spec: Spec, saved, grad_out):
    q, k, v, segment_ids, out, normalisers = saved
    queries, grad_out = _group(q, k), grad_out.reshape(out.shape)
    inner = jnp.sum(grad_out.astype(jnp.float32) * out, axis=-1, keepdims=True)
    grad_q, grad_k, grad_v = [], 0.0, 0.0
    for (rows, keys), normaliser in zip(_blocks(q.shape[2], spec), normalisers, strict=True):
        score = _block_scores(spec, rows, keys, segment_ids)
        scores, pull = jax.vjp(score, queries[:, :, :, rows], k[:, :, keys])
        probs = jnp.exp(scores - normaliser)
        grads = grad_out[:, :, :, rows]
        grad_probs = _product("BGRTK,BGSK->BGRTS", grads, v[:, :, keys])
        block_q, block_k = pull(probs * (grad_probs - inner[:, :, :, rows]))
        block_v = _product("BGRTS,BGRTK->BGSK", probs.astype(grads.dtype), grads)
        beyond = ((0, 0), (0, 0), (keys.start, k.shape[2] - keys.stop), (0, 0))
        grad_q.append(block_q)
        grad_k = grad_k + jnp.pad(block_k.astype(jnp.float32), beyond)
        grad_v = grad_v + jnp.pad(block_v, beyond)
    grad_q = jnp.concatenate(grad_q, axis=3).reshape(q.shape)
    return grad_q, grad_k.astype(k.dtype), grad_v.astype(v.dtype), None


_xla.defvjp(_xla_forward, _xla_backward)
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _group(q: Array, k: Array) -> Array:
    """Queries by the key head that they share, [B, G, H/G, T, K]."""
    batch, heads, length, width = q.shape
    return q.reshape(batch, k.shape[1], heads // k.shape[1], length, width)


def _blocks(length: int, spec: Spec) -> list[tuple[slice, slice]]:
    """(queries, the keys that some of them can see) of each block."""
    step = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    blocks = []
    for start in range(0, length, step):
        end = min(start + step, length)
        first = max(0, start - spec.window + 1) if spec.window else 0
        blocks.append((slice(start, end), slice(first, end if spec.causal else length)))
    return blocks


def _block_scores(spec: Spec, rows: slice, keys: slice, segment_ids: Array | None):
    """The function from a block's queries and keys to its masked scores."""
    query_pos, key_pos = (
        jnp.arange(part.start, part.stop, dtype=jnp.int32)[None] for part in (rows, keys)
    )
    segments = () if segment_ids is None else (segment_ids[:, rows], segment_ids[:, keys])
    return lambda q, k: _scores(q, k, spec, query_pos, key_pos, *segments)


def _scores(q, k, spec: Spec, query_pos, key_pos, query_seg=None, key_seg=None) -> Array:
    """Masked float32 scores [B, G, H/G, T, S] of grouped queries."""
    scores = _product("BGRTK,BGSK->BGRTS", q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), k)
    scores = numerics.soft_cap(scores, spec.soft_cap)
    if spec.alibi:
        slopes = alibi_slopes(q.shape[1] * q.shape[2]).reshape(1, *q.shape[1:3], 1, 1)
        distance = key_pos[:, None, None, None, :] - query_pos[:, None, None, :, None]
        scores = scores + slopes * distance.astype(jnp.float32)
    visible = []
    if spec.causal:
        visible.append(masks.causal(query_pos, key_pos))
    if spec.window:
        visible.append(masks.sliding_window(query_pos, key_pos, spec.window))
    if query_seg is not None:
        visible.append(masks.segments(query_seg, key_seg))
    if not visible:
        return scores
    mask = functools.reduce(jnp.logical_and, visible)
    return jnp.where(mask[:, :, None], scores, jnp.finfo(jnp.float32).min)


def _cudnn(q, k, v, spec: Spec) -> Array:
    window = (spec.window - 1, 0) if spec.window else None
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        q, k, v, is_causal=spec.causal, local_window_size=window, implementation="cudnn"
    )
    return jnp.swapaxes(out, 1, 2)


def _splash(q, k, v, spec: Spec, segment_ids: Array | None, interpret: bool = False) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    heads, length = q.shape[1], q.shape[2]
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
    repeat = heads // k.shape[1]
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    k, v = (jnp.repeat(x, repeat, axis=1) for x in (k, v))
    ids = None
    if segment_ids is not None:
        ids = splash_attention_kernel.SegmentIds(segment_ids, segment_ids)
    return jax.vmap(kernel, in_axes=(0, 0, 0, None if ids is None else 0))(q, k, v, ids)
