"""The one gate of attention: a requested backend runs or raises; `auto` says what it chose and why.

One signature for all, heads first: q [B, H, T, K]; k, v [B, G, S, K] with G dividing H (grouped queries); returns
[B, H, T, K]. What each backend can do: docs/attention.md.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core import numerics
from jaxlm.core.types import Array
from jaxlm.layers import attention_kernels, attention_scores, blockwise
from jaxlm.layers.attention_scores import Spec

BACKENDS = ("auto", "xla", "blockwise", "cudnn", "splash")


class Part(NamedTuple):
    """Keys, values, and where they stand. A product with keys that lie this way reads them in their order."""

    k_BGKS: Array
    v_BGSK: Array
    positions: Array  # int32 [B, S] or [1, S]


def refusal(backend: str, spec: Spec, dtype: str, head_dim: int) -> str:
    """Why a backend can't do this on any device, or an empty string: "xla" and "blockwise" can do everything."""
    if backend in ("xla", "blockwise"):
        return ""
    return attention_kernels.refusal(backend, spec, dtype, head_dim)


def choose(requested: str, spec: Spec, dtype: str, head_dim: int) -> tuple[str, str]:
    """The backend that will run, and why.

    Raises:
      ValueError: an unknown name, or the requested backend can't do what is asked on this device.
    """
    if requested not in BACKENDS:
        raise ValueError(f"model.attention={requested!r}: accepted are {', '.join(BACKENDS)}")
    platform = jax.default_backend()
    favourite = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "blockwise")
    backend = favourite if requested == "auto" else requested
    why = attention_kernels.device_refusal(backend) or refusal(backend, spec, dtype, head_dim)
    if requested == "auto":
        if why:
            return "blockwise", f"auto: not {favourite}, {why}"
        return favourite, f"auto: fastest on {platform}"
    if why:
        raise ValueError(
            f'model.attention="{requested}" can\'t run: {why}; use "auto" or "blockwise"'
        )
    return requested, "requested"


def attend(
    q_BHTK: Array,
    k_BGSK: Array,
    v_BGSK: Array,
    spec: Spec,
    backend: str,
    *,
    segments: tuple[Array, Array] | None = None,
    prefix_B: Array | None = None,
    bias_RH: Array | None = None,
) -> Array:
    """Attention over whole sequences; query t and key s stand at positions t and s.

    Args:
      segments: ids of the queries [B, T] and of the keys [B, S]; a query sees keys of its own id only.
      prefix_B: how many first positions of a row all its queries see, with `spec.prefix`.
      bias_RH: learned bias of each relative bucket and head, with `spec.relative`; it has a gradient.

    Raises:
      ValueError: the backend can't do what `spec` asks (see `choose`).
    """
    spec = _with_arguments(spec, segments, prefix_B, bias_RH)
    if q_BHTK.shape[2] != k_BGSK.shape[2] and not spec.cross:
        raise ValueError(
            f"{q_BHTK.shape[2]} queries and {k_BGSK.shape[2]} keys need Spec(cross=True)"
        )
    chosen, _ = choose(backend, spec, str(q_BHTK.dtype), q_BHTK.shape[-1])
    if chosen == "cudnn":
        return attention_kernels.cudnn(q_BHTK, k_BGSK, v_BGSK, spec)
    if chosen == "splash":
        return attention_kernels.splash(q_BHTK, k_BGSK, v_BGSK, spec, segments)
    run = blockwise.attend if chosen == "blockwise" else _plain
    return run(q_BHTK, k_BGSK, v_BGSK, spec, segments, prefix_B, bias_RH)


def attend_shown(
    q_BHTK: Array,
    k_BGSK: Array,
    v_BGSK: Array,
    spec: Spec,
    *,
    segments: tuple[Array, Array] | None = None,
    prefix_B: Array | None = None,
    bias_RH: Array | None = None,
) -> tuple[Array, Array]:
    """As `attend` by the plain form, and the probabilities of each query's keys, float32 [B, H, T, S].

    No kernel gives these, so whoever asks for them pays for the whole matrix.
    """
    spec = _with_arguments(spec, segments, prefix_B, bias_RH)
    query_pos, key_pos = _places(q_BHTK), _places(k_BGSK)
    part = Part(jnp.swapaxes(k_BGSK, 2, 3), v_BGSK, key_pos)
    probs = _probabilities(q_BHTK, [part], spec, segments, prefix_B, bias_RH, query_pos)
    shape = *q_BHTK.shape[:3], k_BGSK.shape[2]
    return _mixed(q_BHTK, [part], probs), probs.reshape(shape)


def attend_cache(
    q_BHTK: Array,
    parts: Sequence[Part],
    spec: Spec,
    query_pos_BT: Array,
    *,
    segments: tuple[Array, Array] | None = None,
    prefix_B: Array | None = None,
    bias_RH: Array | None = None,
) -> Array:
    """Attention of new queries to keys that stand where each part says, under one softmax.

    Causality hides what stands after a query, so whatever a slot holds of no use is given a late position.
    """
    spec = _with_arguments(spec, segments, prefix_B, bias_RH)
    return _dense(q_BHTK, parts, spec, segments, prefix_B, bias_RH, query_pos_BT)


def _with_arguments(spec: Spec, segments, prefix_B, bias_RH) -> Spec:
    """`spec` with what the arguments ask, so that no backend passes over one in silence."""
    if (spec.relative is None) != (bias_RH is None):
        raise ValueError("bias_RH and Spec(relative=(num_buckets, max_distance)) go together")
    if spec.prefix and prefix_B is None:
        raise ValueError("Spec(prefix=True) needs prefix_B")
    return dataclasses.replace(
        spec,
        segments=spec.segments or segments is not None,
        prefix=spec.prefix or prefix_B is not None,
    )


def _plain(q, k, v, spec: Spec, segments, prefix_B, bias_RH) -> Array:
    part = Part(jnp.swapaxes(k, 2, 3), v, _places(k))
    return _dense(q, [part], spec, segments, prefix_B, bias_RH, _places(q))


def _places(x_BHTK: Array) -> Array:
    return jnp.arange(x_BHTK.shape[2], dtype=jnp.int32)[None]


def _dense(q, parts: Sequence[Part], spec: Spec, segments, prefix_B, bias_RH, query_pos) -> Array:
    """One softmax over the whole T x S matrix, differentiated by JAX: the plainest form."""
    probs = _probabilities(q, parts, spec, segments, prefix_B, bias_RH, query_pos)
    return _mixed(q, parts, probs)


def _probabilities(
    q, parts: Sequence[Part], spec: Spec, segments, prefix_B, bias_RH, query_pos
) -> Array:
    """Float32 [B, G, R, T, S]."""
    queries = attention_scores.group(attention_scores.scaled(q, spec), parts[0].v_BGSK)
    products = [
        attention_scores.product("BGRTK,BGKS->BGRTS", queries, part.k_BGKS) for part in parts
    ]
    scores, key_pos = _joined(products), _joined([part.positions for part in parts])
    bias = None
    if spec.alibi or spec.relative:
        distance = key_pos[:, None, :] - query_pos[:, :, None]
        bias_HBTS = attention_scores.distance_bias(spec, distance, q.shape[1], bias_RH)
        bias = jnp.moveaxis(bias_HBTS.reshape(*scores.shape[1:3], *bias_HBTS.shape[1:]), 2, 0)
    mask = attention_scores.visible(spec, query_pos, key_pos, segments, prefix_B)
    scores = attention_scores.finish(
        numerics.soft_cap(scores, spec.soft_cap), bias, None if mask is None else mask[:, :, None]
    )
    return jax.nn.softmax(scores, axis=-1)


def _mixed(q, parts: Sequence[Part], probs: Array) -> Array:
    """Values by their probabilities."""
    probs = probs.astype(parts[0].v_BGSK.dtype)
    ends = list(itertools.accumulate(part.v_BGSK.shape[2] for part in parts))
    shares = jnp.split(probs, ends[:-1], axis=-1)
    mixed = [
        jnp.einsum("BGRTS,BGSK->BGRTK", share, part.v_BGSK)
        for share, part in zip(shares, parts, strict=True)
    ]
    return sum(mixed[1:], start=mixed[0]).reshape(q.shape)


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=-1)
