"""Experts in training: losses of the routers, micro-batches, devices, optimizers, and what the log says."""

import dataclasses
import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxlm
from jaxlm import config as configs
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config
from jaxlm.objectives import causal_lm, seq2seq
from jaxlm.objectives.token_nll import Config as LossConfig
from jaxlm.train import optim, parallel, plan
from jaxlm.train.steps.gradient import Config, Gradient

ROWS, LENGTH, VOCABULARY = 8, 8, 24
SHAPE = {
    "vocab_size": VOCABULARY,
    "vocab_multiple": 8,
    "num_layers": 1,
    "d_model": 16,
    "num_heads": 2,
}
EXPERTS = {"num_experts": 4, "expert_d_ff": 24, "load_balance_loss": 0.5, "router_z_loss": 0.25}
CONFIG = GPTConfig(
    **SHAPE, **EXPERTS, max_len=LENGTH, mlp="swiglu", bias=False, num_shared_experts=1
)
QUICK = {"xla_backend_optimization_level": 0}  # compiling is all that these tests spend time on


def make_batch():
    rng = np.random.default_rng(0)
    shape = (ROWS, LENGTH)
    ends = rng.integers(1, LENGTH + 1, (ROWS, 1))
    return {
        "tokens": rng.integers(0, VOCABULARY, shape).astype(np.int32),
        "targets": rng.integers(0, VOCABULARY, shape).astype(np.int32),
        "weights": (rng.random(shape) < 0.7).astype(np.float32),
        "segment_ids": (np.arange(LENGTH)[None] < ends).astype(np.int32),
    }


BATCH = make_batch()


def make_step(config, num_micro_batches=1):
    model = GPT(config)
    objective = causal_lm.CausalLM(LossConfig(), model)
    return Gradient(Config(), model, objective, optax.sgd(1.0), None, num_micro_batches)


def drawn(step, batch):
    """A state with boxes that name axes, and one without, drawn without compiling anything."""
    boxed = jax.eval_shape(step.init, jax.random.key(0), batch)
    normal = np.random.default_rng(0).normal

    def draw(leaf):
        if leaf.dtype == jnp.float32:
            return 0.3 * normal(size=leaf.shape).astype(np.float32)
        return np.zeros(leaf.shape, leaf.dtype)

    return boxed, jax.tree.map(draw, nn.unbox(boxed))


@functools.cache
def first_state(config):
    return drawn(make_step(config), BATCH)


@functools.cache
def losses(config, num_micro_batches=1):
    """What the log of a step shows, and its gradient."""
    step = make_step(config, num_micro_batches)
    run = jax.jit(step.loss_and_gradients, compiler_options=QUICK)
    out, grads, value = run(first_state(config)[1], BATCH)
    report = {name: float(sums.total / sums.weight) for name, sums in out.report.items()}
    return report | {"loss_total": float(value)}, grads


def test_micro_batches_are_balanced_each_for_itself():
    """The loss is that of all targets, and the routers' terms are means over micro-batches by their weights."""
    whole, split = losses(CONFIG)[0], losses(CONFIG, 2)[0]
    for figures in (whole, split):
        added = 0.5 * figures["router/load_balance"] + 0.25 * figures["router/z"]
        np.testing.assert_allclose(figures["loss_total"], figures["loss"] + added, rtol=1e-6)
        assert figures["router/dropped"] == 0 and 1 <= figures["router/max_load"] <= 4
    np.testing.assert_allclose(split["loss"], whole["loss"], rtol=1e-6)
    params = first_state(CONFIG)[1].params

    @functools.partial(jax.jit, compiler_options=QUICK)
    def balance(tokens, segment_ids):
        output = GPT(CONFIG).apply({"params": params}, tokens, segment_ids)
        return output.aux["router/load_balance"][0]

    expected = 0.0
    for first in (0, 1):  # row r is in micro-batch r % 2
        half = {name: rows[first::2] for name, rows in BATCH.items()}
        share = half["weights"].sum() / BATCH["weights"].sum()
        expected += share * float(balance(half["tokens"], half["segment_ids"]))
    np.testing.assert_allclose(split["router/load_balance"], expected, rtol=1e-5)
    assert abs(expected - whole["router/load_balance"]) > 1e-4


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("change", "axes"),
    [
        ({}, {"data": 2, "expert": 4}),
        pytest.param({}, {"fsdp": 2, "expert": 2, "tensor": 2}, marks=SLOW),
        pytest.param({"capacity_factor": 1.0}, {"data": 4, "expert": 2}, marks=SLOW),
        pytest.param({"expert_backend": "ragged"}, {"fsdp": 4, "expert": 2}, marks=SLOW),
        pytest.param({"bias": True}, {"expert": 4, "tensor": 2}, marks=SLOW),
        pytest.param({"num_layers": 2, "scan_layers": True}, {"expert": 4, "fsdp": 2}, marks=SLOW),
    ],
)
def test_eight_devices_are_one(change, axes):
    config = dataclasses.replace(CONFIG, **change)
    boxed, state = first_state(config)
    alone, grads = losses(config)
    mesh = parallel.make_mesh(parallel.Config(**({"data": 1} | axes)))
    shardings = parallel.state_shardings(boxed, mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        step = make_step(config)
        run = jax.jit(
            step.loss_and_gradients,
            out_shardings=(None, shardings.params, None),
            compiler_options=QUICK,
        )
        placed = jax.device_put(state, shardings), parallel.placer(mesh)(BATCH)
        compiled = run.lower(*placed).compile()
        out, spread, value = compiled(*placed)
    np.testing.assert_allclose(value, alone["loss_total"], rtol=1e-5)
    for name, sums in out.report.items():
        np.testing.assert_allclose(sums.total / sums.weight, alone[name], rtol=1e-5, atol=1e-7)
    for left, right in zip(jax.tree.leaves(spread), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-6)
    kernel = "f32[{},16,24]"
    assert kernel.format(4 // axes["expert"]) in compiled.as_text() or "tensor" in axes
    assert kernel.format(4) not in compiled.as_text()  # no device ever holds all experts


@pytest.mark.slow
def test_rows_that_do_not_divide_are_on_every_device():
    """As when two texts are written by eight devices."""
    model, params = GPT(CONFIG), first_state(CONFIG)[1].params
    tokens = BATCH["tokens"][:3]
    expected = model.apply({"params": params}, tokens).hidden
    mesh = parallel.make_mesh(parallel.Config(data=2, expert=4))
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        found = jax.jit(lambda p, x: model.apply({"params": p}, x).hidden)(params, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_experts_are_split_evenly_or_refused():
    mesh = parallel.make_mesh(parallel.Config(data=-1, expert=8))
    with pytest.raises(ValueError, match="mesh.expert=8 does not divide model.num_experts=4"):
        parallel.check_model(CONFIG, mesh)
    with pytest.raises(ValueError, match="mesh.expert=8 needs a model with experts"):
        parallel.check_model(BERT(BERTConfig()).config, mesh)
    parallel.check_model(CONFIG, parallel.make_mesh(parallel.Config(expert=4)))
    parallel.check_model(None, parallel.make_mesh(parallel.Config()))


@pytest.mark.slow
def test_t5_has_experts_in_both_stacks():
    model = T5(T5Config(**SHAPE, num_experts=4, experts_per_token=1, d_ff=24))
    objective = seq2seq.Seq2Seq(LossConfig(), model)
    step = Gradient(Config(), model, objective, optax.sgd(1.0), None, 1)
    batch = BATCH | {"source": BATCH["tokens"][:, ::-1], "source_segment_ids": BATCH["segment_ids"]}
    _, state = drawn(step, batch)
    run = jax.jit(step.loss_and_gradients, compiler_options=QUICK)
    out, grads, _ = run(state, batch)
    assert float(out.report["router/dropped"].total) == 0
    for side in ("encoder", "decoder"):
        moe = grads[side]["block_0"]["moe"]
        assert float(jnp.abs(moe["experts"]["out"]["kernel"]).max()) > 0
        assert float(jnp.abs(moe["router"]["kernel"]).max()) > 0  # one choice teaches it too
    inputs = {name: batch[name] for name in ("tokens", "source")}
    shapes = jax.eval_shape(lambda p: model.apply({"params": p}, **inputs).aux, state.params)
    assert shapes["router/z"].shape == (2,)  # one layer of the encoder, one of the decoder


def test_every_second_block_has_experts_and_flops_are_of_those_that_a_token_meets():
    config = dataclasses.replace(CONFIG, num_layers=4, moe_every=2)
    model = GPT(config)
    make = functools.partial(model.init, jax.random.key(0))
    params = nn.unbox(jax.eval_shape(make, BATCH["tokens"]))["params"]
    kinds = ["moe" in params["stack"][f"block_{layer}"] for layer in range(4)]
    assert kinds == [False, True, False, True]
    aux = jax.eval_shape(lambda p: model.apply({"params": p}, BATCH["tokens"]).aux, params)
    assert {leaf.shape for leaf in aux.values()} == {(2,)}
    one_expert, dense, attention = 3 * 16 * 24, 3 * 16 * config.ff_width, 4 * 16 * 16
    norms, tables = 9 * 16, (VOCABULARY + LENGTH) * 16
    rest = 4 * attention + 2 * dense + 2 * (16 * 4 + one_expert) + norms + tables
    assert plan.num_params(params) == rest + 2 * 4 * one_expert
    assert config.active_size(params) == rest + 2 * 2 * one_expert
    flops, _ = plan.flops_per_token(model, params, (LENGTH,))
    met = rest + 2 * 2 * one_expert - LENGTH * 16
    assert flops == 6 * met + 12 * 4 * 16 * LENGTH


def test_the_plan_tells_what_the_experts_are():
    (line,) = plan.experts(GPT(CONFIG))
    assert line.startswith("experts    4, 2 and 1 shared a token, dropless | balanced within a")
    assert "blocked (auto: on a CPU" in line
    (line,) = plan.experts(GPT(dataclasses.replace(CONFIG, capacity_factor=1.25)))
    assert "at most 1.25 x an even share of a row" in line
    assert plan.experts(BERT(BERTConfig())) == [] and plan.experts(SimpleNamespace()) == []


def test_muon_orthogonalises_every_expert_by_itself():
    rng = np.random.default_rng(0)
    grads_EDF = rng.normal(size=(3, 8, 16)).astype(np.float32)
    joint = {"block_0": {"moe": {"experts": {"in": {"kernel": grads_EDF}}}}}
    alone = {f"mlp{e}": {"in": {"kernel": grads_EDF[e]}} for e in range(3)}
    config = optim.Config(kind="muon", weight_decay=0.0, clip_norm=0.0)

    def first_update(grads):
        tx, _ = optim.build(config, 10, grads)
        return jax.jit(lambda: tx.update(grads, tx.init(grads), grads)[0])()

    update = first_update(joint)["block_0"]["moe"]
    for e, one in enumerate(first_update(alone).values()):
        np.testing.assert_allclose(
            update["experts"]["in"]["kernel"][e], one["in"]["kernel"], rtol=1e-4, atol=1e-7
        )
    singular = np.linalg.svd(update["experts"]["in"]["kernel"], compute_uv=False)
    assert singular.max() / singular.min() < 2  # about one: Newton-Schulz stops near it
    scanned = {
        "experts": {"in": {"kernel": jnp.zeros((2, 3, 8, 16)), "bias": jnp.zeros((2, 3, 16))}},
        "router": {"kernel": jnp.zeros((2, 8, 3))},
    }
    assert optim.muon_labels({"blocks": scanned})["blocks"] == {
        "experts": {"in": {"kernel": "muon", "bias": "adam"}},
        "router": {"kernel": "muon"},
    }
    decayed = optim.decay_mask({"experts": {"in": {"kernel": grads_EDF, "bias": grads_EDF[0]}}})
    assert decayed["experts"]["in"] == {"kernel": True, "bias": False}


@pytest.mark.slow
def test_a_run_on_expert_devices_is_the_run_on_data_devices_and_loads_on_one(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{n} squared is {n * n}.\n" for n in range(400)))
    shape = SHAPE | EXPERTS | {"vocab_size": 0, "max_len": LENGTH, "capacity_factor": 1.0}

    def run(expert):
        cfg = configs.base()
        cfg.model = configs.section("model", "gpt", **shape)
        cfg.data = configs.section("data", "text", path=str(path), tokenizer="bytes")
        cfg.batch_size = cfg.micro_batch_size = ROWS
        cfg.num_steps, cfg.sample_tokens = 3, 4  # and a sample: rows that do not divide
        cfg.mesh.expert = expert
        summary = jaxlm.run(cfg, tmp_path / f"expert{expert}")
        return summary, jaxlm.load(tmp_path / f"expert{expert}").params

    split, whole = run(4), run(1)
    np.testing.assert_allclose(split[0]["val_loss"], whole[0]["val_loss"], rtol=1e-5)
    for left, right in zip(jax.tree.leaves(split[1]), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)
    log = (tmp_path / "expert4" / "log.txt").read_text()
    assert "expert=4" in log and "max load" in log and "experts    4, 2 a token" in log
