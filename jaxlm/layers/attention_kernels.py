"""Kernels of accelerators, cuDNN's attention and splash attention: what each refuses by name, and how it is called."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers import attention_scores
from jaxlm.layers.attention_scores import Spec

SPLASH_TILE = 128


def device_refusal(backend: str) -> str:
    """Why a kernel can't run on this machine, whatever is asked; or an empty string."""
    device = jax.devices()[0]
    platform, kind = jax.default_backend(), device.device_kind
    if backend == "cudnn":
        if platform != "gpu" or "nvidia" not in kind.lower():
            return f"it needs an NVIDIA GPU and this is {kind}"
        if float(getattr(device, "compute_capability", 0)) < 8:
            return "it needs compute capability 8.0 (Ampere) or newer"
    if backend == "splash":
        if platform != "tpu":
            return f"it needs a TPU and this is {kind}"
        if jax.device_count() > 1:
            return "it is not partitioned over several devices here"
    return ""


def refusal(backend: str, spec: Spec, dtype: str, head_dim: int) -> str:
    """Why a kernel can't do this on any device, or an empty string."""
    if backend == "cudnn":
        if dtype not in ("bfloat16", "float16"):
            return f"it needs model.dtype=bfloat16, not {dtype}"
        if head_dim % 8 or head_dim > 128:
            return f"it needs a head width that is a multiple of 8 up to 128, not {head_dim}"
        if spec.segments:
            return "it can't keep packed documents apart (jax#29731)"
        if spec.soft_cap:
            return "it has no soft-cap"
    if backend == "splash" and head_dim % SPLASH_TILE:
        return f"it needs a head width that is a multiple of {SPLASH_TILE}, not {head_dim}"
    if spec.prefix:
        return "it has no mask for a prefix short of a T x S matrix"
    if spec.alibi:
        return "it has no ALiBi bias"
    return "it has no relative position bias" if spec.relative else ""


def cudnn(q_BHTK: Array, k_BGSK: Array, v_BGSK: Array, spec: Spec) -> Array:
    """Through `jax.nn.dot_product_attention`, where heads come after positions."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q_BHTK, k_BGSK, v_BGSK))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=spec.scale,
        is_causal=spec.causal,
        local_window_size=(spec.window - 1, 0) if spec.window else None,
        implementation="cudnn",
    )
    return jnp.swapaxes(out, 1, 2)


def splash(
    q_BHTK: Array, k_BGSK: Array, v_BGSK: Array, spec: Spec, segments, interpret: bool = False
) -> Array:
    """Pallas' splash attention, which skips hidden tiles. Lengths are filled up to whole tiles, as a segment of its own.

    `interpret` runs the kernel on a CPU, slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, heads, num_queries, _ = q_BHTK.shape
    query_pad, key_pad = (-x.shape[2] % SPLASH_TILE for x in (q_BHTK, k_BGSK))
    if segments is None and (query_pad or key_pad):
        segments = [jnp.zeros((batch, x.shape[2]), jnp.int32) for x in (q_BHTK, k_BGSK)]
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, 0), (0, count), (0, 0)))
        for x, count in zip(
            (attention_scores.scaled(q_BHTK, spec), k_BGSK, v_BGSK),
            (query_pad, key_pad, key_pad),
            strict=True,
        )
    )
    shape = (q.shape[2], k.shape[2])
    mask = masks.CausalMask(shape) if spec.causal else masks.FullMask(shape)
    if spec.window:
        mask = masks.LocalMask(shape, (spec.window - 1, 0), 0)
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * heads),
        attn_logits_soft_cap=spec.soft_cap or None,
        interpret=interpret,
    )
    if segments is None:
        return jax.vmap(kernel)(q, k, v)
    ids = kernels.SegmentIds(
        *(
            jnp.pad(part, ((0, 0), (0, count)), constant_values=-1)
            for part, count in zip(segments, (query_pad, key_pad), strict=True)
        )
    )
    return jax.vmap(kernel)(q, k, v, ids)[:, :, :num_queries]
