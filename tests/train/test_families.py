"""The gradient step of encoders and encoder-decoders: micro-batches and devices are one computation, as for GPT."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from families import FAMILIES

from jaxlm.train import optim, parallel
from jaxlm.train.steps.gradient import Config, Gradient

QUICK = {"xla_backend_optimization_level": 0}  # compiling is all that these tests spend time on


def make_step(family, num_micro_batches=1):
    objective = family.objective(family.objective.Config(z_loss=1e-2), family.model)
    tx, schedule = optim.build(optim.Config(learning_rate=1e-2, warmup_steps=1), 10, {})
    return Gradient(Config(), family.model, objective, tx, schedule, num_micro_batches)


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("additive attention", "blank_infilling", "image_to_text", "multi_token")
]


@pytest.mark.parametrize("name", ["masked_lm", "classification", "seq2seq", *SLOW])
def test_micro_batches_agree_on_ragged_weights(name):
    family = FAMILIES[name]
    init = jax.jit(make_step(family).init, compiler_options=QUICK)
    state = nn.unbox(init(jax.random.key(0), family.batch))
    whole, *parts = (
        jax.jit(make_step(family, count).loss_and_gradients, compiler_options=QUICK)(
            state, family.batch
        )
        for count in (1, 2, 4)
    )
    for part in parts:
        np.testing.assert_allclose(part[2], whole[2], rtol=1e-5)
        for left, right in zip(
            jax.tree.leaves((part[0].report, part[1])),
            jax.tree.leaves((whole[0].report, whole[1])),
            strict=True,
        ):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked_lm", "seq2seq", *SLOW])
def test_eight_devices_train_as_one_does(name):
    family = FAMILIES[name]
    step = make_step(family, 2)
    boxed = jax.jit(step.init, compiler_options=QUICK)(jax.random.key(0), family.batch)
    state = nn.unbox(boxed)
    alone, metrics = jax.jit(step.step, compiler_options=QUICK)(state, family.batch)

    mesh = parallel.make_mesh(parallel.Config(data=2, fsdp=2, tensor=2))
    shardings = parallel.state_shardings(boxed, mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        compiled = jax.jit(step.step, out_shardings=(shardings, None), compiler_options=QUICK)
        placed = parallel.placer(mesh)(family.batch)
        spread, spread_metrics = compiled(jax.device_put(state, shardings), placed)
    np.testing.assert_allclose(spread_metrics["loss_total"], metrics["loss_total"], rtol=1e-5)
    np.testing.assert_allclose(spread_metrics["grad_norm"], metrics["grad_norm"], rtol=1e-4)
    for left, right in zip(
        jax.tree.leaves(jax.device_get(spread.opt_state)),
        jax.tree.leaves(jax.device_get(alone.opt_state)),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-6)
