"""Several tasks in one model: every example's own task says which loss it has. The tasks are the data's (data/tasks/mixture.py)."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp

from jaxlm.core import metrics, numerics
from jaxlm.core.outputs import scored
from jaxlm.core.types import Array, Batch, ModelOutput
from jaxlm.objectives import token_nll
from jaxlm.objectives.token_nll import Report, Terms

AVERAGES = ("example", "target")


@dataclasses.dataclass(frozen=True)
class Config(token_nll.Config):
    """What a batch's loss is a mean over, and what the data says."""

    average: str = (
        "example"  # each counts once, however many targets it has; "target": each of these
    )
    tasks: tuple[str, ...] = ()  # in the order of their numbers; (): the data's
    num_labels: tuple[int, ...] = ()  # of each; 0: its targets are tokens; (): the data's

    def __post_init__(self):
        super().__post_init__()
        if self.average not in AVERAGES:
            raise ValueError(
                f'objective.average="{self.average}": accepted are {", ".join(AVERAGES)}'
            )


class MultiTask(token_nll.TokenNLL):
    """A term for each task, by its name: the cross-entropy of its examples, over the examples of all tasks.

    So a task weighs as much as its share of the examples, which the mixture says. Where targets are classes, a head with one
    output for each label of all tasks scores every token, and the softmax of an example is over its own task's labels alone
    (one encoder with heads, as Liu et al. 2019, MT-DNN, arXiv:1901.11504). Else all tasks share the vocabulary (text to text,
    Raffel et al. 2020, arXiv:1910.10683).

    Batch: what the model reads; task int32 [B]; targets int32 [B, T] among the labels of all tasks, or tokens; weights float32
    [B, T]. Reports `loss`, nats a target of all tasks, and of each task `TASK_loss` and `TASK_accuracy`.
    """

    Config = Config
    batch_keys = ("targets", "weights", "task")

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the data is no mixture, or the model's head is not one of its labels."""
        super().__init__(config, model)
        if not config.tasks:
            raise ValueError('objective.kind="multi_task" needs the tasks of data.kind="mixture"')
        if taken := self.terms.keys() & set(config.tasks):
            raise ValueError(f"data.tasks.{taken.pop()}: this name is a term of the model's loss")
        self.classes = any(config.num_labels)
        head = getattr(getattr(model, "config", None), "head", None)
        if self.classes and head != "token":
            raise ValueError(
                f'objective.kind="multi_task": tasks with labels need a score of each for every token, model.head="token", '
                f'not "{head}"'
            )
        self.firsts = (0, *itertools.accumulate(config.num_labels))
        del self.terms["nll"]
        self.terms = dict.fromkeys(config.tasks, 1.0) | self.terms

    def weights(self, batch: Batch) -> dict[str, Array]:
        """All examples or targets for every term, whichever task it is of."""
        total = jnp.sum(self._shares(batch))
        return dict.fromkeys(self.terms, total) | {
            name: jnp.sum(batch["weights"].astype(jnp.float32)) for name in self.aux_terms
        }

    def score(self, output: ModelOutput, batch: Batch) -> tuple[Terms, Report]:
        """As `TokenNLL`'s."""
        stats, weights_BT = self._stats(output, batch), batch["weights"]
        shares_BT, smoothing = self._shares(batch), self.config.label_smoothing
        losses_BT = (1 - smoothing) * stats.nll + smoothing * stats.uniform_nll
        sums, report = {}, {"loss": metrics.weighted(stats.nll, weights_BT)}
        for number, name in enumerate(self.config.tasks):
            mine = (batch["task"] == number).astype(jnp.float32)[:, None]
            sums[name] = metrics.weighted(losses_BT, shares_BT * mine).total
            report[f"{name}_loss"] = metrics.weighted(stats.nll, weights_BT * mine)
            report[f"{name}_accuracy"] = metrics.weighted(stats.correct, weights_BT * mine)
        if "z" in self.terms:
            sums["z"] = metrics.weighted(jnp.square(stats.log_z), shares_BT).total
        return sums, report

    def answers(self, output: ModelOutput, batch: Batch) -> Array:
        """The likeliest target at every place, int32 [B, T], of those that its example's task has."""
        logits = output.logits()
        if self.classes:
            logits = numerics.within(logits, *self._ranges(batch))
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def _shares(self, batch: Batch) -> Array:
        """How much each target weighs in the loss, [B, T]."""
        weights_BT = batch["weights"].astype(jnp.float32)
        if self.config.average == "target":
            return weights_BT
        rows_B1 = jnp.sum(weights_BT, axis=1, keepdims=True)
        return weights_BT / jnp.where(rows_B1 > 0, rows_B1, 1.0)

    def _stats(self, output: ModelOutput, batch: Batch) -> numerics.TokenStats:
        if not self.classes:
            return output.token_stats(batch["targets"])
        return scored((output,), own_stats, batch["targets"], *self._ranges(batch))

    def _ranges(self, batch: Batch) -> tuple[Array, Array]:
        """The first label of each place's task, and the one behind its last, int32 [B, T]."""
        firsts = jnp.asarray(self.firsts, jnp.int32)
        shape = batch["targets"].shape
        ends = (firsts[batch["task"]], firsts[batch["task"] + 1])
        return tuple(jnp.broadcast_to(end[:, None], shape) for end in ends)


def own_stats(logits: Array, targets: Array, first: Array, end: Array) -> numerics.TokenStats:
    """`numerics.token_stats` over the classes [first, end) alone."""
    stats = numerics.token_stats(numerics.within(logits, first, end), targets)
    total = jnp.sum(numerics.within(logits, first, end, 0.0), axis=-1)
    return stats._replace(uniform_nll=stats.log_z - total / (end - first).astype(jnp.float32))
