"""Learning as a game: a generator of texts and a discriminator, each with an optimizer of its own, behind a start by likelihood.

The Gumbel-softmax GAN (Kusner and Hernandez-Lobato 2016, arXiv:1611.04051) and SeqGAN (Yu et al. 2017, arXiv:1609.05473), by
objective.generator. A step is one compiled function of (state, batch): which phase it is in, what is written and what is dropped
are functions of the root key and the step's number. The players' losses are in game.py, the texts in fakes.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxlm.core import randomness
from jaxlm.core.types import Array, Batch, Objective, PyTree, Step, TrainState
from jaxlm.objectives import adversarial as losses
from jaxlm.train import optim as optimizers
from jaxlm.train.steps.game import Game
from jaxlm.train.steps.gradient import fresh
from jaxlm.train.tuning.full import FULL, Full

PLAYERS = ("generator", "discriminator")
ROUNDING = 1e-6  # 0.7 + 0.1 is less than 0.8
SHOWN = (
    "loss", "generator_loss", "discriminator_loss", "real_accuracy", "fake_accuracy", "reward", "distinct_1", "distinct_2",
    "grad_norm", "discriminator_grad_norm",
)  # fmt: skip
"""Figures of a step; nan in a phase that has none."""

Stepped = tuple[TrainState, dict[str, Array], Array]
"""A state, figures, and whether all was finite."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Who learns when, and how the generator's texts are written.

    Attributes:
      pretrain_fraction: of num_steps, in which first the generator learns the likelihood; 1: there is no game.
      discriminator_fraction: of num_steps, in which then only the discriminator learns, as SeqGAN has it.
      discriminator_updates: in each step from there on, before the generator's one: from the batch's texts and as many fakes, new
        ones each time.
      generator_rate: what the generator's learning rate is multiplied by in the game.
      temperature: of relaxed tokens as the game begins (objective.generator="gumbel").
      min_temperature: where it is in the game's last step; it falls geometrically.
      straight_through: relaxed tokens are one-hot, with the mixture's gradient; False, as in the paper: they are mixtures, which
        real texts never are.
      num_rollouts: of each beginning of a text (objective.generator="policy"), as in SeqGAN; 0: rewards are what the discriminator
        says of the text up to each position, or of a whole one at its end.
      rollout_every: tokens from one such beginning to the next; SeqGAN: 1.
      ema_decay: of an average of both players' parameters; 0: off.
      on_nonfinite: "stop" or "skip": what the loop does after a step without finite losses or gradients; it changes nothing.
    """

    pretrain_fraction: float = 0.8
    discriminator_fraction: float = 0.0
    discriminator_updates: int = 1
    generator_rate: float = 1.0
    temperature: float = 1.0
    min_temperature: float = 1.0
    straight_through: bool = True
    num_rollouts: int = 0
    rollout_every: int = 1
    ema_decay: float = 0.0
    on_nonfinite: str = "stop"

    def __post_init__(self):
        least = {"discriminator_updates": 1, "rollout_every": 1, "num_rollouts": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"step.{name}={getattr(self, name)} must be at least {bound}")
        for name in ("pretrain_fraction", "discriminator_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"step.{name}={getattr(self, name)} must be from 0 to 1")
        if self.pretrain_fraction + self.discriminator_fraction > 1 + ROUNDING:
            raise ValueError(
                f"step.pretrain_fraction={self.pretrain_fraction} and "
                f"step.discriminator_fraction={self.discriminator_fraction} are more than 1 together"
            )
        if not 0 <= self.generator_rate < math.inf:
            raise ValueError(f"step.generator_rate={self.generator_rate} must be 0 or more")
        if not 0 < self.min_temperature <= self.temperature < math.inf:
            raise ValueError(
                f"step.min_temperature={self.min_temperature} must be above 0, and at most "
                f"step.temperature={self.temperature}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"step.ema_decay={self.ema_decay} must be in [0, 1)")
        if self.on_nonfinite not in ("stop", "skip"):
            raise ValueError(f'step.on_nonfinite="{self.on_nonfinite}": accepted are stop, skip')

    def begins(self, num_steps: int) -> tuple[int, int]:
        """The steps that the discriminator and then the game begin at, of a run of `num_steps`; rounded down."""
        shares = self.pretrain_fraction, self.pretrain_fraction + self.discriminator_fraction
        first, game = (math.floor(share * num_steps + ROUNDING) for share in shares)
        return first, game

    def temperature_at(self, step: Array, num_steps: int) -> Array:
        """Of relaxed tokens, float32 []."""
        begin = self.begins(num_steps)[1]
        played = jnp.maximum(step - begin, 0).astype(jnp.float32)
        done = played / max(num_steps - 1 - begin, 1)
        return self.temperature * (self.min_temperature / self.temperature) ** done


class Adversarial:
    """Builds the step; `optim` has a section for each player, whose schedule counts that player's updates and ends with the run.

    `state.opt_state` has both optimizers' states by the player's name. A step without finite losses and gradients changes nothing.
    """

    Config = Config
    needs: ClassVar[tuple[str, ...]] = ("optim", "num_steps")

    def __init__(
        self,
        config: Config,
        model: Any,
        objective: Any,
        tx: Any,
        schedule: Any,
        num_micro_batches: int,
        tuning: Any = FULL,
        *,
        optim: Mapping[str, optimizers.Config] | optimizers.Config,
        num_steps: int,
    ):
        """Raises ValueError for what can't be learned so; the message says what to change."""
        del tx, schedule  # of all parameters together
        _check(config, objective, num_micro_batches, tuning, optim)
        self.config, self.model, self.optim = config, model, optim
        self.game, self.num_steps = Game(model, objective, config, num_steps), num_steps
        self.begins = first, game = config.begins(num_steps)
        self.num_updates = {
            "generator": num_steps - (game - first),
            "discriminator": config.discriminator_updates * (num_steps - first),
        }
        own, updates = optim["generator"], max(1, self.num_updates["generator"])
        self.schedule = optimizers.make_schedule(own, own.learning_rate, updates)

    def build(self) -> Step:
        """The contract that the loop calls."""
        return Step(self.init, self.step, compiled=True)

    def init(self, key: Array, batch: Batch) -> TrainState:
        """A state with fresh parameters of both players, from a batch's shapes alone."""
        params_key, root = jax.random.split(key)
        boxed = fresh(self.model, params_key, batch)
        params = nn.unbox(boxed)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=boxed,
            frozen={},
            vars={},
            # A player's name stays on the way to a leaf, so that it lies where its parameter does.
            opt_state={
                name: self._optimizer(name, params).init({name: params[name]}) for name in PLAYERS
            },
            ema=jax.tree.map(jnp.copy, params) if self.config.ema_decay else {},
            key=jax.random.key_data(root),
        )

    def _optimizer(self, player: str, params: PyTree) -> optax.GradientTransformation:
        count = max(1, self.num_updates[player])
        return optimizers.build(self.optim[player], count, {player: params[player]})[0]

    def _updated(self, state: TrainState, player: str, grads: PyTree, rate: float) -> TrainState:
        """With one player's update, its size times `rate`; the other's parameters and optimizer are as they were."""
        own = {player: state.params[player]}
        updates, opt_state = self._optimizer(player, state.params).update(
            {player: grads}, state.opt_state[player], own
        )
        own = optax.apply_updates(own, jax.tree.map(lambda x: rate * x, updates))
        return state.replace(
            params=state.params | own, opt_state=state.opt_state | {player: opt_state}
        )

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """A step of the phase that its number is in.

        Metrics: SHOWN's: `loss` of real text before the step (nats a token), both players' losses, the discriminator's accuracy on
        real texts and fakes before its last update, of its last fakes `distinct_n` and `reward`, the mean D; `grad_norm` is the
        generator's. And `lr`, the generator's, `temperature`, `finite`.
        """
        config, number = self.config, state.step
        phases = (self._likelihood_step, self._judging_step, self._game_step)
        phase = sum((number >= begin).astype(jnp.int32) for begin in self.begins)
        key = randomness.step_key(state.key, number)
        new, shown, finite = jax.lax.switch(phase, phases, state, batch, key)
        if config.ema_decay:
            decay = jnp.minimum(config.ema_decay, (1.0 + number) / (10.0 + number))
            new = new.replace(ema=optax.incremental_update(new.params, state.ema, 1 - decay))
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        first, game = self.begins
        updates = number - jnp.clip(number - first, 0, game - first)
        rate = jnp.where(phase == 2, config.generator_rate, 1.0)
        shown["lr"] = rate * self.schedule(updates)
        shown["temperature"] = config.temperature_at(number, self.num_steps)
        return new.replace(step=number + 1), shown | {"finite": finite}

    def _likelihood_step(self, state: TrainState, batch: Batch, key: Array) -> Stepped:
        """The generator learns real text."""
        gradient = jax.value_and_grad(self.game.likelihood, argnums=1, has_aux=True)
        generator = state.params["generator"]
        (value, loss), grads = gradient(state, generator, batch, key, train=True)
        new = self._updated(state, "generator", grads, 1.0)
        return _closed(new, {"loss": loss, "grad_norm": optax.tree.norm(grads)}, value)

    def _judging_step(self, state: TrainState, batch: Batch, key: Array) -> Stepped:
        """The discriminator learns."""
        _, loss = self.game.likelihood(state, state.params["generator"], batch, key, train=False)
        new, found = self._judged(state, batch, key)
        return _closed(new, found | {"loss": loss}, found["discriminator_loss"])

    def _game_step(self, state: TrainState, batch: Batch, key: Array) -> Stepped:
        """The discriminator learns, then the generator from what it now says."""
        _, loss = self.game.likelihood(state, state.params["generator"], batch, key, train=False)
        state, found = self._judged(state, batch, key)
        gradient = jax.value_and_grad(self.game.of_generator, argnums=1, has_aux=True)
        own_key = randomness.named_key(key, "generator")
        (value, own), grads = gradient(state, state.params["generator"], batch, own_key)
        new = self._updated(state, "generator", grads, self.config.generator_rate)
        found |= {"loss": loss, "generator_loss": own, "grad_norm": optax.tree.norm(grads)}
        return _closed(new, found, value + found["discriminator_loss"])

    def _judged(
        self, state: TrainState, batch: Batch, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """All of the discriminator's updates in a step; figures of the last one."""
        gradient = jax.value_and_grad(self.game.of_discriminator, argnums=1, has_aux=True)

        def update(state: TrainState, key: Array) -> tuple[TrainState, dict[str, Array]]:
            (value, found), grads = gradient(state, state.params["discriminator"], batch, key)
            norm = optax.tree.norm(grads)
            found |= {"discriminator_loss": value, "discriminator_grad_norm": norm}
            return self._updated(state, "discriminator", grads, 1.0), found

        keys = randomness.named_key(key, "discriminator")
        keys = jax.random.split(keys, self.config.discriminator_updates)
        state, found = jax.lax.scan(update, state, keys)
        return state, {name: values[-1] for name, values in found.items()}


def _closed(state: TrainState, found: dict[str, Array], value: Array) -> Stepped:
    """The state, all of SHOWN, and whether the loss and every gradient is finite."""
    norms = [norm for name, norm in found.items() if name.endswith("grad_norm")]
    finite = jnp.isfinite(jnp.stack([value, *norms])).all()
    return state, {name: jnp.float32(found.get(name, jnp.nan)) for name in SHOWN}, finite


def _check(
    config: Config, objective: Objective, num_micro_batches: int, tuning: Any, optim: Any
) -> None:
    """Raises ValueError for what can't be learned so."""
    if not isinstance(objective, losses.Adversarial):
        kind = getattr(objective, "kind", type(objective).__name__)
        raise ValueError(
            f'step.kind="adversarial" needs objective.kind="adversarial", not "{kind}"'
        )
    if num_micro_batches > 1:
        raise ValueError(
            f"micro_batch_size splits a batch into {num_micro_batches} parts, but one player's update comes before the "
            "other's: set micro_batch_size to batch_size"
        )
    if type(tuning) is not Full:
        raise ValueError('step.kind="adversarial" trains all of both players: tuning.kind="full"')
    if not isinstance(optim, Mapping) or set(optim) != set(PLAYERS):
        found = sorted(optim) if isinstance(optim, Mapping) else "one for all"
        raise ValueError(
            f"optim must have a section for each player, {' and '.join(PLAYERS)}, not {found}"
        )
    if config.num_rollouts and objective.config.generator != "policy":
        raise ValueError(
            f'step.num_rollouts={config.num_rollouts} is for objective.generator="policy", not '
            f'"{objective.config.generator}"'
        )
