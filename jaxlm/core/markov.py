"""Hidden Markov chains: what is believed of the hidden states, how often each was in all likelihood visited, the best path.

Rabiner, A Tutorial on Hidden Markov Models, 1989, DOI 10.1109/5.18626: forward, backward and Viterbi, scaled as in its
section V.A; Baum et al. 1970, DOI 10.1214/aoms/1177697196: the expected counts. All is in probabilities, normalised at each
position, not in logarithms: a step is one product [B, C] x [C, C]. C: states; S: the states one position later.

Three deviations. Messages of the backward pass are scaled by themselves, not by the forward pass's norms: a state that is next
to impossible can't make them overflow. A row may hold several chains, and filling. An observation that no believed state emits
has the norm 0 and leaves the belief at what was expected, so that what follows can still be scored.

Position by position here; in blocks, by `jax.lax.associative_scan`: markov_blocks.py, which the models call.
Not for what the tables are made of (models/hmm.py) and how they are learned (train/steps).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array

TINY = float(jnp.finfo(jnp.float32).tiny)
UNROLL = 4
"""Positions in one turn of the loop."""


@flax.struct.dataclass
class Chain:
    """Probabilities, float32, each row's sum 1."""

    initial_C: Array
    transition_CS: Array  # from C to S


@flax.struct.dataclass
class Observed:
    """Rows of observations.

    A chain is a start and what is seen right behind it, up to the next start or to filling.
    """

    scores_BTC: Array  # p(observation | state) up to a factor of its own at each position; the largest should be 1
    starts_BT: Array  # bool: a chain begins here
    seen_BT: Array  # bool: False is filling, which leaves no trace

    @property
    def links_BT(self) -> Array:
        """Where a transition leads to."""
        return self.seen_BT & ~self.starts_BT


class Beliefs(NamedTuple):
    """What the past says."""

    belief_BTC: Array  # p(state | observations up to here); over filling, that of before it
    norm_BT: (
        Array  # p(observation | those before it), up to the factor of its scores; 1 for filling
    )


class Counts(NamedTuple):
    """Expected numbers, float32, of all rows together but for the posterior."""

    initial_C: Array
    transition_CS: Array
    posterior_BTC: Array  # p(state | all observations of the chain); 0 for filling


def dot(left: Array, right: Array) -> Array:
    """A product of matrices in full float32, where devices by default take fewer bits."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def turned(x: Array) -> Array:
    """Rows and positions swapped: a scan goes along the first axis."""
    return jnp.swapaxes(x, 0, 1)


def forward(chain: Chain, observed: Observed, before_BC: Array) -> Beliefs:
    """What is believed of the state after each observation (Rabiner 1989, equations 19 and 20, scaled).

    Args:
      before_BC: the belief before the first position, for rows that do not start there.
    """

    def step(belief_BC: Array, at: tuple[Array, Array, Array]):
        scores_BC, start_B1, seen_B1 = at
        prior_BC = jnp.where(start_B1, chain.initial_C[None], dot(belief_BC, chain.transition_CS))
        joint_BC = prior_BC * scores_BC
        norm_B1 = jnp.sum(joint_BC, axis=-1, keepdims=True)
        possible_B1 = norm_B1 > 0
        new_BC = jnp.where(possible_B1, joint_BC / jnp.where(possible_B1, norm_B1, 1.0), prior_BC)
        belief_BC = jnp.where(seen_B1, new_BC, belief_BC)
        return belief_BC, (belief_BC, jnp.where(seen_B1, norm_B1, 1.0)[:, 0])

    marks = (turned(marks_BT)[..., None] for marks_BT in (observed.starts_BT, observed.seen_BT))
    _, (belief_TBC, norm_TB) = jax.lax.scan(
        step, before_BC, (turned(observed.scores_BTC), *marks), unroll=UNROLL
    )
    return Beliefs(turned(belief_TBC), turned(norm_TB))


def backward(chain: Chain, observed: Observed, after_BC: Array) -> Array:
    """p(later observations of the chain | state), [B, T, C], divided by its largest (Rabiner 1989, equations 24 and 25).

    Args:
      after_BC: the same for the last position, where another one follows it.
    """

    def step(message_BC: Array, at: tuple[Array, Array]):
        scores_BC, link_B1 = at
        earlier_BC = dot(scores_BC * message_BC, chain.transition_CS.T)
        earlier_BC = earlier_BC / jnp.max(earlier_BC, axis=-1, keepdims=True)
        return jnp.where(link_B1, earlier_BC, 1.0), message_BC

    links_TB1 = turned(observed.links_BT)[..., None]
    _, message_TBC = jax.lax.scan(
        step, after_BC, (turned(observed.scores_BTC), links_TB1), reverse=True, unroll=UNROLL
    )
    return turned(message_TBC)


def counts(chain: Chain, observed: Observed, beliefs: Beliefs, message_BTC: Array) -> Counts:
    """Expected starts, transitions and states (Rabiner 1989, equations 27 and 37), without an array [B, T, C, S].

    The sum over positions of belief(c) p(s | c) scores(s) message(s) / norm is p(s | c) times one product of matrices.
    """
    belief_BTC, norm_BT = beliefs
    both_BTC = belief_BTC * message_BTC
    total_BT1 = jnp.sum(both_BTC, axis=-1, keepdims=True)
    posterior_BTC = jnp.where(observed.seen_BT[..., None], both_BTC / total_BT1, 0.0)
    into_BTS = observed.scores_BTC * message_BTC / (norm_BT[..., None] * total_BT1)
    into_BTS = jnp.where(observed.links_BT[..., None], into_BTS, 0.0)[:, 1:]
    pairs_CS = jnp.einsum(
        "BTC,BTS->CS", belief_BTC[:, :-1], into_BTS, precision=jax.lax.Precision.HIGHEST
    )
    begins_BT1 = (observed.starts_BT & observed.seen_BT)[..., None]
    initial_C = jnp.sum(jnp.where(begins_BT1, posterior_BTC, 0.0), axis=(0, 1))
    return Counts(initial_C, chain.transition_CS * pairs_CS, posterior_BTC)


class Steps(NamedTuple):
    """What of a row's best paths is kept to walk back along them."""

    back_BTC: Array  # int32: the best state one position earlier
    last_BC: Array  # scores of the best paths that end in each state, their largest 0


def best_steps(chain: Chain, observed: Observed, before_BC: Array) -> Steps:
    """Viterbi's forward pass (Rabiner 1989, equations 32 and 33), in logarithms.

    Args:
      before_BC: scores of the best paths up to the first position, their largest 0; 0 where a row starts there.
    """
    initial_C, transition_CS = logs(chain.initial_C), logs(chain.transition_CS)
    scores_BTC = logs(observed.scores_BTC)
    stay_C = jnp.arange(len(initial_C), dtype=jnp.int32)[None]

    def step(best_BC: Array, at: tuple[Array, Array, Array]):
        scores_BC, start_B1, seen_B1 = at
        moves_BCS = jnp.where(start_B1[..., None], initial_C[None, None], transition_CS[None])
        paths_BCS = best_BC[..., None] + moves_BCS
        back_BS = jnp.where(seen_B1, jnp.argmax(paths_BCS, axis=1).astype(jnp.int32), stay_C)
        new_BS = jnp.max(paths_BCS, axis=1) + scores_BC
        new_BS = new_BS - jnp.max(new_BS, axis=-1, keepdims=True)  # no digits are lost along a row
        return jnp.where(seen_B1, new_BS, best_BC), back_BS

    marks = (turned(marks_BT)[..., None] for marks_BT in (observed.starts_BT, observed.seen_BT))
    last_BC, back_TBC = jax.lax.scan(step, before_BC, (turned(scores_BTC), *marks), unroll=UNROLL)
    return Steps(turned(back_TBC), last_BC)


def walked_back(back_BTC: Array, last_BM: Array) -> tuple[Array, Array]:
    """The paths [B, T, M] that end in the states `last_BM`, M of each row, and the states before their first, [B, M]."""

    def step(state_BM: Array, back_BC: Array):
        return jnp.take_along_axis(back_BC, state_BM, axis=1), state_BM

    before_BM, path_TBM = jax.lax.scan(step, last_BM, turned(back_BTC), reverse=True, unroll=UNROLL)
    return turned(path_TBM), before_BM


def logs(probabilities: Array) -> Array:
    """Their logarithms, that of 0 the one of the smallest float32: finite, so that sums of them stay comparable."""
    return jnp.log(jnp.maximum(probabilities, TINY))
