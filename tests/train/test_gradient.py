"""The gradient step: one big batch, micro-batches and devices are one computation; it compiles once; it resumes."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.causal_lm import Config as LossConfig
from jaxlm.train import optim, parallel
from jaxlm.train.steps.gradient import Config, Gradient

MODEL = GPTConfig(
    vocab_size=40,
    num_layers=2,
    d_model=32,
    num_heads=4,
    max_len=16,
    positions="rotary",
    norm="rmsnorm",
)

LOSS = LossConfig(z_loss=1e-2)
# Compiling is what these tests spend their time on.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_batch(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    weights = (rng.random((rows, 16)) < np.linspace(0.1, 1.0, rows)[:, None]).astype(np.float32)
    tokens = rng.integers(0, 40, (rows, 17)).astype(np.int32)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def make_step(num_micro_batches=1, model=MODEL, loss=LOSS, optimizer=None, **config):
    module = GPT(model)
    objective = CausalLM(loss, module)
    optimizer = optimizer or optim.Config(kind="adamw", learning_rate=1e-2, warmup_steps=2)
    tx, schedule = optim.build(optimizer, 10, {})
    return Gradient(Config(**config), module, objective, tx, schedule, num_micro_batches)


def init(step, batch):
    return nn.unbox(quick(step.init)(jax.random.key(0), batch))


def assert_trees_close(left, right, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_micro_batches_agree_on_ragged_weights(count):
    batch = make_batch()
    state = init(make_step(), batch)
    out, grads, value = quick(make_step().loss_and_gradients)(state, batch)
    out_parts, grads_parts, value_parts = quick(make_step(count).loss_and_gradients)(state, batch)
    np.testing.assert_allclose(value, value_parts, rtol=1e-5)
    assert_trees_close(out.report, out_parts.report, rtol=1e-5)
    assert_trees_close(grads, grads_parts, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_mean_over_weighed_tokens():
    batch = make_batch()
    step = make_step(loss=LossConfig())
    state = init(step, batch)
    _, _, value = quick(step.loss_and_gradients)(state, batch)
    model = GPT(MODEL)
    nll = quick(lambda params: model.apply(params, batch["tokens"]).token_nll(batch["targets"]))(
        {"params": state.params}
    )
    np.testing.assert_allclose(
        value, (nll * batch["weights"]).sum() / batch["weights"].sum(), rtol=1e-5
    )


def mesh_case(kind):
    model = dataclasses.replace(MODEL, scan_layers=kind == "muon")
    optimizer = optim.Config(kind=kind, learning_rate=1e-2, warmup_steps=1)
    return make_step(2, model, optimizer=optimizer), [make_batch(16, seed) for seed in range(3)]


@functools.cache
def trained_on_one_device(kind):
    """The first state, the last parameters, the losses."""
    step, batches = mesh_case(kind)
    alone = state = init(step, batches[0])
    run, losses = quick(step.step), []
    for batch in batches:
        alone, metrics = run(alone, batch)
        losses.append(float(metrics["loss_total"]))
    return state, alone.params, losses


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("adamw", {"data": 8}),
        ("adamw", {"fsdp": 8}),
        ("adamw", {"data": 4, "tensor": 2}),
        ("adamw", {"data": 2, "fsdp": 2, "tensor": 2}),
        pytest.param("muon", {"data": 8}, marks=pytest.mark.slow),
        ("muon", {"fsdp": 8}),
        pytest.param("muon", {"data": 4, "tensor": 2}, marks=pytest.mark.slow),
        ("muon", {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
    ids=str,
)
def test_every_mesh_trains_as_one_device_does(kind, shape):
    step, batches = mesh_case(kind)
    state, params, losses = trained_on_one_device(kind)
    mesh = parallel.make_mesh(parallel.Config(**({"data": 1} | shape)))
    boxed = jax.eval_shape(step.init, jax.random.key(0), batches[0])
    shardings = parallel.state_shardings(boxed, mesh)
    spread = jax.device_put(state, shardings)
    place = parallel.placer(mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        compiled = quick(step.step, out_shardings=(shardings, None))
        spread_losses = []
        for batch in batches:
            spread, metrics = compiled(spread, place(batch))
            spread_losses.append(float(metrics["loss_total"]))
        assert compiled._cache_size() == 1
    np.testing.assert_allclose(spread_losses, losses, rtol=1e-5)
    assert_trees_close(jax.device_get(spread.params), jax.device_get(params), rtol=1e-3, atol=2e-4)


def test_fsdp_holds_an_eighth_on_each_device():
    step = make_step(optimizer=optim.Config(kind="adamw"))
    mesh = parallel.make_mesh(parallel.Config(data=1, fsdp=8))
    boxed = jax.eval_shape(step.init, jax.random.key(0), make_batch())
    shardings = parallel.state_shardings(boxed, mesh)
    state = jax.device_put(init(step, make_batch()), shardings)
    held = total = small = 0
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        total += leaf.nbytes
        held += leaf.addressable_shards[0].data.nbytes
        small += leaf.nbytes if leaf.ndim < 2 else 0
    assert small < 0.05 * total  # gains and biases
    assert held <= total / 8 + small
    assert state.opt_state[1][0].mu["embed"]["embedding"].sharding.spec == P("tensor", "fsdp")


def test_a_mesh_that_does_not_divide_an_axis_is_refused():
    model = dataclasses.replace(MODEL, d_model=36, num_heads=2, positions="learned")
    boxed = jax.eval_shape(make_step(model=model).init, jax.random.key(0), make_batch())
    with pytest.raises(ValueError, match=r"mesh.fsdp=8 does not divide 36, an axis of parameter"):
        parallel.state_shardings(boxed, parallel.make_mesh(parallel.Config(data=1, fsdp=8)))


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    batch = make_batch()
    step = make_step(ema_decay=0.75)
    state = init(step, batch)
    poisoned = state.replace(
        params=jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), state.params)
    )
    after, metrics = quick(step.step)(poisoned, batch)
    assert not bool(metrics["finite"])
    assert int(after.step) == 1
    assert_trees_close(after.opt_state, state.opt_state, rtol=0, atol=0)
    assert_trees_close(after.ema, state.ema, rtol=0, atol=0)
    after, metrics = quick(step.step)(state, batch)
    assert bool(metrics["finite"])


def test_ema_by_hand():
    batch = make_batch()
    step = make_step(ema_decay=0.75)
    state = init(step, batch)
    for number, decay in ((0, 0.1), (5, 0.4), (100, 0.75)):  # (1 + n) / (10 + n), then the decay
        start = state.replace(step=jnp.int32(number))
        after, _ = quick(step.step)(start, batch)
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, start.ema, after.params
        )
        assert_trees_close(after.ema, expected, rtol=1e-5, atol=1e-6)


def test_a_step_is_a_function_of_state_and_batch_also_with_dropout():
    batch = make_batch()
    step = make_step(2, dataclasses.replace(MODEL, dropout=0.3))
    state = init(step, batch)
    run = quick(step.step)
    first, again = run(state, batch)[0], run(state, batch)[0]
    jax.tree.map(np.testing.assert_array_equal, first, again)
    later = run(state.replace(step=state.step + 1), batch)[1]
    assert float(later["loss_total"]) != float(run(state, batch)[1]["loss_total"])


def test_a_coupled_objective_refuses_micro_batches():
    objective = CausalLM(LossConfig(), GPT(MODEL))
    objective.coupled = True
    with pytest.raises(ValueError, match="micro_batch_size"):
        Gradient(Config(), GPT(MODEL), objective, None, None, 2)


@pytest.mark.parametrize(
    ("config", "name"), [({"ema_decay": 1.0}, "ema_decay"), ({"on_nonfinite": "x"}, "on_nonfinite")]
)
def test_a_wrong_config_names_the_key(config, name):
    with pytest.raises(ValueError, match=f"step.{name}"):
        Config(**config)


@pytest.mark.parametrize("count", [1, 2])
def test_term_norms_are_those_of_each_term_alone(count):
    """Of the part of the gradient that a term adds, its coefficient included; the parts add up as vectors."""
    batch = make_batch()
    step = make_step(count, term_norms=True)
    state = init(step, batch)
    _, metrics = quick(step.step)(state, batch)
    _, whole, _ = quick(step.loss_and_gradients)(state, batch)
    alone = {
        "nll": quick(make_step(loss=LossConfig()).loss_and_gradients)(state, batch)[1],
        "z": quick(lambda *a: step.loss_and_gradients(*a, terms=("z",)))(state, batch)[1],
    }
    for term, grads in alone.items():
        np.testing.assert_allclose(metrics[f"grad_norm/{term}"], optax.tree.norm(grads), rtol=1e-4)
    assert_trees_close(whole, jax.tree.map(jnp.add, *alone.values()), rtol=1e-3, atol=1e-6)
