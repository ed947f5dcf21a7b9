"""What the losses of whole texts share: how likely each segment of a row is, where it ends, and another model's opinion of it.

A row holds a text or several, as segments 1, 2, ...; `weights` say which of their targets count. S segments of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core import metrics, numerics, randomness
from jaxlm.core.outputs import scored
from jaxlm.core.types import Array, Batch, LossContext, ModelOutput, PyTree, Sums
from jaxlm.objectives.token_nll import REPORTED, model_inputs

BATCH_KEYS = ("targets", "weights", "segment_ids")


def run(model: Any, params: PyTree, batch: Batch, ctx: LossContext | None = None) -> ModelOutput:
    """What a model makes of a batch; with dropout where `ctx` says that it trains."""
    inputs = {key: batch[key] for key in model_inputs(model) if key in batch}
    if ctx is None:
        return model.apply({"params": params}, **inputs)
    rngs = {"dropout": randomness.named_key(ctx.key, "dropout")}
    return model.apply({"params": params}, **inputs, train=ctx.train, rngs=rngs)


def member(batch: Batch, num: int) -> Array:
    """Float32 [B, S, T], 1 where a position belongs to a segment."""
    numbers_S = jnp.arange(1, num + 1, dtype=jnp.int32)
    inside = batch["segment_ids"][:, None, :] == numbers_S[None, :, None]
    return inside.astype(jnp.float32)


def totals(values_BT: Array, batch: Batch, num: int) -> Array:
    """The sum of a figure over every segment's weighed targets, float32 [B, S]."""
    return jnp.sum(member(batch, num) * (values_BT * batch["weights"])[:, None, :], axis=-1)


def num_targets(batch: Batch, num: int) -> Array:
    """How many targets of every segment are weighed, float32 [B, S]."""
    return totals(jnp.ones_like(batch["weights"]), batch, num)


def last(batch: Batch, num: int) -> Array:
    """Where every segment's last token is, int32 [B, S]; 0 of one that is not there."""
    length = batch["segment_ids"].shape[1]
    places_T = jnp.arange(length, dtype=jnp.float32)
    return jnp.max(member(batch, num) * places_T[None, None, :], axis=-1).astype(jnp.int32)


def of_the_model(
    model: Any, output: ModelOutput, weight: Array
) -> tuple[dict[str, Array], dict[str, Sums]]:
    """The terms that a model adds itself (`aux_terms`), and what it reports, as in TokenNLL."""
    names = getattr(model, "aux_terms", {})
    report = {
        name: metrics.weighted(jnp.mean(values), weight)
        for name, values in output.aux.items()
        if name in names or name.startswith(REPORTED)
    }
    return {name: report[name].total for name in names}, report


class Compared(NamedTuple):
    """Of every target, float32 [B, T]."""

    policy: Array  # log-probability, nats
    reference: Array
    divergence: Array  # KL(policy || reference) over the whole vocabulary; no gradient


def compared(policy: ModelOutput, reference: ModelOutput, targets: Array) -> Compared:
    """What two models make of the same targets."""

    def figures(logits: Array, other: Array, targets: Array) -> Compared:
        kl = numerics.divergence(jax.lax.stop_gradient(other), jax.lax.stop_gradient(logits))
        stats = [numerics.token_stats(one, targets) for one in (logits, other)]
        return Compared(-stats[0].nll, -stats[1].nll, kl)

    return scored((policy, reference), figures, targets)


def compare(reference: Any, output: ModelOutput, ctx: LossContext, batch: Batch) -> Compared:
    """The policy's output beside the reference, which gets no dropout and no gradient."""
    theirs = run(reference, ctx.frozen["reference"], batch)
    return compared(output, theirs, batch["targets"])
