"""Learning from what the model writes itself: completions of the batch's prompts, their rewards, and updates from them.

Writing is the project's decoder's and the update is the gradient step's; losses are in objectives/ (reinforcement, on_policy).
Everything drawn is a function of the run's root key, the step and the row, so that a killed run goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import registry
from jaxlm.core import randomness
from jaxlm.core.types import Array, Batch, Objective, PyTree, Step, Tokenizer, TrainState
from jaxlm.decode import prompted, timing
from jaxlm.decode.host import fetch
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.stopping import text_of
from jaxlm.decode.types import Written
from jaxlm.eval.rewards import REWARDS, exact_match
from jaxlm.train import parallel
from jaxlm.train.steps import gradient

ROW = {"tokens": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
"""What a row of the data has, and of a rollout."""


@dataclasses.dataclass(frozen=True)
class Config(gradient.Config):
    """What is written, how it is judged, and how often it is learned from. Also as of a gradient step.

    Attributes:
      num_completions: of each prompt; a rollout is batch_size times so many rows.
      max_tokens: of a completion; 0: as many as a row of the data has room for behind the prompt.
      temperature: that completions are drawn at, and at which their probabilities count.
      top_p: as in decode/sampling.py; probabilities are those before the cut.
      reward: the rule, a name of eval/rewards.py or "module:function"; "": none.
      num_epochs: how often a rollout is gone through.
      num_minibatches: updates an epoch, each from as many rows, in another order each time.
    """

    num_completions: int = 1
    max_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    reward: str = "exact_match"
    num_epochs: int = 1
    num_minibatches: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_completions", "num_epochs", "num_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"step.{name}={getattr(self, name)} must be at least 1")
        if self.max_tokens < 0:
            raise ValueError(f"step.max_tokens={self.max_tokens} must be 0 (all) or more")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"step.temperature={self.temperature} must be above 0: completions are drawn"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"step.top_p={self.top_p} must be above 0, at most 1 (off)")

    @property
    def num_updates(self) -> int:
        """Of the optimizer, in each step."""
        return self.num_epochs * self.num_minibatches


class Policy(gradient.Gradient):
    """Builds the step: host code, whose pieces are compiled.

    The batch is rows of prompt and answer as for a supervised start (decode/prompted.py): the answer is the reference that a rule
    is given, and what ends it ends a completion. `state.step` counts batches; schedule and averages count updates. An update
    without finite loss or gradient changes nothing.
    """

    Config = Config
    needs: ClassVar[tuple[str, ...]] = ("tokenizer", "mesh")

    def __init__(
        self,
        config: Config,
        model: Any,
        objective: Objective,
        tx: Any,
        schedule: Any,
        num_micro_batches: int,
        tuning: Any = gradient.FULL,
        *,
        tokenizer: Tokenizer,
        mesh: jax.sharding.Mesh,
    ):
        """Raises ValueError for what can't be learned so; the message says what to change."""
        super().__init__(config, model, objective, tx, schedule, num_micro_batches, tuning)
        if not hasattr(objective, "experience"):
            raise ValueError(
                f'step.kind="policy" is for objectives that learn from what the model writes (grpo, ppo, '
                f"on_policy_distillation), not {type(objective).__name__}"
            )
        if not config.reward and not objective.rewards_itself:
            raise ValueError("step.reward names no rule, and objective.reward_model no model")
        if tokenizer is None:
            raise ValueError('step.kind="policy" needs data of texts: data.kind="prompts"')
        configs = [getattr(part, "config", None) for part in (model, tuning)]
        if any(getattr(one, "dropout", 0.0) for one in configs):
            raise ValueError(
                'step.kind="policy" needs model.dropout=0 and tuning.dropout=0: between writing and learning a '
                "token's probability may change by updates alone"
            )
        self.reward = config.reward and registry.lookup(REWARDS, config.reward, "step.reward")
        self.tokenizer, self.mesh = tokenizer, mesh
        self.place = parallel.whole_placer(mesh)
        self._experience = jax.jit(self.experience)
        self._update: Any = None

    def build(self) -> Step:
        """The contract that the loop calls."""
        return Step(self.init, self.learn, compiled=False)

    def learn(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """Write, judge, update. Metrics: those of the updates, as means, and `rollout`'s."""
        rollout, shown = self.rollout(state, {name: fetch(rows) for name, rows in batch.items()})
        experience = self._experience(state, self.place(rollout))
        if self._update is None:  # the state stays where it is, so that this compiles once
            where = jax.tree.map(lambda leaf: leaf.sharding, state)
            self._update = jax.jit(self.update, donate_argnums=0, out_shardings=(where, None))
        rows = []
        for index in range(self.config.num_updates):
            state, row = self._update(state, experience, np.int32(index))
            rows.append(row)
        found = _mean(rows) if len(rows) > 1 else rows[0]
        if "rewards" in experience and self.objective.rewards_itself:
            shown |= _reward(fetch(experience["rewards"]))  # the reward model's with them
        return state, found | shown | {"lr": rows[-1]["lr"], "finite": found["finite"] == 1}

    def shapes(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """As `learn`, to be traced: of nothing but shapes.

        Raises:
          ValueError: a rollout that can't be cut as the config says, or parts that do not fit together.
        """
        if unread := sorted(set(batch) - {*ROW, "id"}):
            raise ValueError(
                f'data.kind gives {unread}, which step.kind="policy" does not read: it takes one prompt a row, as '
                'data.kind="prompts" has them'
            )
        rows, length = batch["tokens"].shape
        rows *= self.config.num_completions
        parts = self.config.num_minibatches * self.num_micro_batches
        shards = parallel.batch_shards(self.mesh)
        if rows % (parts * shards):
            raise ValueError(
                f"step.num_minibatches={self.config.num_minibatches} does not divide a rollout evenly: batch_size * "
                f"step.num_completions = {rows} rows, {self.num_micro_batches} micro-batches, {shards} devices"
            )
        rollout = {name: jnp.zeros((rows, length), kind) for name, kind in ROW.items()}
        rollout |= {name: jnp.ones(rows) for name in ("temperature", "rewards")}
        return self.update(state, self.experience(state, rollout), jnp.int32(0))

    def experience(self, state: TrainState, rollout: Batch) -> dict[str, Array]:
        """A rollout with what the objective adds before the first update; models read as many rows at once as an update does."""
        params = self.tuning.merge(state.params, state.frozen.get("base", {}))
        frozen = gradient.others(self.objective, state.frozen)
        count = self.config.num_minibatches * self.num_micro_batches
        # As an update's rows: every device keeps its own.
        parts = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), rollout
        )
        found = jax.lax.map(lambda part: self.objective.scores(params, frozen, part), parts)
        scores = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), found)
        return self.objective.experience(rollout | scores, self.config.num_completions)

    def update(
        self, state: TrainState, experience: Batch, index: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update, number `index` of this step: a gradient step on a minibatch."""
        count, parts = self.config.num_updates, self.config.num_minibatches
        rows = len(experience["tokens"])
        if parts > 1:
            key = randomness.named_key(randomness.step_key(state.key, state.step), "order")
            order = jax.random.permutation(jax.random.fold_in(key, index // parts), rows)
            size = rows // parts
            chosen = jax.lax.dynamic_slice_in_dim(order, index % parts * size, size)
            experience = {name: values[chosen] for name, values in experience.items()}
        # Counted in updates, so that schedule, average and keys go on from one to the next.
        updated, found = self.step(state.replace(step=state.step * count + index), experience)
        done = (index == count - 1).astype(jnp.int32)
        return updated.replace(step=state.step + done), found

    def rollout(
        self, state: TrainState, batch: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Rows that the model has written (rollouts.py), a prompt's completions one after the other; and what the log shows."""
        root, step = jnp.asarray(fetch(state.key)), int(fetch(state.step))
        key = randomness.named_key(randomness.step_key(root, step), "rollout")
        times = self.config.num_completions
        batch = {name: np.repeat(rows, times, axis=0) for name, rows in batch.items()}
        share = getattr(self.objective, "on_policy", 1.0)
        if share < 1 and float(jax.random.uniform(jax.random.fold_in(key, 1))) >= share:
            rewards = np.zeros(len(batch["tokens"]), np.float32)
            return self._rows(batch, rewards), {}
        begin = timing.now()
        length = batch["tokens"].shape[1]
        asked = prompted.prompts(batch["tokens"], batch["weights"])
        end_id = prompted.end_of(batch["targets"], batch["weights"])
        written = self._write(state, asked, length, end_id, key)
        seconds = timing.now() - begin
        rewards, shown = self._judged(batch, asked, written)
        num_tokens = sum(len(one.tokens) + (one.finish == "end") for one in written)
        shown |= {
            "completion_length": num_tokens / len(written),
            "ended": float(np.mean([one.finish == "end" for one in written])),
            "rollout_seconds": seconds,
            "written_per_second": num_tokens / seconds,
        }
        return self._rows(prompted.completed(asked, written, end_id, length), rewards), shown

    def _rows(self, rows: dict[str, np.ndarray], rewards: np.ndarray) -> dict[str, np.ndarray]:
        kept = {name: rows[name] for name in ROW}
        temperature = np.full(len(rewards), self.config.temperature, np.float32)
        return kept | {"temperature": temperature, "rewards": rewards}

    def _write(
        self, state: TrainState, asked: Sequence[list[int]], length: int, end_id: int, key: Array
    ) -> list[Written]:
        """A completion of each prompt; as many at once as a micro-batch's prompts have."""
        params = self.tuning.merge(state.params, state.frozen.get("base", {}))
        sampling = Sampling(temperature=self.config.temperature, top_p=self.config.top_p)
        seeds = np.asarray(jax.random.bits(key, (len(asked),), jnp.uint32)).tolist()
        size, written = len(asked) // self.num_micro_batches, []
        for start in range(0, len(asked), size):
            part = slice(start, start + size)
            request = prompted.request(
                asked[part],
                length,
                end_ids=(end_id,),
                seeds=seeds[part],
                max_tokens=self.config.max_tokens,
            )
            written += [best for (best,) in sampling.write(self.model, params, request)]
        return written

    def _judged(
        self, batch: dict[str, np.ndarray], asked: Sequence[list[int]], written: Sequence[Written]
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The rule's number for each completion, float32, and what the log shows.

        Raises:
          ValueError: it gave something else than a finite number.
        """
        right = prompted.answers(batch["targets"], batch["weights"])
        texts = [
            (
                self.tokenizer.decode(prompt),
                text_of(self.tokenizer, one.tokens, begins=False),
                self.tokenizer.decode(answer),
            )
            for prompt, one, answer in zip(asked, written, right, strict=True)
        ]
        shown = {"exact_match": float(np.mean([exact_match(*one) for one in texts]))}
        if not self.reward:
            return np.zeros(len(written), np.float32), shown
        rewards = np.array([self.reward(*one) for one in texts], np.float32)
        if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
            raise ValueError(
                f"step.reward={self.config.reward} must give a finite number for every text"
            )
        return rewards, shown | _reward(rewards)


def _reward(rewards: np.ndarray) -> dict[str, float]:
    """What the log shows of a rollout's."""
    return {"reward": float(rewards.mean()), "reward_std": float(rewards.std())}


@jax.jit
def _mean(rows: Sequence[PyTree]) -> PyTree:
    """Of each figure; 1 of `finite` where all are."""
    return jax.tree.map(lambda *values: jnp.mean(jnp.stack(values).astype(jnp.float32)), *rows)
