"""What losses of word vectors are made of: which rows of which tables a batch reads, and the loss of those rows.

Shared by objectives (training), the step that updates only the rows that were read, and the evaluator (held-out loss).
Letters: J = T + 2 W words that the T centres of a row see, G blocks of P = T / G centres, C = P + 2 W words that a block
sees, K negatives that it shares, Q n-grams of a row's words.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, Batch

INPUT, OUTPUT, SUBWORDS = "input/embedding", "output/embedding", "subwords/embedding"
INPUT_BIAS, OUTPUT_BIAS = "input/bias", "output/bias"
SKIP_GRAM, CBOW = "skip_gram", "cbow"
ARCHITECTURES = (SKIP_GRAM, CBOW)

Rows = Mapping[str, Array]
"""Path of a table -> the rows of it that were read; or their ids, int32, of one axis less."""


def read(tables: Mapping[str, Array], ids: Rows) -> dict[str, Array]:
    """The rows of these ids, of every table that is named."""
    return {path: jnp.take(tables[path], ids[path], axis=0, mode="clip") for path in ids}


def window_reads(batch: Batch, architecture: str) -> dict[str, Array]:
    """Ids [B, N] of what the loss of `window_loss` reads in each table."""
    batch_size = batch["tokens"].shape[0]
    negatives = batch["negatives"].reshape(batch_size, -1)
    positives = batch["contexts"] if architecture == SKIP_GRAM else batch["tokens"]
    inputs = batch["tokens"] if architecture == SKIP_GRAM else batch["contexts"]
    found = {OUTPUT: jnp.concatenate([positives, negatives], axis=1)}
    if "pieces" in batch:
        return found | {INPUT: batch["words"], SUBWORDS: batch["pieces"]}
    return found | {INPUT: inputs}


def window_loss(rows: Rows, batch: Batch, architecture: str) -> tuple[Array, Array]:
    """Negative sampling's loss of each row of a batch, nats, and its number of positives; both float32 [B].

    Skip-gram: -log s(u_t . v_c) for every word c around a centre t, with k negatives each. CBOW: once a centre, u being
    the mean of the words around it and v the centre's. s is the logistic function; a negative that is the positive is
    left out, as in word2vec.c.

    Args:
      rows: what `window_reads` names.
      batch: see data/tasks/word_windows.py.
    """
    num_blocks, reach = _shape(batch)
    num_out = batch["contexts" if architecture == SKIP_GRAM else "tokens"].shape[1]
    outputs, negatives = rows[OUTPUT][:, :num_out], rows[OUTPUT][:, num_out:]
    inputs = _inputs(rows, batch)
    windows = _windows(batch, num_blocks, reach)
    if architecture == SKIP_GRAM:
        if "pieces" in batch:
            inputs = inputs[:, reach : reach + batch["tokens"].shape[1]]
        parts = _skip_gram(inputs, outputs, batch, *windows)
    else:
        parts = _cbow(inputs, outputs, batch, *windows)
    centres_BGPD, positive_BG, count_BGPK = parts
    negatives_BGKD = negatives.reshape(*batch["negatives"].shape, -1)
    scores_BGPK = jnp.einsum("BGPD,BGKD->BGPK", centres_BGPD, negatives_BGKD)
    negative_BG = jnp.sum(count_BGPK * jax.nn.softplus(scores_BGPK), (2, 3))
    weight_B1 = batch["negative_weight"].astype(jnp.float32)
    return jnp.sum(positive_BG + weight_B1 * negative_BG, 1), num_positives(batch, architecture)


Parts = tuple[Array, Array, Array]
"""The vectors that negatives are compared with, the positives' loss by block, and how often each negative counts for each."""


def _skip_gram(
    inputs_BTD: Array, outputs_BJD: Array, batch: Batch, near_BGPC: Array, seen_GC: np.ndarray
) -> Parts:
    centres_BGPD = _blocks(inputs_BTD, len(seen_GC))
    scores_BGPC = jnp.einsum("BGPD,BGCD->BGPC", centres_BGPD, outputs_BJD[:, seen_GC])
    positive_BG = jnp.sum(near_BGPC * jax.nn.softplus(-scores_BGPC), (2, 3))
    other_BGCK = _differ(batch["contexts"][:, seen_GC], batch["negatives"])
    return centres_BGPD, positive_BG, jnp.einsum("BGPC,BGCK->BGPK", near_BGPC, other_BGCK)


def _cbow(
    inputs_BJD: Array, outputs_BTD: Array, batch: Batch, near_BGPC: Array, seen_GC: np.ndarray
) -> Parts:
    size_BGP = jnp.sum(near_BGPC, -1)
    some_BGP = (size_BGP > 0).astype(jnp.float32)
    mean_BGPC = near_BGPC / jnp.maximum(size_BGP, 1.0)[..., None]
    centres_BGPD = jnp.einsum("BGPC,BGCD->BGPD", mean_BGPC, inputs_BJD[:, seen_GC])
    scores_BGP = jnp.sum(centres_BGPD * _blocks(outputs_BTD, len(seen_GC)), -1)
    positive_BG = jnp.sum(some_BGP * jax.nn.softplus(-scores_BGP), 2)
    other_BGPK = _differ(_blocks(batch["tokens"], len(seen_GC)), batch["negatives"])
    return centres_BGPD, positive_BG, some_BGP[..., None] * other_BGPK


def _shape(batch: Batch) -> tuple[int, int]:
    """Blocks of a row, and how far a window reaches at most."""
    reach = (batch["contexts"].shape[1] - batch["tokens"].shape[1]) // 2
    return batch["negatives"].shape[1], reach


def num_positives(batch: Batch, architecture: str) -> Array:
    """The positives of each row, float32 [B], from the batch alone."""
    near_BGPC, _ = _windows(batch, *_shape(batch))
    if architecture == SKIP_GRAM:
        return jnp.sum(near_BGPC, (1, 2, 3))
    return jnp.sum(jnp.max(near_BGPC, -1), (1, 2))


def compose(words: Array, pieces: Array, owners: Array) -> Array:
    """Vectors of words: the mean of a word's own row and those of its n-grams.

    Args:
      words: float [N, D].
      pieces: float [Q, D].
      owners: int32 [Q], which word each is of; N for none.
    """
    num = words.shape[0]
    sums = jax.ops.segment_sum(pieces, owners, num_segments=num + 1)[:num]
    counts = jax.ops.segment_sum(jnp.ones(owners.shape), owners, num_segments=num + 1)[:num]
    return (words + sums) / (1.0 + counts[:, None])


def _inputs(rows: Rows, batch: Batch) -> Array:
    """The input vectors [B, N, D]; of words with n-grams those of all J places."""
    if "pieces" not in batch:
        return rows[INPUT]
    vectors = jax.vmap(compose)(rows[INPUT], rows[SUBWORDS], batch["owners"])
    return jnp.take_along_axis(vectors, batch["places"][..., None], axis=1)


def _blocks(values: Array, num_blocks: int) -> Array:
    """[B, T, ...] as [B, G, P, ...]."""
    return values.reshape(values.shape[0], num_blocks, -1, *values.shape[2:])


def _windows(batch: Batch, num_blocks: int, reach: int) -> tuple[Array, np.ndarray]:
    """Which words of its block each centre sees, float32 [B, G, P, C], and their places in the row, int [G, C]."""
    size = batch["tokens"].shape[1] // num_blocks
    seen_GC = size * np.arange(num_blocks)[:, None] + np.arange(size + 2 * reach)[None]
    away_PC = np.abs(np.arange(size + 2 * reach)[None] - reach - np.arange(size)[:, None])
    away_PC = np.where(away_PC == 0, reach + 1, away_PC)  # nobody is in one's own window
    segments = batch["segment_ids"]
    own_BGP1 = _blocks(segments[:, reach : reach + size * num_blocks], num_blocks)[..., None]
    same_BGPC = segments[:, seen_GC][:, :, None] == own_BGP1
    radius_BGP1 = _blocks(batch["radius"], num_blocks)[..., None]
    near_BGPC = (jnp.asarray(away_PC)[None, None] <= radius_BGP1) & same_BGPC
    return near_BGPC.astype(jnp.float32), seen_GC


def _differ(words: Array, negatives_BGK: Array) -> Array:
    """1 where a word [B, G, N] is not that negative, float32 [B, G, N, K]."""
    return (words[..., None] != negatives_BGK[:, :, None]).astype(jnp.float32)


def count_reads(batch: Batch) -> dict[str, Array]:
    """Ids [B, E] of what `count_loss` reads in each table."""
    tokens, contexts = batch["tokens"], batch["contexts"]
    return {INPUT: tokens, OUTPUT: contexts, INPUT_BIAS: tokens, OUTPUT_BIAS: contexts}


def count_loss(rows: Rows, batch: Batch) -> tuple[Array, Array]:
    """GloVe's loss of each row of a batch, and its number of entries, both float32 [B].

    sum f(X) (u . v + b + c - log X)^2, equation 8 of Pennington et al. 2014; f(X) is in the batch's `weights`, 0 for filling.

    Args:
      rows: what `count_reads` names.
      batch: counts float32 [B, E] above 0, weights float32 [B, E].
    """
    scores_BE = jnp.sum(rows[INPUT] * rows[OUTPUT], -1) + rows[INPUT_BIAS] + rows[OUTPUT_BIAS]
    weights_BE = batch["weights"].astype(jnp.float32)
    errors_BE = jnp.square(scores_BE - jnp.log(jnp.maximum(batch["counts"], 1e-10)))
    return jnp.sum(weights_BE * errors_BE, 1), jnp.sum((weights_BE > 0).astype(jnp.float32), 1)
