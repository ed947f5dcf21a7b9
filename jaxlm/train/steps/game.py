"""What each player of step.kind="adversarial" learns from, as functions of the parameters: real texts, fakes, and what is made of both.

Which of them is updated when: adversarial.py. The formulas: objectives/adversarial.py.
Letters here: P judgements of a text, S beginnings of one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.core import metrics, randomness
from jaxlm.core.types import Array, Batch, LossContext, PyTree, TrainState
from jaxlm.objectives import adversarial as losses
from jaxlm.train.steps import fakes


@dataclasses.dataclass(frozen=True)
class Game:
    """A model with a `judge`, the objective, how texts are written (adversarial.Config), and the steps of the run."""

    model: Any
    objective: losses.Adversarial
    config: Any
    num_steps: int

    def likelihood(
        self, state: TrainState, generator: PyTree, batch: Batch, key: Array, *, train: bool
    ) -> tuple[Array, Array]:
        """The objective's terms of real text as one number, and its loss in nats a token."""
        params = state.params | {"generator": generator}
        out = self.objective(params, LossContext({}, {}, state.step, key, train), batch)
        weights = self.objective.weights(batch)
        value = sum(
            coefficient * out.sums[term] / jnp.maximum(weights[term], 1e-30)
            for term, coefficient in self.objective.terms.items()
        )
        return value, metrics.mean(out.report["loss"])

    def of_discriminator(
        self, state: TrainState, discriminator: PyTree, batch: Batch, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Its loss on the batch's texts and as many fakes, and figures of them."""
        texts_key, real_key, fake_key = jax.random.split(key, 3)
        texts = self.texts(state.params, state, batch, texts_key)
        params = state.params | {"discriminator": discriminator}
        real_BP = self.judge(params, batch["tokens"], real_key)
        fake_BP = self.judge(params, texts, fake_key)
        ids = texts if texts.ndim == 2 else jnp.argmax(texts, axis=-1)
        found = losses.accuracies(real_BP, fake_BP)
        found |= {f"distinct_{order}": fakes.distinct(ids, order) for order in (1, 2)}
        found["reward"] = jnp.mean(jax.nn.sigmoid(fake_BP))
        return losses.discriminator_loss(real_BP, fake_BP), found

    def of_generator(
        self, state: TrainState, generator: PyTree, batch: Batch, key: Array
    ) -> tuple[Array, Array]:
        """Its loss in the game with the likelihood's share, and without."""
        params = state.params | {"generator": generator}
        how = self.of_drawn if self.objective.config.generator == "policy" else self.of_relaxed
        value = own = how(params, state, batch, randomness.named_key(key, "fakes"))
        if coefficient := self.objective.config.likelihood:
            value += coefficient * self.likelihood(state, generator, batch, key, train=True)[0]
        return value, own

    def judge(self, params: PyTree, texts: Array, dropout: Array | None = None) -> Array:
        """Log-odds [B, P] that texts are real; with a key while the discriminator learns."""
        rngs = {} if dropout is None else {"dropout": dropout}
        return self.model.apply({"params": params}, texts, bool(rngs), rngs=rngs, method="judge")

    def texts(self, params: PyTree, state: TrainState, batch: Batch, key: Array) -> Array:
        """As many fakes as the batch has texts, each beginning with the same token as one: int32 [B, T], or float [B, T, V]."""
        first_B, length = batch["tokens"][:, 0], batch["tokens"].shape[1]
        if self.objective.config.generator == "policy":
            return fakes.drawn(self.model, params, first_B, length, key)
        temperature = self.config.temperature_at(state.step, self.num_steps)
        how = temperature, self.config.straight_through
        return fakes.relaxed(self.model, params, first_B, length, key, *how)

    def of_relaxed(self, params: PyTree, state: TrainState, batch: Batch, key: Array) -> Array:
        """A loss whose gradient flows through the discriminator and every token written."""
        return self.objective.of_fakes(self.judge(params, self.texts(params, state, batch, key)))

    def of_drawn(self, params: PyTree, state: TrainState, batch: Batch, key: Array) -> Array:
        """A loss whose gradient is REINFORCE's."""
        texts_key, rollouts_key = jax.random.split(key)
        texts = self.texts(state.params, state, batch, texts_key)
        advantages = self.objective.advantages(self.returns(state.params, texts, rollouts_key))
        output = self.model.apply({"params": params}, texts[:, :-1])
        return losses.policy_loss(-output.token_nll(texts[:, 1:]), advantages)

    def returns(self, params: PyTree, texts: Array, key: Array) -> Array:
        """What each written token is worth by the discriminator, float32 [B, T - 1].

        With rollouts the mean D of the texts that go on behind it (SeqGAN, eq. 4). Without, discounted sums of the D of what was
        written up to each position, or of the whole text at its end where the discriminator judges no parts of one.
        """
        (rows, length), config = texts.shape, self.config
        real_BP = jax.nn.sigmoid(self.judge(params, texts))
        if not config.num_rollouts:
            if real_BP.shape[1] == 1:
                real_BP = jnp.pad(real_BP, ((0, 0), (length - 1, 0)))
            return losses.returns(real_BP[:, 1:], self.objective.config.discount)
        known = fakes.beginnings(length, config.rollout_every)
        values_SB = real_BP[None, :, -1]

        def rolled(key: Array) -> Array:
            texts_SBT = fakes.rolled_out(self.model, params, texts, known, key)
            judged = self.judge(params, texts_SBT.reshape(-1, length))[:, -1]
            return jax.nn.sigmoid(judged).reshape(len(known), rows)

        if known:
            each_SB = jax.lax.map(rolled, jax.random.split(key, config.num_rollouts))
            values_SB = jnp.concatenate([each_SB.mean(0), values_SB])
        return fakes.spread(values_SB, known, length)
