"""What EM counts of a batch, and what it makes of the counts.

A batch's rows are sequences of observations in which no token is missing.

A row has tokens x_0 .. x_{T-1} and targets x_1 .. x_T, so T + 1 observations. Of a row that is filled up, or of a segment, they
are its tokens up to the place of its last target that weighs anything, and that target; what stands behind counts for nothing,
nor does a row without weights. Tokens before it whose own targets weigh 0 (a prompt) are observed all the same. Where windows
follow one another in a text, the last token of one is the first of the next, and so is observed twice.

The loss is of the targets that weigh something, p(x_t | x_0 .. x_{t-1}), as objectives/causal_lm.py scores them; the likelihood
that EM climbs is of the whole sequence, x_0 included.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core import markov, markov_blocks, metrics
from jaxlm.core.markov import Chain, Observed
from jaxlm.core.types import Array, Batch, Sums
from jaxlm.layers import history
from jaxlm.models.hmm_tables import Emission, log_of_each


class Sequences(NamedTuple):
    """Rows of observations, one place wider than the batch's; of segments twice as wide, as each of them has a last target."""

    tokens_BT: Array
    starts_BT: Array  # bool
    seen_BT: Array  # bool
    weights_BT: Array  # float32, of each as a target


def sequences(batch: Batch) -> Sequences:
    """The observations of a batch: tokens, targets, weights [B, T], maybe segment_ids."""
    tokens, weights = batch["tokens"], batch["weights"].astype(jnp.float32)
    batch_size, length = tokens.shape
    starts_BT = history.marks(length, batch.get("segment_ids")).starts_BT
    starts_BT = jnp.zeros(tokens.shape, bool) if starts_BT is None else starts_BT
    starts_BT = starts_BT.at[:, 0].set(True)
    active_BT = _active(weights > 0, starts_BT)
    goes_on_BT = jnp.pad((active_BT & ~starts_BT)[:, 1:], ((0, 0), (0, 1)))
    width = length + 1 if "segment_ids" not in batch else 2 * length
    # Each segment before has one observation more than it has tokens.
    segment_BT = jnp.cumsum(starts_BT, axis=1, dtype=jnp.int32) - 1
    place_BT = jnp.arange(length, dtype=jnp.int32)[None] + segment_BT
    rows_B1 = jnp.arange(batch_size, dtype=jnp.int32)[:, None]

    def put(into: Array, where_BT: Array, places_BT: Array, values: Array) -> Array:
        places_BT = jnp.where(where_BT, places_BT, width)  # beyond the last one: dropped
        return into.at[rows_B1, places_BT].set(values, mode="drop")

    none = jnp.zeros((batch_size, width), bool)
    ids = put(none.astype(tokens.dtype), active_BT, place_BT, tokens)
    return Sequences(
        tokens_BT=put(ids, active_BT & ~goes_on_BT, place_BT + 1, batch["targets"]),
        starts_BT=put(none, active_BT & starts_BT, place_BT, True),
        seen_BT=put(put(none, active_BT, place_BT, True), active_BT, place_BT + 1, True),
        weights_BT=put(none.astype(weights.dtype), active_BT, place_BT + 1, weights),
    )


def _active(weighed_BT: Array, starts_BT: Array) -> Array:
    """Places at or before one of their own segment that is weighed."""
    length = weighed_BT.shape[1]
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], weighed_BT.shape)
    start = jax.lax.cummin(jnp.where(starts_BT, places, length), axis=1, reverse=True)
    next_start = jnp.pad(start[:, 1:], ((0, 0), (0, 1)), constant_values=length)
    weighed = jax.lax.cummin(jnp.where(weighed_BT, places, length), axis=1, reverse=True)
    return weighed < next_start


def expected(
    chain: Chain, emission: Emission, batch: Batch, scan: str
) -> tuple[dict[str, Array], Sums]:
    """Expected numbers of starts, transitions and words by state, what they are of, and the loss; see `HMM.expected_counts`."""
    found = sequences(batch)
    tokens = found.tokens_BT
    observed = Observed(emission.scores_CV.T[tokens], found.starts_BT, found.seen_BT)
    beliefs, counts = markov_blocks.expected(chain, observed, scan)
    log_p_BT = log_of_each(emission, beliefs, observed, tokens)
    num_states, vocab_size = emission.scores_CV.shape
    posterior = counts.posterior_BTC.reshape(-1, num_states)
    emitted_VC = jax.ops.segment_sum(posterior, tokens.reshape(-1), vocab_size)
    return {
        "initial": counts.initial_C,
        "transition": counts.transition_CS,
        "emission": emitted_VC.T,
        "log_likelihood": jnp.sum(log_p_BT),
        "num_observations": jnp.sum(found.seen_BT, dtype=jnp.float32),
    }, metrics.weighted(-log_p_BT, found.weights_BT)


def normalised(logits: Array, counts: Array, smoothing: float) -> Array:
    """Logarithms of counts' shares of their row; a row without counts stays what its logits say."""
    total = jnp.sum(counts + smoothing, axis=-1, keepdims=True)
    shares = (counts + smoothing) / jnp.where(total > 0, total, 1.0)
    return jnp.where(total > 0, markov.logs(shares), jax.nn.log_softmax(logits, axis=-1))
