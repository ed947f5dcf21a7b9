"""Beam search and diverse beam search, through any model's `init_cache` and `extend`.

What follows the prompt is one compiled loop. Not for drawing (sampling.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, PyTree
from jaxlm.decode import beam_groups, buckets, prefill
from jaxlm.decode.beam_groups import EARLY, Candidates, Group, Rules
from jaxlm.decode.cache import take_rows
from jaxlm.decode.checks import check_room, refuse_constraints
from jaxlm.decode.types import Request, Written


@dataclasses.dataclass(frozen=True)
class Beam:
    """Search for likely texts, scored and finished exactly as transformers' `generate` (release 5) does.

    A finished text's score is its log-probability, end token included, over its number of tokens to the power
    `length_penalty`. Of the (1 + number of end tokens) * num_beams best continuations, those among the first
    num_beams that end are kept as finished, and the num_beams best of the others go on.

    Several groups: diverse beam search (Vijayakumar et al. 2016, arXiv:1610.02424, algorithm 1 with Hamming
    diversity). The groups step one after the other, and a token's log-probability is lowered by
    `diversity_penalty` for each beam of an earlier group that has just gone on with it. The score keeps what was
    taken off, as in the authors' code; each group finishes by the rule above.

    Attributes:
      num_beams: texts followed at once, in all groups together.
      length_penalty: above 0 favours long texts, below 0 short ones.
      num_return: how many finished texts are given back.
      early_stopping: a row ends, True: once num_beams texts have finished; False: once no beam would beat them if
        it ended now; "never": once none could with all of max_tokens.
      num_groups: 1 is plain beam search.
      diversity_penalty: nats.

    Raises:
      ValueError: a number out of range.
    """

    num_beams: int = 4
    length_penalty: float = 1.0
    num_return: int = 1
    early_stopping: bool | str = False
    num_groups: int = 1
    diversity_penalty: float = 0.0

    def __post_init__(self):
        for name in ("num_beams", "num_return", "num_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("length_penalty", "diversity_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} must be finite")
        if self.num_return > self.num_beams:
            raise ValueError(
                f"num_return={self.num_return} must be at most num_beams={self.num_beams}"
            )
        if self.num_beams % self.num_groups:
            raise ValueError(
                f"num_beams={self.num_beams} must be a multiple of num_groups={self.num_groups}"
            )
        if self.early_stopping not in EARLY:
            raise ValueError(
                f"early_stopping={self.early_stopping!r}: accepted are True, False, 'never'"
            )
        if self.diversity_penalty < 0 or (self.diversity_penalty > 0) != (self.num_groups > 1):
            raise ValueError(
                f"diversity_penalty={self.diversity_penalty} must be above 0 with several groups, 0 with "
                f"one, and num_groups={self.num_groups}"
            )

    def write(self, model: Any, params: PyTree, request: Request) -> list[list[Written]]:
        """The best finished texts of each prompt, best first; fewer than num_return if there are no more.

        `request.watch` is asked about every candidate, so its answer must depend on its arguments alone;
        `request.on_tokens` is called once a row, when its best text is known.

        Raises:
          ValueError: prompts that do not fit into max_len together with max_tokens, or constraints.
        """
        check_room(request, "beam search")
        refuse_constraints(request, "beam search")
        rules = Rules(
            np.int32(request.max_tokens),
            np.float32(self.length_penalty),
            np.int32(EARLY.index(self.early_stopping)),
            np.float32(self.diversity_penalty),
            np.asarray(request.end_ids, np.int32),
        )
        contexts = prefill.of_request(request)
        logits_BV, cache = prefill.prefill(model, params, contexts, request.prefix)
        width, room = self.num_beams // self.num_groups, buckets.up(request.max_tokens, 16)
        real_B = np.arange(len(logits_BV)) < len(request.prompts)
        groups = (beam_groups.empty_group(real_B, width, room),) * self.num_groups
        if request.watch is None:
            groups = _search(model, params, cache, logits_BV, groups, rules)
        else:
            groups = _watched_search(model, params, cache, logits_BV, groups, rules, request)
        texts = _results(groups, request, self.num_return)
        if request.on_tokens is not None:
            for row, found in enumerate(texts):
                request.on_tokens(row, found[0].tokens)
        return texts


def _spread(cache: PyTree, logits_BV: Array, num_beams: int) -> tuple[PyTree, Array]:
    """A prompt's row of the cache for each of its N beams, and log_probs_BNV of what comes next."""
    size = logits_BV.shape[0]
    cache = take_rows(cache, jnp.repeat(jnp.arange(size), num_beams))
    return cache, jnp.repeat(jax.nn.log_softmax(logits_BV)[:, None], num_beams, axis=1)


def _advance(model, params, cache, parents_BN: Array, groups: tuple[Group, ...], written: Array):
    """The cache with every beam's newest token behind its parent's, and log_probs_BNV of what comes next."""
    size, num_beams = parents_BN.shape
    rows_R = (jnp.arange(size)[:, None] * num_beams + parents_BN).reshape(-1)
    last = [
        jax.lax.dynamic_index_in_dim(group.tokens_BWL, written - 1, 2, keepdims=False)
        for group in groups
    ]
    last_R = jnp.concatenate(last, axis=1).reshape(-1)
    cache = take_rows(cache, rows_R)
    output, cache = model.extend(params, cache, last_R[:, None], jnp.ones_like(last_R))
    log_probs_RV = jax.nn.log_softmax(output.logits(jnp.zeros_like(last_R)))
    return cache, log_probs_RV.reshape(size, num_beams, -1)


_spread_once = jax.jit(_spread, static_argnums=2)
_advance_once = jax.jit(_advance, static_argnums=0)


def _num_beams(groups: tuple[Group, ...]) -> int:
    return sum(group.scores_BW.shape[1] for group in groups)


def _unfinished(groups: tuple[Group, ...], written: Array, rules: Rules) -> Array:
    return (written < rules.max_tokens) & jnp.any(jnp.stack([group.open_B for group in groups]))


@functools.partial(jax.jit, static_argnums=0)
def _search(model, params, cache, logits_BV, groups, rules: Rules) -> tuple[Group, ...]:
    """All steps on the device; how many there are is not part of the program."""

    def ends(candidates: Candidates, length: Array) -> Array:
        return beam_groups.is_end(candidates, rules) | (length >= rules.max_tokens)

    def body(state):
        cache, parents_BN, groups, written = state
        cache, log_probs_BNV = _advance(model, params, cache, parents_BN, groups, written)
        groups, parents_BN = beam_groups.step(groups, log_probs_BNV, written, rules, ends)
        return cache, parents_BN, groups, written + 1

    cache, log_probs_BNV = _spread(cache, logits_BV, _num_beams(groups))
    groups, parents_BN = beam_groups.step(groups, log_probs_BNV, jnp.int32(0), rules, ends)
    state = (cache, parents_BN, groups, jnp.int32(1))
    state = jax.lax.while_loop(lambda state: _unfinished(*state[2:], rules), body, state)
    return state[2]


def _watched_search(
    model, params, cache, logits_BV, groups, rules: Rules, request: Request
) -> tuple[Group, ...]:
    """The same step by step, since the watcher lives on the host."""

    def ends(candidates: Candidates, length: int) -> np.ndarray:
        last_BC, tokens_BCL = np.asarray(candidates.last_BC), np.asarray(candidates.tokens_BCL)
        finished_BC = np.isin(last_BC, request.end_ids) | (length >= request.max_tokens)
        for row in range(len(request.prompts)):
            for place in np.flatnonzero(~finished_BC[row]):
                tokens = tokens_BCL[row, place, :length].tolist()
                finished_BC[row, place] = request.watch(row, tokens)
        return finished_BC

    cache, log_probs_BNV = _spread_once(cache, logits_BV, _num_beams(groups))
    groups, parents_BN = beam_groups.step(groups, log_probs_BNV, 0, rules, ends)
    for written in range(1, request.max_tokens):
        if not any(np.asarray(group.open_B).any() for group in groups):
            break
        cache, log_probs_BNV = _advance_once(model, params, cache, parents_BN, groups, written)
        groups, parents_BN = beam_groups.step(groups, log_probs_BNV, written, rules, ends)
    return groups


def _results(groups: tuple[Group, ...], request: Request, num_return: int) -> list[list[Written]]:
    """The best finished texts of all groups; a stable order, so that equal ones stay in the groups' order."""
    tokens, scores, lengths = (
        np.concatenate([np.asarray(getattr(group, name)) for group in groups], axis=1)
        for name in ("ended_BWL", "ended_scores_BW", "ended_lengths_BW")
    )
    texts = []
    for row in range(len(request.prompts)):
        order = np.argsort(-scores[row], kind="stable")
        found = [place for place in order if lengths[row, place] > 0][:num_return]
        texts.append(
            [
                _written(
                    tokens[row, place, : lengths[row, place]].tolist(),
                    scores[row, place],
                    row,
                    request,
                )
                for place in found
            ]
        )
    return texts


def _written(tokens: list[int], score: float, row: int, request: Request) -> Written:
    if tokens[-1] in request.end_ids:
        return Written(tokens[:-1], "end", float(score))
    stopped = request.watch is not None and request.watch(row, tokens)
    return Written(tokens, "stop" if stopped else "length", float(score))
