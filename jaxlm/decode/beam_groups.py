"""One step of beam search: which continuations of a text's beams go on and which are finished. Arrays only, no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array

EARLY = (False, True, "never")
"""`early_stopping`, by its index in `Rules.early`."""
DEAD = -1e9
"""The score of a beam that does not exist."""


class Rules(NamedTuple):
    """What may change without another compiled program."""

    max_tokens: Array
    length_penalty: Array
    early: Array  # index into EARLY
    diversity_penalty: Array
    end_ids_E: Array


@flax.struct.dataclass
class Group:
    """W beams of each row that go on, and its W best finished texts, best first; L tokens of room."""

    tokens_BWL: Array
    scores_BW: Array  # log-probability so far, less what diversity took
    ended_BWL: Array
    ended_scores_BW: Array
    ended_lengths_BW: Array  # 0: no text
    open_B: Array  # a better text may still come


class Candidates(NamedTuple):
    """The C best continuations of each row's beams, best first."""

    scores_BC: Array
    parents_BC: Array  # which beam, 0 .. W - 1
    tokens_BCL: Array
    last_BC: Array  # the newest of tokens_BCL


Ends = Callable[[Candidates, Array], Array]
"""Which candidates are finished texts, bool [B, C], given how many tokens they have."""


def empty_group(real_B: Array, width: int, room: int) -> Group:
    """Before the first step all beams of a row are equal, so only the first counts; nothing is searched in filling."""
    batch = len(real_B)
    tokens = jnp.zeros((batch, width, room), jnp.int32)
    dead = jnp.full((batch, width), DEAD)
    none = jnp.zeros((batch, width), jnp.int32)
    return Group(tokens, dead.at[:, 0].set(0.0), tokens, dead, none, jnp.asarray(real_B))


def step(
    groups: tuple[Group, ...], log_probs_BNV: Array, written: Array, rules: Rules, ends: Ends
) -> tuple[tuple[Group, ...], Array]:
    """One more token for every beam.

    Args:
      groups: after `written` tokens.
      log_probs_BNV: of the next token, for the N beams of all groups.
      written: int32 [].
      rules: settings.
      ends: says what is finished.

    Returns:
      The groups, and of each of the N beams which one it was before, int32 [B, N].
    """
    width = log_probs_BNV.shape[1] // len(groups)
    taken_BV = jnp.zeros_like(log_probs_BNV[:, 0])  # how often, by earlier groups in this step
    stepped, parents = [], []
    for number, group in enumerate(groups):
        own_BWV = log_probs_BNV[:, number * width : (number + 1) * width]
        candidates = _continuations(group, own_BWV, taken_BV, written, rules)
        finished_BC = ends(candidates, written + 1)
        group, parents_BW, taken_BV = _select(
            group, candidates, finished_BC, taken_BV, written + 1, rules
        )
        stepped.append(group)
        parents.append(number * width + parents_BW)
    return tuple(stepped), jnp.concatenate(parents, axis=1)


def is_end(candidates: Candidates, rules: Rules) -> Array:
    """Whether the newest token is an end token."""
    return (candidates.last_BC[..., None] == rules.end_ids_E[None, None]).any(axis=-1)


@jax.jit  # a program of its own where the host asks which candidates end
def _continuations(
    group: Group, log_probs_BWV: Array, taken_BV: Array, written: Array, rules: Rules
) -> Candidates:
    """So many that W of them do not end with an end token."""
    batch, width, vocab = log_probs_BWV.shape
    log_probs_BWV = log_probs_BWV - (rules.diversity_penalty * taken_BV)[:, None]
    count = min(max(2, 1 + rules.end_ids_E.size) * width, width * vocab)
    scores_BX = (group.scores_BW[..., None] + log_probs_BWV).reshape(batch, -1)
    scores_BC, flat_BC = jax.lax.top_k(scores_BX, count)
    parents_BC, last_BC = flat_BC // vocab, (flat_BC % vocab).astype(jnp.int32)
    tokens_BCL = _pick(group.tokens_BWL, parents_BC)
    tokens_BCL = jax.lax.dynamic_update_index_in_dim(tokens_BCL, last_BC, written, 2)
    return Candidates(scores_BC, parents_BC, tokens_BCL, last_BC)


@jax.jit
def _select(
    group: Group,
    candidates: Candidates,
    finished_BC: Array,
    taken_BV: Array,
    length: Array,
    rules: Rules,
) -> tuple[Group, Array, Array]:
    """The group after a step, which beam each of its beams was, and what is taken now."""
    width = group.scores_BW.shape[1]
    going_BC = jnp.where(finished_BC, DEAD, candidates.scores_BC)
    scores_BW, chosen_BW = jax.lax.top_k(going_BC, width)
    tokens_BWL = _pick(candidates.tokens_BCL, chosen_BW)
    ended = _finish(group, candidates, finished_BC, length, rules)
    group = Group(tokens_BWL, scores_BW, *ended, group.open_B)
    group = group.replace(open_B=_still_open(group, length, rules))
    last_BW = _pick(candidates.last_BC, chosen_BW)
    taken_BV = taken_BV + jax.nn.one_hot(last_BW, taken_BV.shape[1]).sum(axis=1)
    return group, _pick(candidates.parents_BC, chosen_BW), taken_BV


def _finish(group: Group, candidates: Candidates, finished_BC: Array, length: Array, rules: Rules):
    """The W best of the texts finished before and of those now among the first W candidates."""
    width = group.scores_BW.shape[1]
    new_BC = finished_BC & group.open_B[:, None] & (candidates.scores_BC > DEAD / 2)
    new_BC &= (jnp.arange(finished_BC.shape[1]) < width)[None]
    normed_BC = candidates.scores_BC / length.astype(jnp.float32) ** rules.length_penalty
    scores_BX = jnp.concatenate([group.ended_scores_BW, jnp.where(new_BC, normed_BC, DEAD)], axis=1)
    lengths_BX = jnp.concatenate([group.ended_lengths_BW, jnp.where(new_BC, length, 0)], axis=1)
    texts_BXL = jnp.concatenate([group.ended_BWL, candidates.tokens_BCL], axis=1)
    scores_BW, best_BW = jax.lax.top_k(scores_BX, width)
    return _pick(texts_BXL, best_BW), scores_BW, _pick(lengths_BX, best_BW)


def _still_open(group: Group, length: Array, rules: Rules) -> Array:
    """Whether the best beam could still finish among the W best, by the estimate that `early_stopping` names."""
    full_B = (group.ended_lengths_BW > 0).all(axis=1)
    never = rules.early == EARLY.index("never")
    longest = jnp.where(never & (rules.length_penalty > 0), rules.max_tokens, length)
    reachable_B = group.scores_BW[:, 0] / longest.astype(jnp.float32) ** rules.length_penalty
    better_B = reachable_B > group.ended_scores_BW.min(axis=1)
    enough_B = full_B & ((rules.early == EARLY.index(True)) | ~better_B)
    return group.open_B & ~enough_B & (group.scores_BW[:, 0] > DEAD / 2)


def _pick(values: Array, which_BX: Array) -> Array:
    """values[b, which_BX[b, x]] for arrays [B, Y, ...]."""
    return jax.vmap(lambda row, which: row[which])(values, which_BX)
