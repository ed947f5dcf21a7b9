"""Learning by expectation-maximisation: expected counts of several batches, then the parameters that they are likeliest under.

Baum et al. 1970, DOI 10.1214/aoms/1177697196; Dempster, Laird and Rubin 1977. What is counted, and what becomes of it, is the model's
(`expected_counts`, `maximized`); nothing here knows of states. There is no optimizer: `optim` must be left as it is.

Of the same batches in every pass (data.kind="stream_text", data.carry=False) the log-likelihood never falls, or with `smoothing`
that and the parameters' log-prior together. An update from fewer batches than all is one for these alone: it forgets the others,
unless `stepsize_power` has it remember them. That is stepwise EM, which learns from one reading of a text what takes many passes
otherwise, and of which no figure is sure to rise: Cappé and Moulines, On-line expectation-maximization algorithm for latent data
models, 2009, arXiv:0712.4273; Liang and Klein, Online EM for Unsupervised Models, NAACL 2009.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core import metrics
from jaxlm.core.types import Array, Batch, Objective, PyTree, Step, Sums, TrainState
from jaxlm.train.steps import closed_form
from jaxlm.train.steps.gradient import fresh
from jaxlm.train.tuning.full import FULL


@dataclasses.dataclass(frozen=True)
class Config:
    """When and from what the parameters are made anew.

    Attributes:
      batches_per_update: whose expected counts they are made of; 0: an epoch's, which the data must tell.
      smoothing: a pseudo-count that every expected count is raised by, so that nothing gets the probability 0: the mode under a
        Dirichlet prior of 1 + smoothing for each row of each table. 0: maximum likelihood.
      stepsize_power: a, above 0.5 and at most 1: update k = 1, 2, ... has a share of k^-a in the mean of an observation's
        expected counts, and the parameters are made of that mean, times the number of observations so far; 0: of the update's own
        counts alone. Deviation from Liang and Klein, whose shares are (k + 1)^-a: theirs begin with counts of nothing.
      on_nonfinite: "stop" or "skip": what the loop does after a batch whose counts are not finite; it changes nothing.
    """

    batches_per_update: int = 0
    smoothing: float = 0.01
    stepsize_power: float = 0.0
    on_nonfinite: str = "stop"

    def __post_init__(self):
        if self.batches_per_update < 0:
            raise ValueError(
                f"step.batches_per_update={self.batches_per_update} must be 0 (an epoch) or more"
            )
        if not 0 <= self.smoothing < math.inf:
            raise ValueError(f"step.smoothing={self.smoothing} must be 0 or more, and finite")
        if self.stepsize_power and not 0.5 < self.stepsize_power <= 1:
            raise ValueError(
                f"step.stepsize_power={self.stepsize_power} must be 0 (off), or above 0.5 and at most 1"
            )
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f'step.on_nonfinite="{self.on_nonfinite}": accepted are stop, skip')


class EM:
    """Builds the step; `num_micro_batches` must divide the batch.

    `state.vars`: the pass that is under way, as sums and what float32 lost of them, and figures of the last full one; of stepwise
    EM also the mean and how many observations it is of. A pass is what one update is made of.
    """

    Config = Config
    needs: ClassVar[tuple[str, ...]] = ("task", "optim", "num_steps")

    def __init__(
        self,
        config: Config,
        model: Any,
        objective: Objective,
        tx: Any,
        schedule: Any,
        num_micro_batches: int,
        tuning: Any = FULL,
        *,
        task: Any,
        optim: Any,
        num_steps: int,
    ):
        """Raises ValueError for what can't be learned so; the message says what to change."""
        del tx, schedule
        self.config, self.model, self.task = config, model, task
        self.num_micro_batches, self.num_steps = num_micro_batches, num_steps
        if not hasattr(model, "expected_counts"):
            raise ValueError(
                f'step.kind="em" is for models with expected counts (model.kind="hmm"), not {type(model).__name__}'
            )
        model.require_counts()
        closed_form.check("em", objective, tuning, optim)
        if not config.batches_per_update and not hasattr(task, "steps_per_epoch"):
            raise ValueError(
                "step.batches_per_update=0 is an epoch, and this data does not say how many batches one has: "
                'data.kind="stream_text" does; else give a number'
            )

    def build(self) -> Step:
        """The contract that the loop calls."""
        return Step(self.init, self.step, compiled=True)

    def init(self, key: Array, batch: Batch) -> TrainState:
        """A state with fresh parameters and nothing counted, from a batch's shapes alone."""
        params_key, root = jax.random.split(key)
        boxed = fresh(self.model, params_key, batch)
        counts, _ = jax.eval_shape(self.expected, nn.unbox(boxed), batch)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), counts)
        nothing = jnp.full((), jnp.nan, jnp.float32)
        so_far = {}
        if self.config.stepsize_power:
            so_far = {"mean": jax.tree.map(jnp.copy, zeros), "num_observed": jnp.zeros(())}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=boxed,
            frozen={},
            vars={
                "sums": zeros,
                "lost": jax.tree.map(jnp.copy, zeros),
                "log_likelihood": nothing,
                "log_posterior": jnp.copy(nothing),
                "num_updates": jnp.zeros((), jnp.int32),
                **so_far,
            },
            opt_state={},
            ema={},
            key=jax.random.key_data(root),
        )

    def expected(self, params: PyTree, batch: Batch) -> tuple[PyTree, Sums]:
        """The model's expected counts of a batch, and its loss."""
        count = self.num_micro_batches
        if count == 1:
            return self.model.expected_counts(params, batch)
        # Row r goes to micro-batch r % count, so that every device keeps its rows.
        parts = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), dict(batch)
        )
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(self.model.expected_counts, params, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(sums: PyTree, part: Batch):
            return metrics.merge(sums, self.model.expected_counts(params, part)), None

        return jax.lax.scan(body, zeros, parts)[0]

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """Count one batch; behind the last one of a pass, make the parameters anew.

        Metrics: `loss` of the batch's targets under the parameters so far, nats; of the last full pass, nan before there is
        one, `log_likelihood` and with the log-prior `log_posterior`, nats an observation; `num_updates`; `finite`.
        """
        if "continues" in batch:
            raise ValueError(
                'step.kind="em" reads every window by itself, and data.carry=True has rows go on: set data.carry=False'
            )
        counts, loss = self.expected(state.params, batch)
        finite = jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((counts, loss))])
        )
        before = {name: state.vars[name] for name in ("sums", "lost")}
        pairs = jax.tree.map(add, before["sums"], before["lost"], counts)
        is_pair = lambda x: isinstance(x, tuple)  # noqa: E731
        sums, lost = (
            jax.tree.map(lambda pair, i=i: pair[i], pairs, is_leaf=is_pair) for i in range(2)
        )
        due = (state.step + 1) % self.batches_per_update(batch) == 0
        counted = state.vars | {"sums": sums, "lost": lost}
        new = jax.lax.cond(due, self._updated, lambda *same: same, state.params, counted)
        params, variables = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), new, (state.params, state.vars)
        )
        shown = {name: variables[name] for name in ("log_likelihood", "log_posterior")}
        shown["num_updates"] = variables["num_updates"]
        state = state.replace(step=state.step + 1, params=params, vars=variables)
        return state, {"loss": metrics.mean(loss), **shown, "finite": finite}

    @staticmethod
    def flops_per_token(model: Any, params: PyTree, seq_len: int) -> tuple[float, str]:
        """As of a model's: of the expected counts, which is all that a step does for each token."""
        return model.counting_flops_per_token(params, seq_len)

    def batches_per_update(self, batch: Batch) -> int:
        """The config's, or those of an epoch.

        Raises:
          ValueError: an epoch is no whole number of batches, or the run no whole number of passes.
        """
        count, said = self.config.batches_per_update, ""
        if not count:
            rows, streams = len(batch["tokens"]), self.task.config.num_streams
            count, rest = divmod(self.task.steps_per_epoch * streams, rows)
            said = ", an epoch,"
            if rest:
                raise ValueError(
                    f"step.batches_per_update=0 is an epoch, and one of data.num_streams={streams} is no whole number of "
                    f"batches of batch_size={rows}: take data.num_streams=0"
                )
        if rest := self.num_steps % count:
            whole = self.num_steps - rest
            fitting = f"{whole} or {whole + count}" if whole else f"{count}, or more"
            raise ValueError(
                f"step.batches_per_update={self.config.batches_per_update}: parameters are made anew after each {count} "
                f"batches{said} and the last {rest} of num_steps={self.num_steps} would count for nothing: set num_steps to {fitting}"
            )
        return count

    def _updated(self, params: PyTree, variables: PyTree) -> tuple[PyTree, PyTree]:
        """The parameters of a full pass, and what is kept of it."""
        smoothing = self.config.smoothing
        total = metrics.merge(variables["sums"], variables["lost"])
        size = jnp.maximum(total["num_observations"], 1.0)
        log_posterior = total["log_likelihood"]
        if smoothing:
            log_posterior = log_posterior + self.model.log_prior(params, smoothing)
        zeros = jax.tree.map(jnp.zeros_like, variables["sums"])
        counts, so_far = self._remembered(total, variables)
        return self.model.maximized(params, counts, smoothing), so_far | {
            "sums": zeros,
            "lost": zeros,
            "log_likelihood": total["log_likelihood"] / size,
            "log_posterior": log_posterior / size,
            "num_updates": variables["num_updates"] + 1,
        }

    def _remembered(self, total: PyTree, variables: PyTree) -> tuple[PyTree, PyTree]:
        """A pass's counts; of stepwise EM, those that the mean over all passes so far stands for, and that mean."""
        if not self.config.stepsize_power:
            return total, {}
        size = total["num_observations"]
        share = (variables["num_updates"] + 1.0) ** -self.config.stepsize_power
        mean = jax.tree.map(
            lambda before, new: before + share * (new / jnp.maximum(size, 1.0) - before),
            variables["mean"],
            total,
        )
        num_observed = variables["num_observed"] + size
        counts = jax.tree.map(lambda one: one * num_observed, mean)
        return counts, {"mean": mean, "num_observed": num_observed}


def add(total: Array, lost: Array, more: Array) -> tuple[Array, Array]:
    """A sum, and what float32 has lost of it: a hundred million and one is a hundred million (Neumaier 1974)."""
    new = total + more
    kept_first = jnp.abs(total) >= jnp.abs(more)
    return new, lost + jnp.where(kept_first, (total - new) + more, (more - new) + total)
