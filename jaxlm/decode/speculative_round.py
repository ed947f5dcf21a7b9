"""One round of speculative decoding on the device: draft, read, keep. No host, no text; the loop is speculative.py's.

Source: Leviathan et al. 2023, arXiv:2211.17192, algorithm 1; Chen et al. 2023, arXiv:2302.01318, algorithm 2.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.decode import processors
from jaxlm.decode.processors import History
from jaxlm.decode.sampling import likeliest

DRAFT, ACCEPT, CORRECT = 1, 2, 3
"""Streams of random numbers of one token: the drafted one, its acceptance, and what takes its place."""

Values = Mapping[str, Array]
"""The settings that are on, as `processors.process` takes them."""


class Pair(NamedTuple):
    """Of both models: themselves, their parameters, their caches."""

    model: Any
    draft: Any


class Where(NamedTuple):
    """What a round is told of each row."""

    held_B: Array  # positions in the model's cache: all tokens but the newest
    drafts_B: Array  # tokens to draft
    going_B: Array
    seeds_B: Array
    written_B: Array


def log_probs(logits_BV: Array, values: Values, history: History) -> Array:
    """The distribution that tokens are drawn from, after all settings; greedily one token has it all."""
    scores_BV = processors.process(logits_BV, values, history)
    if "temperature" in values:
        return jax.nn.log_softmax(scores_BV)
    best_B1 = likeliest(scores_BV)[:, None]
    return jnp.where(jnp.arange(scores_BV.shape[1])[None] == best_B1, 0.0, -jnp.inf)


def accepted(p: Array, q: Array, uniform: Array) -> Array:
    """Whether a token drafted with probability q stays, where the model gives it p: with probability min(1, p / q).

    Source: arXiv:2211.17192, section 2.3. `uniform` is in [0, 1).
    """
    return uniform * q < p


def residual(p_BV: Array, q_BV: Array) -> Array:
    """What takes a rejected token's place is drawn from max(0, p - q), not normalised.

    Where rounding leaves nothing of it, p and q are equal, and it is p.
    """
    left_BV = jnp.maximum(p_BV - q_BV, 0.0)
    return jnp.where(left_BV.sum(axis=-1, keepdims=True) > 0, left_BV, p_BV)


def _keys(where: Where, ahead: Array | int, stream: int) -> Array:
    """A key a row for its token `ahead` of those written."""

    def one(seed: Array, index: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), stream)

    return jax.vmap(one)(where.seeds_B, where.written_B + ahead)


def _draw(keys_B: Array, log_probs_BV: Array, values: Values) -> Array:
    """A token a row; without a temperature one has all probability, and nothing is random."""
    if "temperature" in values:
        shape = log_probs_BV.shape[1:]
        log_probs_BV = log_probs_BV + jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys_B)
    return likeliest(log_probs_BV)


def _logps(logits_BV: Array, token_B: Array) -> Array:
    """Under the model's own distribution."""
    logit_B = jnp.take_along_axis(logits_BV, token_B[..., None], axis=-1)[..., 0]
    return logit_B - jax.nn.logsumexp(logits_BV, axis=-1)


@jax.jit
def first(logits_RV: Array, rows_R: Array, where: Where, history: History, values):
    """Of rows `rows_R`: the next token, its log-probability; and everybody's history with it."""
    mine = jax.tree.map(lambda leaf: jnp.take(leaf, rows_R, axis=0, mode="clip"), (where, history))
    where_R, history_R = mine
    keys_R = _keys(where_R, 0, CORRECT)
    token_R = _draw(keys_R, log_probs(logits_RV, values, history_R), values)
    token_B = jnp.zeros_like(where.written_B).at[rows_R].set(token_R, mode="drop")
    read_B = jnp.zeros_like(where.going_B).at[rows_R].set(True, mode="drop")
    return token_R, _logps(logits_RV, token_R), history.add(token_B, read_B)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def run(models: Pair, num_draft, params: Pair, caches: Pair, last_BT, where, history, values):
    """Up to num_draft + 1 more tokens of every row that is going on.

    Returns:
      Tokens int32 [B, num_draft + 1], their log-probabilities, how many count; the caches, the history.
    """
    drafted = _draft(
        models.draft, num_draft, params.draft, caches.draft, last_BT, where, history, values
    )
    tokens_AB, log_q_ABV, histories, draft_cache = drafted
    drafts_BA = tokens_AB.T
    window_BT = jnp.concatenate([last_BT[:, 1:], drafts_BA], axis=1)
    lengths_B = jnp.where(where.going_B, where.drafts_B + 1, 0)
    output, cache = models.model.extend(params.model, caches.model, window_BT, lengths_B)
    logits_TBV = jnp.swapaxes(output.logits(), 0, 1)
    log_p_TBV = jax.vmap(log_probs, (0, None, 0))(logits_TBV, values, histories)
    next_BT, counts_B = _keep(drafts_BA, log_q_ABV, log_p_TBV, where, values)
    cache = models.model.rewind(cache, where.held_B + counts_B)
    for place in range(num_draft + 1):
        history = history.add(next_BT[:, place], place < counts_B)
    logps_BT = _logps(jnp.swapaxes(logits_TBV, 0, 1), next_BT)
    return next_BT, logps_BT, counts_B, Pair(cache, draft_cache), history


def _draft(model, num_draft, params, cache, last_BT, where: Where, history, values):
    """A tokens drafted one after the other, their distributions, and A + 1 histories: before each and after all.

    The draft model has not read the last of the tokens that it drafted before; its last two are read together.
    """
    cache = model.rewind(cache, where.held_B - 1)
    both_B = jnp.where(where.going_B, 2, 0)
    output, cache = model.extend(params, cache, last_BT, both_B)

    def choose(logits_BV: Array, history: History, ahead: Array):
        log_q_BV = log_probs(logits_BV, values, history)
        token_B = _draw(_keys(where, ahead, DRAFT), log_q_BV, values)
        return token_B, log_q_BV, history.add(token_B, ahead < where.drafts_B)

    def body(carry, ahead: Array):
        cache, logits_BV, history = carry
        token_B, log_q_BV, after = choose(logits_BV, history, ahead)
        more_B = (ahead + 1 < where.drafts_B).astype(jnp.int32)
        output, cache = model.extend(params, cache, token_B[:, None], more_B)
        return (cache, output.logits(jnp.zeros_like(token_B)), after), (token_B, log_q_BV, history)

    carry = (cache, output.logits(jnp.ones_like(both_B)), history)
    carry, drafted = jax.lax.scan(body, carry, jnp.arange(num_draft - 1, dtype=jnp.int32))
    cache, logits_BV, history = carry
    token_B, log_q_BV, after = choose(logits_BV, history, jnp.int32(num_draft - 1))
    tokens, log_qs, histories = jax.tree.map(
        lambda some, one: jnp.concatenate([some, one[None]]), drafted, (token_B, log_q_BV, history)
    )
    histories = jax.tree.map(lambda some, one: jnp.concatenate([some, one[None]]), histories, after)
    return tokens, log_qs, histories, cache


def _keep(
    drafts_BA: Array, log_q_ABV: Array, log_p_TBV: Array, where: Where, values: Values
) -> tuple[Array, Array]:
    """The drafted tokens up to the first rejected one, the one in its place, and how many they are.

    Where none is rejected, another one is drawn behind the last.
    """
    size, num_draft = drafts_BA.shape
    p_TBV, q_ABV = jnp.exp(log_p_TBV), jnp.exp(log_q_ABV)
    stays = []
    for place in range(num_draft):
        drafted_B1 = drafts_BA[:, place, None]
        p_B = jnp.take_along_axis(p_TBV[place], drafted_B1, axis=1)[:, 0]
        q_B = jnp.take_along_axis(q_ABV[place], drafted_B1, axis=1)[:, 0]
        uniform_B = jax.vmap(jax.random.uniform)(_keys(where, place, ACCEPT))
        stays.append(accepted(p_B, q_B, uniform_B) & (place < where.drafts_B))
    kept_B = jnp.cumprod(jnp.stack(stays, axis=1), axis=1).sum(axis=1).astype(jnp.int32)
    rows = jnp.arange(size)
    p_BV = p_TBV[kept_B, rows]
    q_BV = q_ABV[jnp.minimum(kept_B, num_draft - 1), rows]
    rejected_B1 = (kept_B < where.drafts_B)[:, None]
    rest_BV = jnp.where(rejected_B1, residual(p_BV, q_BV), p_BV)
    token_B = _draw(_keys(where, kept_B, CORRECT), jnp.log(rest_BV), values)
    tokens_BT = jnp.pad(drafts_BA, ((0, 0), (0, 1))).at[rows, kept_B].set(token_B)
    return tokens_BT, jnp.where(where.going_B, kept_B + 1, 0)
