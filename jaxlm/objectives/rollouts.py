"""What objectives share that learn from completions which the model has written itself (train/steps/policy.py).

A rollout is rows of prompt and completion: tokens (the last one too), targets int32 [B, T], weights [B, T] (1 at the
completion's targets), and of each row the `temperature` that it was drawn at and its `rewards`, [B]; completions of one prompt follow one another. Losses:
reinforcement.py, on_policy.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core import metrics, randomness
from jaxlm.core.outputs import NeuralOutput, scored
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree, Sums
from jaxlm.objectives.token_nll import REPORTED, require_direction

AVERAGES = ("sequence", "token", "constant")


class Drawn(NamedTuple):
    """Of each target under the distribution that completions are drawn from, float32 [B, T]."""

    log_probs: Array
    entropy: Array  # of the whole distribution, nats


def drawn(output: NeuralOutput, batch: Batch) -> Drawn:
    """The figures of a batch's targets under softmax(logits / temperature).

    Where nothing is weighed the log-probability is 0: nothing holds it there, and a ratio of two would overflow in time.
    """
    targets = batch["targets"]
    temperature = jnp.broadcast_to(batch["temperature"][:, None], targets.shape)
    found = scored((output,), _drawn, targets, temperature)
    return found._replace(log_probs=jnp.where(batch["weights"] > 0, found.log_probs, 0.0))


def _drawn(logits: Array, targets: Array, temperature: Array) -> Drawn:
    log_probs = jax.nn.log_softmax(logits / temperature[:, None], axis=-1)
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 1)
    picked = jnp.sum(jnp.where(ids == targets[:, None], log_probs, 0.0), axis=-1)
    return Drawn(picked, -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))


def averaged(weights_BT: Array, average: str) -> tuple[Array, Array]:
    """What each place weighs in a loss, and the weight of the batch, so that sum / weight is the mean meant.

    Args:
      average: "sequence", the mean over completions of the mean over each one's tokens; "token", over all tokens;
        "constant", over completions of the sum divided by a constant, here the positions of a row.
    """
    if average == "token":
        return weights_BT, jnp.sum(weights_BT)
    if average == "constant":
        return weights_BT, jnp.asarray(weights_BT.size, jnp.float32)
    lengths_B = jnp.sum(weights_BT, axis=1)
    share_BT = weights_BT / jnp.maximum(lengths_B, 1e-30)[:, None]
    return share_BT, jnp.sum((lengths_B > 0).astype(jnp.float32))


def check_average(average: str) -> None:
    """Raises ValueError for none of AVERAGES."""
    if average not in AVERAGES:
        raise ValueError(
            f'objective.average="{average}" is not known: accepted are {", ".join(AVERAGES)}'
        )


class FromRollouts:
    """An objective over rollouts, of which two methods make, before anything is updated, what the loss reads.

    `scores(params, frozen, rollout)` runs the models, each row by itself, so that it can be called for some rows after others;
    `experience(rollout, group_size)` is given all rows with their scores, and runs none.

    `terms` beside `main` are by coefficient, 0 turns one off; those of a model's experts are added.
    """

    kind: ClassVar[str]
    batch_keys: ClassVar[tuple[str, ...]] = ("targets", "weights")
    coupled: ClassVar[bool] = False
    made: ClassVar[str]  # an entry of what they make

    def __init__(self, config: Any, model: Any, terms: Mapping[str, float], modules: Mapping):
        """Raises ValueError where the model is not causal."""
        why = "it would see the tokens that it is to write"
        require_direction(model, "causal", self.kind, why)
        self.config, self.model, self.modules = config, model, dict(modules)
        self.others = tuple(modules)  # of those that there may be
        self.aux_terms = dict(getattr(model, "aux_terms", {}))
        self.terms = {name: value for name, value in terms.items() if value} | self.aux_terms

    def weights(self, batch: Batch) -> dict[str, Array]:
        """The same for every term: see `averaged`."""
        weights = batch["weights"].astype(jnp.float32)
        return dict.fromkeys(self.terms, averaged(weights, self.config.average)[1])

    def run(self, params: PyTree, batch: Batch, key: Array | None = None, train: bool = False):
        """The model's output for the rows of a batch.

        Raises:
          ValueError: the batch is no rollout.
        """
        if train and self.made not in batch:
            raise ValueError(
                f'objective.kind="{self.kind}" learns from what the model writes itself: set '
                'step = config.section("step", "policy")'
            )
        rngs = {"dropout": randomness.named_key(key, "dropout")} if train else {}
        return self.model.apply({"params": params}, batch["tokens"], train=train, rngs=rngs)

    def out(
        self,
        losses: Mapping[str, Array],
        shown: Mapping[str, Array],
        aux: Mapping[str, Array],
        ctx: LossContext,
        batch: Batch,
    ) -> LossOut:
        """The sums of losses [B, T], reported as NAME_loss where not shown anyway, and plain means over tokens of `shown`, [B, T]."""
        weights = batch["weights"].astype(jnp.float32)
        own, total = averaged(weights, self.config.average)
        sums: dict[str, Array] = {}
        report: dict[str, Sums] = {}
        for name, values in losses.items():
            sums[name] = jnp.sum(jnp.where(weights > 0, values, 0.0) * own)
            if name not in shown:
                report[f"{name}_loss"] = Sums(sums[name], total)
        for name, values in shown.items():
            report[name] = metrics.weighted(jnp.where(weights > 0, values, 0.0), weights)
        for name, values in aux.items():
            if name in self.aux_terms or name.startswith(REPORTED):
                report[name] = metrics.weighted(jnp.mean(values), total)
        sums |= {name: report[name].total for name in self.aux_terms}
        return LossOut({name: sums[name] for name in self.terms}, report, ctx.vars)
