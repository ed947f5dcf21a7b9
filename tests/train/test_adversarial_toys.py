"""The game on texts of two kinds: both are recovered from what the discriminator says alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.gan import GAN, GANConfig
from jaxlm.objectives import adversarial as losses
from jaxlm.train import optim
from jaxlm.train.steps import fakes
from jaxlm.train.steps.adversarial import Adversarial, Config

PLAIN = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0}
pytestmark = pytest.mark.usefixtures("quick_compiling")

MODES = np.array([[0, 1, 2, 1, 2, 1, 2, 1], [0, 3, 4, 3, 4, 3, 4, 3]])
TOY = GANConfig(
    vocab_size=5,
    vocab_multiple=1,
    num_layers=1,
    d_model=24,
    discriminator_width=16,
    num_filters=16,
    filter_widths=(2, 3),
)


def batch_of(rng):
    tokens = MODES[rng.integers(0, 2, 32)].astype(np.int32)
    weights = (np.arange(8) < 7).astype(np.float32)[None].repeat(32, 0)
    return {"tokens": tokens, "targets": np.roll(tokens, -1, 1), "weights": weights}


def played(step, num_steps):
    """Of the texts of the generator: the share of each kind before the game and at its end."""
    rng = np.random.default_rng(0)
    run = jax.jit(step.step, donate_argnums=0)
    write = jax.jit(
        lambda params: fakes.drawn(
            step.model, params, jnp.zeros(512, jnp.int32), 8, jax.random.key(99)
        )
    )

    def shares(params):
        texts = np.asarray(write(params))
        return [(texts == mode).all(1).mean() for mode in MODES]

    state = nn.unbox(jax.jit(step.init)(jax.random.key(0), batch_of(rng)))
    for number in range(num_steps):
        if number == step.begins[0]:
            before = shares(state.params)
        state, _ = run(state, batch_of(rng))
    return before, shares(state.ema)


def two_kinds(objective, num_steps, **config):
    """Of a game after so little likelihood that few texts are right."""
    sections = {
        name: optim.Config(learning_rate=rate, b1=0.5, b2=0.9, **PLAIN)
        for name, rate in (("generator", 3e-3), ("discriminator", 1e-2))
    }
    module = GAN(TOY)
    goal = losses.Adversarial(objective, module)
    how = Config(pretrain_fraction=0.15, discriminator_updates=2, ema_decay=0.98, **config)
    step = Adversarial(how, module, goal, None, None, 1, optim=sections, num_steps=num_steps)
    return played(step, num_steps)


TOYS = {
    "gumbel": (losses.Config(), {}),
    "policy": (losses.Config(generator="policy"), {"num_rollouts": 4}),
}


@pytest.mark.parametrize("name", TOYS)
def test_texts_of_two_kinds_are_learned_from_the_discriminator(name):
    """Both kinds are there, about as often, and hardly anything else; by the averaged weights, as the players go round each other."""
    objective, config = TOYS[name]
    before, after = two_kinds(objective, 400, **config)
    assert sum(before) < 0.5
    assert sum(after) > 0.85
    assert min(after) > 0.2
