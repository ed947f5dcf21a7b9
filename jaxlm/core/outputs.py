"""What a language model returns: a state for each place and what makes scores of it, so that they are made only where asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core import numerics
from jaxlm.core.types import Array, PyTree

FULL_LOGITS_BYTES = 2**30
"""Up to this much float32 logits are made at once; beyond it, chunks of CHUNK_ROWS tokens."""
CHUNK_ROWS = 8192
PICKED_LOGITS_BYTES = 2**27
"""As FULL_LOGITS_BYTES, of places that were picked to be scored: what beyond it would be chunks of so much."""


class StateOutput:
    """What the two forms of a `ModelOutput` share.

    `hidden` [B, T, ...] has a state for each place, `_project` makes float32 logits [..., V] of such states, `chunk` is how many
    rows of them exist at once (0: chosen by size), `vocab_size` is V.
    """

    hidden: Array
    vocab_size: int
    chunk: int

    def _project(self, hidden: Array) -> Array:
        raise NotImplementedError

    def logits(self, positions: Array | None = None) -> Array:
        """Float32 logits [B, T, V]; for positions int32 [B], those positions only, [B, V]."""
        if positions is None:
            return self._project(self.hidden)
        picked = self.hidden[jnp.arange(len(positions)), positions]
        return self._project(picked)

    def at(self, rows_R: Array, places_RC: Array) -> Any:
        """The output at chosen places only: its row r is at places_RC[r] of this one's row rows_R[r]."""
        picked = self.hidden[rows_R[:, None], places_RC]
        return self.replace(
            hidden=picked, chunk=max(1, PICKED_LOGITS_BYTES // (4 * self.vocab_size))
        )

    def token_stats(self, targets_BT: Array) -> numerics.TokenStats:
        """The figures of `numerics.TokenStats` for each target, float32 [B, T]; errors as `scored`."""
        return scored((self,), numerics.token_stats, targets_BT)

    def token_nll(self, targets_BT: Array) -> Array:
        """Negative log-likelihood of each target, nats, float32 [B, T]."""
        return self.token_stats(targets_BT).nll


@flax.struct.dataclass
class NeuralOutput(StateOutput):
    """A `ModelOutput` from final hidden states."""

    hidden: Array  # [B, T, D], after the final norm, in compute dtype
    head_DV: Array  # output projection; V may be padded beyond vocab_size
    aux: dict[str, Array]
    vocab_size: int = flax.struct.field(pytree_node=False)  # the true V
    soft_cap: float = flax.struct.field(pytree_node=False, default=0.0)
    chunk: int = flax.struct.field(pytree_node=False, default=0)  # rows; 0 chooses by size
    bias_V: Array | None = None  # added to the logits: masked-LM heads, classifiers

    def _project(self, hidden: Array) -> Array:
        head = self.head_DV.astype(hidden.dtype)
        logits = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
        logits = logits[..., : self.vocab_size]
        if self.bias_V is not None:
            bias = self.bias_V[: self.vocab_size].astype(jnp.float32)
            logits = logits + jnp.broadcast_to(bias, logits.shape)
        return numerics.soft_cap(logits, self.soft_cap)


@flax.struct.dataclass
class TableOutput(StateOutput):
    """A `ModelOutput` of log-probabilities that a model makes itself of a state: counts behind a context, a belief over states.

    Its logits are normalised, unless its scores are none of probabilities.
    """

    hidden: Array  # [B, T, K]
    tables: PyTree  # what else they are made of
    aux: dict[str, Array]
    vocab_size: int = flax.struct.field(pytree_node=False)
    log_probs: Callable[[PyTree, Array], Array] = flax.struct.field(pytree_node=False)
    """(tables, states [..., K]) -> float32 [..., V]."""
    log_prob: Callable[[PyTree, Array, Array], Array] | None = flax.struct.field(
        pytree_node=False, default=None
    )
    """(tables, states [..., K], targets [...]) -> float32 [...]: where that is less work than all of them."""
    chunk: int = flax.struct.field(pytree_node=False, default=0)

    def _project(self, hidden: Array) -> Array:
        return self.log_probs(self.tables, hidden)

    def token_nll(self, targets_BT: Array) -> Array:
        """Negative log-likelihood of each target, nats, float32 [B, T]."""
        if self.log_prob is None:
            return super().token_nll(targets_BT)
        return -self.log_prob(self.tables, self.hidden, targets_BT)


def scored(outputs: Sequence[StateOutput], figures: Callable[..., Any], *values_BT: Array) -> Any:
    """What `figures` makes of the logits of one model, or of several at the same places, chunked where they would not fit.

    Args:
      outputs: hidden [B, T, D] each, D of its own; the first one says how many rows of logits exist at once.
      figures: from logits [R, V] of each output and values [R] to a tree of arrays [R], each row by itself.
      values_BT: of the places: targets.

    Returns:
      `figures`'s tree of all places, [B, T] each.

    Raises:
      ValueError: the targets are not one for each place that a model scores.
    """
    first = outputs[0]
    shape = first.hidden.shape[:2]
    for one in (*(output.hidden.shape[:2] for output in outputs), *(v.shape for v in values_BT)):
        if one != shape:
            raise ValueError(
                f"targets are {one}, and the model scores {shape}: data.kind does not fit the model's head (a class of a "
                "sequence is one target a row, a token's is one a token)"
            )
    rows = shape[0] * shape[1]
    chunk = first.chunk
    if not chunk:
        fits = rows * first.vocab_size * 4 * len(outputs) <= FULL_LOGITS_BYTES
        chunk = rows if fits else CHUNK_ROWS
    parts = [output.hidden.reshape(rows, -1) for output in outputs]
    parts += [values.reshape(rows) for values in values_BT]

    def figure(*parts: Array) -> Any:
        hidden, values = parts[: len(outputs)], parts[len(outputs) :]
        logits = [o._project(h) for o, h in zip(outputs, hidden, strict=True)]
        return figures(*logits, *values)

    made = figure(*parts) if chunk >= rows else numerics.by_chunks(figure, parts, chunk)
    return jax.tree.map(lambda values: values.reshape(shape), made)
