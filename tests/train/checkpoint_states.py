"""States and checkpointers for the tests of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlm.core.types import TrainState
from jaxlm.train.checkpoint import Checkpointer, Config
from jaxlm.train.leaves import state_digest


def make_state(step: int, width: int = 16) -> TrainState:
    """A state that is a function of the step, with every kind of leaf that a run has."""
    rng = np.random.default_rng(step)
    params = {"blocks": {"q": {"kernel": jnp.asarray(rng.normal(size=(2, 8, width)), jnp.float32)}}}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        frozen={},
        vars={"carry": jnp.asarray(rng.normal(size=(3, 4)), jnp.bfloat16)},
        opt_state=optax.adam(1e-3).init(params),
        ema={},
        key=jax.random.key(step),
    )


def target_of(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)


TARGET = target_of(make_state(0))


class Opened:
    """A Checkpointer that is closed at the end of a test, with its log."""

    def __init__(self):
        self.all, self.lines = [], []

    def __call__(self, directory, **config):
        self.all.append(Checkpointer(directory, Config(**config), log=self.lines.append))
        return self.all[-1]


def assert_restores(found, step):
    state, extra, found_step = found
    assert found_step == step
    assert extra == {"of": step}
    assert state_digest(state) == state_digest(make_state(step))


def save(checkpointer, *steps, **kwargs):
    for step in steps:
        checkpointer.save(make_state(step), {"of": step}, step, blocking=True, **kwargs)
