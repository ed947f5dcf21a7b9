"""Contrastive search: likely tokens that do not repeat what the model's states already hold.

Not for searches by likelihood alone (beam.py) or drawing (sampling.py).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, ModelOutput, PyTree
from jaxlm.decode import prefill, timing
from jaxlm.decode.cache import take_rows
from jaxlm.decode.checks import check_room, refuse_constraints
from jaxlm.decode.rows import Rows
from jaxlm.decode.types import Request, Written

CHUNK = 16
"""Tokens a row between two looks of the host."""


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """Of the top_k likeliest tokens v, the one with the highest

        (1 - penalty_alpha) p(v | x) - penalty_alpha max_j cos(h_v, h_j)

    where h_v is the model's last hidden state at v, written behind the text x, and h_j those at the text's tokens.

    Source: Su et al. 2022, A Contrastive Framework for Neural Text Generation, arXiv:2202.06417, equation 5.

    Attributes:
      top_k: candidates; 1 is greedy.
      penalty_alpha: from 0, greedy, to 1, the least similar candidate.

    Raises:
      ValueError: a number out of range.
    """

    top_k: int = 4
    penalty_alpha: float = 0.6

    def __post_init__(self):
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        if not 0 <= self.penalty_alpha <= 1:
            raise ValueError(f"penalty_alpha={self.penalty_alpha} must be from 0 to 1")

    def write(self, model: Any, params: PyTree, request: Request) -> list[list[Written]]:
        """One continuation of each prompt.

        Raises:
          ValueError: prompts that do not fit into max_len together with max_tokens, constraints, or a model
            without hidden states.
        """
        check_room(request, "contrastive search")
        refuse_constraints(request, "contrastive search")
        contexts = prefill.of_request(request)
        rows = Rows(request, contexts)
        arrays = (contexts.tokens_BT, contexts.lengths_B, contexts.inputs)
        text = _read(model, contexts.slots, request.prefix, params, *arrays)
        alpha, end_ids = np.float32(self.penalty_alpha), np.asarray(request.end_ids, np.int32)
        while going := rows.going():
            watched = request.watch is not None or request.on_tokens is not None
            left = request.max_tokens - min(len(rows.tokens[row]) for row in going)
            steps = np.int32(1 if watched else min(CHUNK, left))
            tokens_BN, logps_BN, text = _write_on(
                model, self.top_k, params, text, rows.done_B(), alpha, steps, end_ids
            )
            tokens_BN, logps_BN = np.asarray(tokens_BN), np.asarray(logps_BN)
            for row in going:
                count = int((tokens_BN[row] >= 0).sum())
                rows.take(row, tokens_BN[row, :count], logps_BN[row, :count])
            timing.first_token()
        return [[one] for one in rows.written()]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Text:
    """What is known of each row's text."""

    cache: PyTree
    logits_BV: Array  # of the next token
    states_BSD: Array  # unit vectors of its tokens' hidden states
    held_B: Array  # how many of them there are


def _states(output: ModelOutput) -> Array:
    """Unit vectors [B, T, D], float32."""
    if not hasattr(output, "hidden"):
        raise ValueError(
            f"contrastive search compares hidden states, and a {type(output).__name__} has none"
        )
    hidden_BTD = output.hidden.astype(jnp.float32)
    return hidden_BTD / jnp.linalg.norm(hidden_BTD, axis=-1, keepdims=True)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _read(model, slots, prefix, params, tokens_BT, lengths_B, inputs) -> _Text:
    output, cache = prefill.read(model, slots, prefix, params, tokens_BT, lengths_B, inputs)
    states_BTD = _states(output)
    room = ((0, 0), (0, slots - tokens_BT.shape[1]), (0, 0))
    return _Text(cache, output.logits(lengths_B - 1), jnp.pad(states_BTD, room), lengths_B)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _write_on(model, top_k, params, text: _Text, done_B, alpha, num_steps, end_ids_E):
    """`num_steps` more tokens, fewer where all rows end before.

    Returns:
      Tokens int32 [B, CHUNK], -1 where a row had ended; their log-probabilities, float32 [B, CHUNK]; the text.
    """
    size = len(done_B)

    def going(carry) -> Array:
        step, _, done_B, *_ = carry
        return (step < num_steps) & ~jnp.all(done_B)

    def write(carry):
        step, text, done_B, tokens_BN, logps_BN = carry
        token_B, logp_B, text = _step(model, top_k, params, text, alpha, ~done_B)
        tokens_BN = tokens_BN.at[:, step].set(jnp.where(done_B, -1, token_B))
        logps_BN = logps_BN.at[:, step].set(logp_B)
        done_B = done_B | (token_B[:, None] == end_ids_E[None]).any(axis=1)
        return step + 1, text, done_B, tokens_BN, logps_BN

    tokens_BN, logps_BN = jnp.full((size, CHUNK), -1, jnp.int32), jnp.zeros((size, CHUNK))
    carry = (jnp.int32(0), text, done_B, tokens_BN, logps_BN)
    _, text, _, tokens_BN, logps_BN = jax.lax.while_loop(going, write, carry)
    return tokens_BN, logps_BN, text


def _step(model, top_k, params, text: _Text, alpha, going_B) -> tuple[Array, Array, _Text]:
    """The next token, its log-probability, and the text with it in the rows that are going on.

    All C candidates of every row are read, as rows R of a cache that holds the text C times.
    """
    size, vocab = text.logits_BV.shape
    count = min(top_k, vocab)
    log_probs_BC, tokens_BC = jax.lax.top_k(jax.nn.log_softmax(text.logits_BV), count)
    cache = take_rows(text.cache, jnp.repeat(jnp.arange(size), count))
    going_R = jnp.repeat(going_B.astype(jnp.int32), count)
    output, cache = model.extend(params, cache, tokens_BC.reshape(-1, 1), going_R)
    states_BCD = _states(output).reshape(size, count, -1)

    cosines_BCS = jnp.einsum("BCD,BSD->BCS", states_BCD, text.states_BSD)
    earlier_BS = jnp.arange(cosines_BCS.shape[2])[None] < text.held_B[:, None]
    nearest_BC = jnp.where(earlier_BS[:, None], cosines_BCS, -jnp.inf).max(axis=-1)
    scores_BC = (1 - alpha) * jnp.exp(log_probs_BC) - alpha * nearest_BC
    chosen_B = jnp.argmax(scores_BC, axis=1)

    rows_B = jnp.arange(size) * count + chosen_B
    one = dataclasses.replace(output, hidden=output.hidden[rows_B])
    places_B = jnp.where(going_B, text.held_B, text.states_BSD.shape[1])
    states_BSD = text.states_BSD.at[jnp.arange(size), places_B].set(
        states_BCD[jnp.arange(size), chosen_B], mode="drop"
    )
    held_B = text.held_B + going_B
    logits_BV = one.logits(jnp.zeros_like(rows_B))
    text = _Text(take_rows(cache, rows_B), logits_BV, states_BSD, held_B)
    picked = (jnp.arange(size), chosen_B)
    return tokens_BC[picked].astype(jnp.int32), log_probs_BC[picked], text
