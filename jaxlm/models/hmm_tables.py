"""A hidden Markov model's tables as what its recursions take, and what they say of words."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core import markov
from jaxlm.core.markov import Beliefs, Chain, Observed
from jaxlm.core.types import Array
from jaxlm.layers import history

NEVER = -1e30
"""The log-probability of what can't be: finite."""


@flax.struct.dataclass
class Emission:
    """p(word | state), each word's column divided by its largest: rare words keep their digits."""

    scores_CV: Array
    log_scale_V: Array


def log_probs(emission: Emission, expected: Array) -> Array:
    """Log-probabilities of all words, [..., V], by what is expected of the state, [..., C]."""
    mixed = markov.dot(expected.reshape(-1, expected.shape[-1]), emission.scores_CV)
    found = markov.logs(mixed) + emission.log_scale_V[None]
    return found.reshape(*expected.shape[:-1], -1)


def log_prob(emission: Emission, expected: Array, targets: Array) -> Array:
    """As `log_probs`, of one word at each place."""
    mixed = jnp.sum(expected * emission.scores_CV.T[targets], axis=-1)
    return markov.logs(mixed) + emission.log_scale_V[targets]


def probabilities(
    initial_C: Array, transition_CS: Array, emission_CV: Array
) -> tuple[Chain, Emission]:
    """Log-probabilities as what the recursions take."""
    # A word that no state ever says has a scale too, so that no 0 is divided by 0.
    log_scale_V = jnp.maximum(jax.lax.stop_gradient(jnp.max(emission_CV, axis=0)), NEVER)
    scores_CV = jnp.exp(emission_CV - log_scale_V[None])
    return Chain(jnp.exp(initial_C), jnp.exp(transition_CS)), Emission(scores_CV, log_scale_V)


def observed_rows(
    emission: Emission,
    tokens: Array,
    segment_ids: Array | None,
    lengths: Array | None,
    read_B: Array,
) -> Observed:
    """Rows of tokens, of which those that nothing has been read of start."""
    places = history.marks(tokens.shape[1], segment_ids, lengths)
    starts, seen = (
        jnp.full(tokens.shape, other) if found is None else found
        for found, other in ((places.starts_BT, False), (places.real_BT, True))
    )
    starts = starts.at[:, 0].set(starts[:, 0] | ~read_B)
    return Observed(emission.scores_CV.T[tokens], starts, seen)


def log_of_each(emission: Emission, beliefs: Beliefs, observed: Observed, tokens: Array) -> Array:
    """log p(token | those before it), [B, T], 0 for filling."""
    log_p_BT = jnp.log(beliefs.norm_BT) + emission.log_scale_V[tokens]
    return jnp.where(observed.seen_BT, log_p_BT, 0.0)
