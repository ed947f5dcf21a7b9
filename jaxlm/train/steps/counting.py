"""Learning by counting: a batch is read once, in its order, and the model's tables are made anew of all counts so far.

What is counted and what becomes of it is the model's (`counted`, `estimated`). Host code: counts have the sizes that the text gives them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, Batch, Objective, Step, TrainState
from jaxlm.decode.host import fetch
from jaxlm.train import parallel
from jaxlm.train.steps import closed_form
from jaxlm.train.steps.gradient import fresh
from jaxlm.train.tuning.full import FULL


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to choose: which counts, the model's config says."""


class Counting:
    """Builds the step.

    Batches are consecutive windows of one text (data.kind="stream_text", data.num_streams=1); each target is counted once.
    There is no optimizer: `optim` must be left as it is. Tables are float32 and copied to every device.
    """

    Config = Config
    needs: ClassVar[tuple[str, ...]] = ("mesh", "task", "optim", "num_steps")

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
        mesh: jax.sharding.Mesh,
        task: Any,
        optim: Any,
        num_steps: int,
    ):
        """Raises ValueError for what can't be learned so; the message says what to change."""
        self.config, self.model = config, model
        if not hasattr(model, "counted"):
            raise ValueError(
                f'step.kind="counting" is for models of counts (model.kind="ngram"), not {type(model).__name__}'
            )
        closed_form.check("counting", objective, tuning, optim)
        if getattr(getattr(task, "config", None), "num_streams", 0) != 1:
            raise ValueError(
                'step.kind="counting" reads one text in its order: data.kind="stream_text" with data.num_streams=1'
            )
        if jax.process_count() > 1:
            raise ValueError('step.kind="counting" runs in one process')
        self.num_windows, self.num_steps = task.steps_per_epoch, num_steps
        self.replicated = parallel.replicated(mesh)

    def build(self) -> Step:
        """The contract that the loop calls."""
        return Step(self.init, self.learn, compiled=False)

    def init(self, key: Array, batch: Batch) -> TrainState:
        """Nothing counted. Tables and counts are empty, and grow with what is read."""
        params_key, root = jax.random.split(key)
        params = nn.unbox(fresh(self.model, params_key, batch))
        tail = self.model.init_cache(params, 1, 0)[0]
        counts = jax.tree.map(jnp.asarray, self.model.counted(None))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            frozen={},
            vars={"counts": counts, "tail": tail},
            opt_state={},
            ema={},
            key=jax.random.key_data(root),
        )

    def shapes(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """To be traced: sizes are the text's, and there is nothing to compile.

        Raises:
          ValueError: the rows do not go on where others ended; or the run has more steps than the text, which counted twice
            would have no rare n-gram.
        """
        if "continues" not in batch:
            raise ValueError('step.kind="counting" needs data.carry=True: contexts reach back')
        rows = batch["tokens"].shape[0]
        if self.num_steps > (most := -(-self.num_windows // rows)):
            raise ValueError(
                f"num_steps={self.num_steps} steps of batch_size={rows} are more than the text has, which is counted once: "
                f"set num_steps to at most {most}"
            )
        return state, {}

    def learn(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """Count the batch. Metrics: what the model's estimate shows."""
        step = int(fetch(state.step))
        batch = {name: fetch(rows) for name, rows in batch.items()}
        ids, weights, tail = self._sequence(batch, fetch(state.vars["tail"]))
        counts = jax.tree.map(fetch, state.vars["counts"])
        counts = self.model.counted(counts, ids, weights)
        tables, shown = self.model.estimated(counts)
        params, variables = jax.device_put(
            (tables, {"counts": counts, "tail": tail}), self.replicated
        )
        next_step = jax.device_put(np.int32(step + 1), state.step.sharding)
        state = state.replace(step=next_step, params=params, vars=variables)
        return state, shown | {"counted": float(weights.sum()), "finite": True}

    def _sequence(
        self, batch: Batch, tail: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The words that are read, those before them first; which of them count; and the last ones, for the next batch.

        Rows of the next epoch, which begins anew, are left out.
        """
        continues = batch["continues"] > 0
        fresh_at = np.flatnonzero(~continues)
        first = int(len(fresh_at) > 0 and fresh_at[0] == 0)
        end = fresh_at[first] if len(fresh_at) > first else len(continues)
        used = batch["weights"][:end] > 0
        targets = batch["targets"][:end][used]
        before = batch["tokens"][:1, 0] if first else tail[tail >= 0]
        ids = np.concatenate([before, targets]).astype(np.int64)
        weights = np.arange(len(ids)) >= len(before)
        width = len(tail)
        last = ids[len(ids) - width :] if len(ids) >= width else ids
        return ids, weights, np.concatenate([np.full(width - len(last), -1), last]).astype(np.int32)
