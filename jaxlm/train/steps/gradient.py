"""Learning by gradients: one optimizer over one objective, exact under accumulation, padding and devices.

The loss of a step is sum_k coef_k S_k / W_k, with W_k of the whole global batch, so that micro-batches and
devices only add up sums. A step whose loss or gradient is not finite leaves parameters and optimizer alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlm.core import metrics, partition, randomness
from jaxlm.core.types import Array, Batch, LossContext, LossOut, Objective, PyTree, Step, TrainState
from jaxlm.train.tuning.full import FULL


@dataclasses.dataclass(frozen=True)
class Config:
    """What a gradient step does besides the optimizer's update."""

    ema_decay: float = 0.0  # of an exponential moving average of the parameters; 0: off
    on_nonfinite: str = (
        "stop"  # or "skip": what the loop does after a step without finite loss or gradient
    )
    term_norms: bool = (
        False  # report each term's own gradient, "grad_norm/TERM": a backward pass more for each
    )

    def __post_init__(self):
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"step.ema_decay={self.ema_decay} must be in [0, 1)")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f'step.on_nonfinite="{self.on_nonfinite}": accepted are stop, skip')


class Gradient:
    """Builds the step; `num_micro_batches` must divide the batch.

    What trains is `state.params`; the model is called with that and `state.frozen["base"]`, put together by `tuning`.
    """

    Config = Config

    def __init__(
        self,
        config: Config,
        model: Any,
        objective: Objective,
        tx,
        schedule,
        num_micro_batches: int,
        tuning: Any = FULL,
    ):
        if objective.coupled and num_micro_batches > 1:
            raise ValueError(
                f"micro_batch_size splits a batch into {num_micro_batches} parts, but the objective couples its "
                "rows: set micro_batch_size to batch_size"
            )
        self.config, self.model, self.objective = config, model, objective
        self.tx, self.schedule, self.num_micro_batches = tx, schedule, num_micro_batches
        self.tuning = tuning

    def build(self) -> Step:
        """The contract that the loop calls."""
        return Step(self.init, self.step, compiled=True)

    def init(self, key: Array, batch: Batch) -> TrainState:
        """A state with fresh parameters, from a batch's shapes alone."""
        params_key, root = jax.random.split(key)
        boxed, base = self.tuning.split(fresh(self.model, params_key, batch), params_key)
        params = nn.unbox(boxed)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=boxed,
            frozen={"base": base} if base else {},
            vars=carried_rows(self.model, params, batch),
            opt_state=self.tx.init(params),
            ema=jax.tree.map(jnp.copy, params) if self.config.ema_decay else {},
            key=jax.random.key_data(root),
        )

    def loss_and_gradients(
        self, state: TrainState, batch: Batch, terms: Iterable[str] | None = None
    ) -> tuple[LossOut, Any, Array]:
        """Sums over the whole batch, the gradient of sum_k coef_k S_k / W_k, and that loss; of all terms, or of some."""
        scales = self._scales(batch)
        terms = tuple(self.objective.terms if terms is None else terms)
        key = randomness.step_key(state.key, state.step)
        base = state.frozen.get("base", {})
        frozen = others(self.objective, state.frozen)

        def loss(params, micro_batch, index, variables):
            micro_key = jax.random.fold_in(key, index)
            ctx = LossContext(frozen, variables, state.step, micro_key, train=True)
            out = self.objective(self.tuning.merge(params, base, True), ctx, micro_batch)
            return sum(scales[term] * out.sums[term] for term in terms), out

        gradient = jax.value_and_grad(loss, has_aux=True)
        if self.num_micro_batches == 1:
            (value, out), grads = gradient(state.params, batch, jnp.int32(0), state.vars)
            return out, grads, value
        count = self.num_micro_batches
        # Row r goes to micro-batch r % count, so that every device keeps its rows.
        rows = {name: tree for name, tree in state.vars.items() if name == "rows"}
        shared = {name: tree for name, tree in state.vars.items() if name != "rows"}
        parts, rows = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1),
            (batch, rows),
        )

        def body(carry, part):
            value, grads, sums, report, shared = carry
            micro_batch, rows, index = part
            (more, out), more_grads = gradient(state.params, micro_batch, index, shared | rows)
            grads, sums, report = metrics.merge(
                (grads, sums, report), (more_grads, out.sums, out.report)
            )
            rows = {name: out.vars[name] for name in rows}
            shared = {name: out.vars[name] for name in shared}
            return (value + more, grads, sums, report, shared), rows

        first, first_rows = jax.tree.map(lambda x: x[0], (parts, rows))
        shapes = jax.eval_shape(gradient, state.params, first, jnp.int32(0), shared | first_rows)
        (value_shape, out_shape), grads_shape = shapes
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            (value_shape, grads_shape, out_shape.sums, out_shape.report),
        )
        carry, rows = jax.lax.scan(
            body, (*zeros, shared), (parts, rows, jnp.arange(count, dtype=jnp.int32))
        )
        value, grads, sums, report, shared = carry
        rows = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), rows)
        return LossOut(sums, report, shared | rows), grads, value

    def _scales(self, batch: Batch) -> dict[str, Array]:
        """coef_k / W_k, 0 where nothing is weighed."""
        weights = self.objective.weights(batch)
        return {
            term: jnp.where(weights[term] > 0, coef / jnp.maximum(weights[term], 1e-30), 0.0)
            for term, coef in self.objective.terms.items()
        }

    def _ema_decay(self, step: Array) -> Array:
        """The decay, smaller at first so that a short run's average has left its first weights behind.

        min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage with num_updates.
        """
        return jnp.minimum(self.config.ema_decay, (1.0 + step) / (10.0 + step))

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """One update. Metrics: `loss_total`, every reported mean, `grad_norm`, `lr`, `finite`; the config's `term_norms`."""
        out, grads, value = self.loss_and_gradients(state, batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

        updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if self.config.ema_decay:
            ema = optax.incremental_update(params, ema, 1 - self._ema_decay(state.step))
        # A select, element by element: it fuses into the update, where a conditional would copy.
        params, opt_state, ema, variables = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state, ema, out.vars),
            (state.params, state.opt_state, state.ema, state.vars),
        )
        new_state = state.replace(
            step=state.step + 1, params=params, opt_state=opt_state, ema=ema, vars=variables
        )
        report = {name: metrics.mean(sums) for name, sums in out.report.items()}
        shown = {"loss_total": value, "grad_norm": grad_norm, "lr": self.schedule(state.step)}
        if self.config.term_norms:
            shown |= self._term_norms(state, batch)
        return new_state, report | shown | {"finite": finite}

    def _term_norms(self, state: TrainState, batch: Batch) -> dict[str, Array]:
        """The norm of each term's own part of the gradient, coefficient included: they add up as vectors, not as norms."""
        return {
            f"grad_norm/{term}": optax.tree.norm(self.loss_and_gradients(state, batch, (term,))[1])
            for term in self.objective.terms
        }


def fresh(model: Any, key: Array, batch: Batch) -> PyTree:
    """Drawn parameters, whose boxes name their logical axes; of the batch only shapes and types are read.

    They depend on no lengths: of ids one a row is enough, as several texts in a row may need more than there are positions.
    """
    shapes = {name: batch[name].shape[1:] for name in model.inputs}
    inputs = {
        name: jnp.zeros((1, *(shape if len(shape) > 1 else (1,))), batch[name].dtype)
        for name, shape in shapes.items()
    }
    return model.init(key, **inputs)["params"]


def carried_rows(model: Any, params: PyTree, batch: Batch) -> PyTree:
    """Of data whose rows go on where those before ended: the state that every row begins with, split as the batch is."""
    if "continues" not in batch:
        return {}
    carry = model.init_cache(params, batch["continues"].shape[0], 0)
    boxed = jax.tree.map(
        lambda x: nn.LogicallyPartitioned(x, ("batch", *(None,) * (x.ndim - 1))), carry
    )
    return {"rows": {"carry": boxed}}


def others(objective: Objective, frozen: PyTree) -> dict[str, PyTree]:
    """The weights of the models that an objective reads besides the one that trains, by name.

    Of one that is the run's own as it began, those that do not train stand in "base" alone.
    """
    own = [name for name in getattr(objective, "own", ()) if not getattr(objective.config, name)]
    return {
        name: partition.join(frozen[name], frozen.get("base", {})) if name in own else frozen[name]
        for name in getattr(objective, "others", ())
    }
