"""The ELBO on a case by hand, its warm-up and free bits, by finite differences, and what it refuses."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import moved
from tables import Table

from jaxlm.core.types import LossContext
from jaxlm.models.vae import VAE, VAEConfig
from jaxlm.objectives import causal_lm, elbo

MODEL = VAE(
    VAEConfig(vocab_size=7, vocab_multiple=4, d_model=4, d_hidden=5, d_encoder=6, d_latent=3)
)
RNG = np.random.default_rng(0)
TOKENS, TARGETS = (RNG.integers(0, 7, (3, 5)).astype(np.int32) for _ in range(2))
WEIGHTS = np.float32([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
BATCH = {"tokens": TOKENS, "targets": TARGETS, "weights": WEIGHTS}
pytestmark = pytest.mark.usefixtures("quick_compiling")


@pytest.fixture(scope="module")
def params():
    made = nn.unbox(jax.jit(MODEL.init)(jax.random.key(1), TOKENS))["params"]
    return moved(made, jax.random.key(2), 0.3)


def loss_out(params, batch=BATCH, step=0, **config):
    objective = elbo.ELBO(elbo.Config(**config), MODEL)
    ctx = LossContext({}, {}, jnp.int32(step), jax.random.key(0))
    return objective(params, ctx, batch)


class Made(nn.Module):
    """A latent that is known: means of 1 and 0, variances of 1 and 4; every target has probability 1 / 2."""

    inputs = ("tokens",)
    optional_inputs = ("targets", "weights")
    direction = "latent"

    def __call__(self, tokens, targets, weights, *, train=False):
        rows = tokens.shape[0]
        mean = jnp.broadcast_to(jnp.array([[1.0, 0.0]]), (rows, 2))
        log_var = jnp.broadcast_to(jnp.log(jnp.array([[1.0, 4.0]])), (rows, 2))
        kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var)
        stats = type("Stats", (), {"nll": jnp.full(tokens.shape, np.log(2.0))})
        aux = {"mean_BZ": mean * jnp.arange(1.0, rows + 1)[:, None], "kl_BZ": kl}
        return type("Output", (), {"aux": aux, "token_stats": lambda self, targets: stats})()


WARMUP = {"kl_warmup_fraction": 0.5, "num_steps": 16}  # of 8 steps
KL = np.array([0.5, (4 - 1 - np.log(4)) / 2])  # 0.5 and 0.807 nats


@pytest.mark.parametrize(
    ("config", "step", "coefficient", "counted"),
    [
        ({}, 0, 1.0, KL.sum()),
        ({"beta": 0.2}, 0, 0.2, KL.sum()),
        ({"free_bits": 0.6}, 0, 1.0, 0.6 + KL[1]),  # the first dimension is free up to 0.6
        ({"free_bits": 2.0}, 0, 1.0, 4.0),
        (WARMUP | {"beta": 0.5}, 2, 0.5, KL.sum() / 4),
        (WARMUP, 9, 1.0, KL.sum()),
        (WARMUP | {"kl_schedule": "sigmoid"}, 4, 1.0, KL.sum() / 2),
        (WARMUP | {"kl_schedule": "sigmoid"}, 2, 1.0, KL.sum() / (1 + np.exp(3))),
    ],
)
def test_by_hand(config, step, coefficient, counted):
    objective = elbo.ELBO(elbo.Config(**config), Made())
    ctx = LossContext({}, {}, jnp.int32(step), jax.random.key(0))
    out = objective({}, ctx, BATCH)
    assert objective.terms == {"nll": 1.0, "kl": coefficient}
    np.testing.assert_allclose(out.sums["nll"], 7 * np.log(2), rtol=1e-6)  # seven scored tokens
    np.testing.assert_allclose(
        out.sums["kl"], 2 * counted, rtol=1e-6
    )  # of two texts; the third is filling
    weights = objective.weights(BATCH)
    assert {name: float(weight) for name, weight in weights.items()} == {"nll": 7.0, "kl": 7.0}
    mean = {name: float(sums.total / sums.weight) for name, sums in out.report.items()}
    assert mean["loss"] == pytest.approx(np.log(2) + 2 * KL.sum() / 7)  # all of it, always
    assert mean["nll"] == pytest.approx(np.log(2)) and mean["kl"] == pytest.approx(KL.sum())
    assert (
        mean["kl_weight"] == pytest.approx(coefficient * counted / KL.sum())
        or "free_bits" in config
    )
    assert mean["active_units"] == 1  # means 1 and 2 in one dimension, 0 and 0 in the other


def test_a_warm_up_is_a_share_of_a_run_however_long_it_is():
    found = [elbo.Config(kl_warmup_fraction=0.5, num_steps=n).warmth(jnp.int32(3)) for n in (8, 24)]
    np.testing.assert_allclose(found, [0.75, 0.25])
    with pytest.raises(ValueError, match="kl_warmup_fraction=0.5 is of objective.num_steps"):
        elbo.Config(kl_warmup_fraction=0.5).warmth(jnp.int32(3))


def test_active_units_leave_out_filling_rows():
    means = jnp.array([[0.0, 0.0], [0.3, 0.1], [9.0, 9.0]])  # variances 0.0225 and 0.0025
    assert float(elbo.active_units(means, jnp.array([1.0, 1.0, 0.0]))) == 1
    assert float(elbo.active_units(means, jnp.zeros(3))) == 0


def test_ignored_targets_and_filling_rows_change_nothing(params):
    changed = BATCH | {"targets": np.where(WEIGHTS > 0, TARGETS, (TARGETS + 1) % 7)}
    sums = jax.jit(lambda batch: loss_out(params, batch).sums)
    first, second = sums(BATCH), sums(changed)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-6)


def test_the_gradient_is_that_of_finite_differences(params):
    config = {"beta": 0.7, "free_bits": 0.05}

    @jax.jit
    def loss(params):
        out = loss_out(params, **config)
        return out.sums["nll"] + 0.7 * out.sums["kl"]

    def moved_by(size, way):
        return loss(jax.tree.map(lambda p, w: p + size * w, params, way))

    grads = jax.jit(jax.grad(loss))(params)
    for seed in range(3):
        way = moved(jax.tree.map(jnp.zeros_like, params), jax.random.key(seed), 1.0)
        slope = sum(map(jnp.vdot, jax.tree.leaves(grads), jax.tree.leaves(way)))
        found = float(moved_by(2e-3, way) - moved_by(-2e-3, way)) / 4e-3
        assert found == pytest.approx(float(slope), rel=1e-2, abs=5e-3)


def test_what_is_free_has_no_gradient(params):
    def counted(params):
        return loss_out(params, free_bits=100.0).sums["kl"]

    grads = jax.jit(jax.grad(counted))(params)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) == 0.0


def test_models_and_objectives_that_do_not_fit():
    with pytest.raises(ValueError, match="needs a model that is latent, and Table is causal"):
        elbo.ELBO(elbo.Config(), Table())
    with pytest.raises(ValueError, match="VAE is latent.*For this model: elbo"):
        causal_lm.CausalLM(causal_lm.Config(), MODEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": -1.0}, "objective.beta=-1.0 must be 0 or more"),
        ({"free_bits": -0.1}, "objective.free_bits=-0.1 must be 0 or more"),
        ({"kl_warmup_fraction": 600}, "objective.kl_warmup_fraction=600 must be from 0 to 1"),
        ({"kl_schedule": "cyclic"}, 'kl_schedule="cyclic": accepted are linear, sigmoid'),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(elbo.Config(), **change)
