"""Learning by gradients of the rows that a batch reads: for tables of which a step touches few rows (vectors of words).

No gradient of a whole table is ever made: rows are read, their gradient is taken, and it is added to them in place. The loss of an
update is a sum over it, not a mean, so that learning rates are word2vec's and GloVe's own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core import metrics, partition, randomness, word_losses
from jaxlm.core.types import Array, Batch, LossContext, PyTree, Step, TrainState
from jaxlm.train.steps.gradient import fresh
from jaxlm.train.tuning.full import FULL

_PROBE = 1e6  # a gradient that clipping shortens, and a weight that decay would be noticed of


@dataclasses.dataclass(frozen=True)
class Config:
    """How rows are updated.

    Attributes:
      num_minibatches: updates a step, one after the other, each from as many of the batch's rows.
      adagrad: an entry's rate is divided by the root of 1 + the squares of its gradients so far (Duchi et al. 2011, as GloVe
        uses it), in place of plain SGD.
      on_nonfinite: what the loop does after a step without finite loss, "stop" or "skip"; either way no such update is made.
    """

    num_minibatches: int = 1
    adagrad: bool = False
    on_nonfinite: str = "stop"

    def __post_init__(self):
        if self.num_minibatches < 1:
            raise ValueError(f"step.num_minibatches={self.num_minibatches} must be at least 1")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f'step.on_nonfinite="{self.on_nonfinite}": accepted are stop, skip')

    @property
    def num_updates(self) -> int:
        """Of each step; schedules count them."""
        return self.num_minibatches


class Sparse:
    """Builds the step, for objectives with `reads` and `of_rows`; the rate is the `optim` section's, of plain SGD.

    A row that an update reads several times has the sum of its gradients, and for AdaGrad the sum of their squares, not the
    square of their sum. On several devices each makes the whole update.
    """

    Config = Config

    def __init__(
        self,
        config: Config,
        model: Any,
        objective: Any,
        tx: Any,
        schedule: Any,
        num_micro_batches: int,
        tuning: Any = FULL,
    ):
        """Raises ValueError for what can't be learned so; the message says what to change."""
        if not hasattr(objective, "of_rows"):
            raise ValueError(
                f'step.kind="sparse" is for objectives of tables (negative_sampling, glove), not {type(objective).__name__}'
            )
        if tuning.describe():
            raise ValueError('step.kind="sparse" trains everything: tuning.kind="full"')
        if num_micro_batches > 1:
            raise ValueError(
                'step.kind="sparse" cuts a batch by step.num_minibatches: set micro_batch_size to 0 or batch_size'
            )
        _need_plain_sgd(tx, schedule)
        self.config, self.model, self.objective, self.schedule = config, model, objective, schedule

    def build(self) -> Step:
        """The contract that the loop calls."""
        return Step(self.init, self.step, compiled=True)

    def init(self, key: Array, batch: Batch) -> TrainState:
        """A state with fresh tables; optimizer's are the sums of squares, where AdaGrad needs them."""
        params_key, root = jax.random.split(key)
        boxed = fresh(self.model, params_key, batch)
        squares = jax.tree.map(jnp.ones_like, nn.unbox(boxed)) if self.config.adagrad else {}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=boxed,
            frozen={},
            vars={},
            opt_state=squares,
            ema={},
            key=jax.random.key_data(root),
        )

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """All updates of a batch. Metrics: `loss_total`, every reported mean, `lr` (the last), `finite`."""
        count = self.config.num_minibatches
        rows = jax.tree.leaves(batch)[0].shape[0]
        if rows % count:
            raise ValueError(f"step.num_minibatches={count} must divide batch_size={rows}")
        parts = jax.tree.map(lambda x: x.reshape(count, rows // count, *x.shape[1:]), dict(batch))
        key = randomness.step_key(state.key, state.step)
        tables = partition.flatten(state.params)
        squares = partition.flatten(state.opt_state)

        def body(carry, part):
            index, micro_batch = part
            ctx = LossContext({}, {}, state.step, jax.random.fold_in(key, index), train=True)
            rate = self.schedule(state.step * count + index)
            carry, out, finite = self._update(*carry, micro_batch, ctx, rate)
            return carry, (out.sums, out.report, finite)

        (tables, squares), (sums, report, finite) = jax.lax.scan(
            body, (tables, squares), (jnp.arange(count, dtype=jnp.int32), parts)
        )
        sums, report = jax.tree.map(lambda x: x.sum(0), (sums, report))
        weights = self.objective.weights(batch)
        total = sum(
            coef * sums[term] / jnp.maximum(weights[term], 1e-30)
            for term, coef in self.objective.terms.items()
        )
        new_state = state.replace(
            step=state.step + 1,
            params=partition.nest(tables),
            opt_state=partition.nest(squares),
        )
        shown = {name: metrics.mean(values) for name, values in report.items()}
        rate = self.schedule(state.step * count + count - 1)
        return new_state, shown | {"loss_total": total, "lr": rate, "finite": finite.all()}

    def _update(
        self, tables: PyTree, squares: PyTree, batch: Batch, ctx: LossContext, rate: Array
    ) -> tuple[tuple[PyTree, PyTree], Any, Array]:
        """One update in place: the tables and sums of squares, what the objective found, and whether it was finite."""
        shapes = self.objective.reads(batch)
        ids = {path: values.reshape(-1) for path, values in shapes.items()}
        read = word_losses.read(tables, shapes)

        def loss(read):
            out = self.objective.of_rows(read, ctx, batch)
            return sum(coef * out.sums[term] for term, coef in self.objective.terms.items()), out

        (value, out), grads = jax.value_and_grad(loss, has_aux=True)(read)
        finite = jnp.isfinite(value)
        for grad in grads.values():
            finite &= jnp.isfinite(grad).all()
        tables, squares = dict(tables), dict(squares)
        for path, grad in grads.items():
            grad = jnp.where(finite, grad, 0.0).reshape(-1, *tables[path].shape[1:])
            if self.config.adagrad:
                squares[path] = squares[path].at[ids[path]].add(jnp.square(grad))
                grad = grad * jax.lax.rsqrt(squares[path][ids[path]])
            tables[path] = tables[path].at[ids[path]].add(-rate * grad)
        return (tables, squares), out, finite


def _need_plain_sgd(tx: Any, schedule: Any) -> None:
    """Raises ValueError where an optimizer makes of a gradient anything else than -rate times it, as a trial shows."""
    params = {"input": {"embedding": jnp.full((2, 2), _PROBE)}}
    grads = jax.tree.map(lambda x: jnp.full_like(x, _PROBE), params)
    wrong = False
    try:
        state = tx.init(params)
        for number in range(2):
            updates, state = tx.update(grads, state, params)
            expected = -schedule(number) * _PROBE
            wrong |= not bool(jnp.allclose(updates["input"]["embedding"], expected, rtol=1e-5))
    except (ValueError, TypeError, KeyError):
        wrong = True
    if wrong:
        raise ValueError(
            'step.kind="sparse" updates by plain SGD (AdaGrad: step.adagrad): optim.kind="sgd" with momentum=0, '
            "weight_decay=0, clip_norm=0, layer_decay=1"
        )
