"""Log-space arithmetic of next-token scores, in float32 whatever comes in; chunked where logits would not fit."""

from __future__ import annotations

from typing import NamedTuple

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


def chunked_token_stats(hidden_ND: Array, project, targets_N: Array, chunk: int) -> TokenStats:
    """`token_stats(project(hidden_ND), targets_N)` without ever holding more than `chunk` rows of logits.

    Rows are padded to whole chunks; each chunk's logits are computed again in the backward pass.
    """
    num_rows = hidden_ND.shape[0]
    num_chunks = -(-num_rows // chunk)
    pad = num_chunks * chunk - num_rows
    hidden = jnp.pad(hidden_ND, ((0, pad), (0, 0))).reshape(num_chunks, chunk, -1)
    targets = jnp.pad(targets_N, (0, pad)).reshape(num_chunks, chunk)

    @jax.checkpoint
    def one(rows, row_targets):
        return token_stats(project(rows), row_targets)

    stats = jax.lax.map(lambda pair: one(*pair), (hidden, targets))
    return TokenStats(*(value.reshape(-1)[:num_rows] for value in stats))
