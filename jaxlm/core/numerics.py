"""Log-space arithmetic of next-token scores, in float32 whatever comes in; chunked where logits would not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array


class TokenStats(NamedTuple):
    """Per-token figures that losses are made of, float32, one shape with the targets."""

    nll: Array  # -log p(target), nats
    log_z: Array  # log of the softmax's denominator
    uniform_nll: Array  # mean over the vocabulary of -log p, for label smoothing
    correct: Array  # 1 where the target is the argmax (of equal logits the first), else 0


def soft_cap(logits: Array, cap: float) -> Array:
    """cap * tanh(logits / cap); 0 turns it off (Gemma 2, arXiv:2408.00118, section 2)."""
    return cap * jnp.tanh(logits / cap) if cap else logits


def token_stats(logits: Array, targets: Array) -> TokenStats:
    """Scores of targets [...] under logits [..., V], computed in float32."""
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, not a gather: its gradient is no scatter.
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    targets = targets[..., None]
    picked = jnp.sum(jnp.where(ids == targets, logits, 0.0), axis=-1)
    beaten = jnp.where(ids < targets, logits < picked[..., None], logits <= picked[..., None])
    correct = jnp.all(beaten, axis=-1).astype(jnp.float32)
    return TokenStats(log_z - picked, log_z, log_z - jnp.mean(logits, axis=-1), correct)


def within(logits: Array, first: Array, end: Array, other: float = -1e30) -> Array:
    """Logits [..., V], and `other`, too low to count, for classes outside [first, end) [...]."""
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    inside = (ids >= first[..., None]) & (ids < end[..., None])
    return jnp.where(inside, logits, other)


def by_chunks(figures: Callable[..., Any], parts: Sequence[Array], chunk: int) -> Any:
    """`figures(*parts)`, `chunk` rows at a time.

    Rows are padded to whole chunks; what is made of a chunk is made again in the backward pass.

    Args:
      figures: from arrays [R, ...] to a tree of arrays [R], each row by itself.
      parts: arrays [N, ...].
      chunk: R.
    """
    num_rows = parts[0].shape[0]
    num_chunks = -(-num_rows // chunk)
    pad = num_chunks * chunk - num_rows

    def cut(part: Array) -> Array:
        padded = jnp.pad(part, ((0, pad), *[(0, 0)] * (part.ndim - 1)))
        return padded.reshape(num_chunks, chunk, *part.shape[1:])

    one = jax.checkpoint(lambda rows: figures(*rows))
    made = jax.lax.map(one, tuple(cut(part) for part in parts))
    return jax.tree.map(lambda values: values.reshape(-1)[:num_rows], made)


def divergence(logits: Array, teacher_logits: Array, temperature: float = 1.0) -> Array:
    """KL(teacher || student) of softmax(logits / temperature) over the last axis, nats, float32 [...]."""
    student = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, axis=-1)
    teacher = jax.nn.log_softmax(teacher_logits.astype(jnp.float32) / temperature, axis=-1)
    return jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
