"""Next-token loss on a 2x3 case by hand, on ignored targets, and by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import PROBS, Bidirectional, Pair, Prefixed, Table

from jaxlm.core.types import LossContext
from jaxlm.objectives.causal_lm import CausalLM, Config

BATCH = {
    "tokens": jnp.array([[0, 1, 2], [2, 2, 0]]),
    "targets": jnp.array([[1, 1, 2], [0, 1, 2]]),
    "weights": jnp.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0]]),
}
NLL = -np.log([[0.25, 0.8, 0.6], [0.2, 0.2, 0.25]])


def call(config, batch=BATCH, shift=0.0):
    objective = CausalLM(config, Table())
    params = {"table": jnp.log(jnp.asarray(PROBS)) + shift}
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    return objective, objective(params, ctx, batch)


def test_sums_by_hand():
    objective, out = call(Config())
    expected = (NLL * np.asarray(BATCH["weights"])).sum()
    np.testing.assert_allclose(out.sums["nll"], expected, rtol=1e-6)
    assert float(objective.weights(BATCH)["nll"]) == 4.5
    np.testing.assert_allclose(
        out.report["loss"].total / out.report["loss"].weight, expected / 4.5, rtol=1e-6
    )


def test_label_smoothing_by_hand():
    _, out = call(Config(label_smoothing=0.3))
    uniform = -np.log(PROBS).mean(axis=1)[np.asarray(BATCH["tokens"])]
    weights = np.asarray(BATCH["weights"])
    np.testing.assert_allclose(
        out.sums["nll"], (weights * (0.7 * NLL + 0.3 * uniform)).sum(), rtol=1e-6
    )
    np.testing.assert_allclose(out.report["loss"].total, (weights * NLL).sum(), rtol=1e-6)


def test_label_smoothing_in_bits():
    """Of probabilities 1/2, 1/4, 1/4: 1, 2 and 2 bits, 5/3 on average. With 0.3 of it: 0.7 + 0.5 = 1.2, 1.4 + 0.5 = 1.9."""
    targets = jnp.array([[0, 1, 2], [1, 0, 0]])
    batch = BATCH | {"tokens": jnp.zeros((2, 3), jnp.int32), "targets": targets}
    _, out = call(Config(label_smoothing=0.3), batch)
    bits = 1.2 + 1.9 + 1.9 + 1.9 + 0.5 * 1.2
    np.testing.assert_allclose(out.sums["nll"], 0.693147 * bits, rtol=1e-5)
    np.testing.assert_allclose(out.report["loss"].total, 0.693147 * 7.5, rtol=1e-5)  # plain


def test_z_loss_by_hand():
    objective, out = call(Config(z_loss=1e-4), shift=2.0)  # log Z is 2 everywhere
    assert objective.terms == {"nll": 1.0, "z": 1e-4}
    np.testing.assert_allclose(out.sums["z"], 4.0 * 4.5, rtol=1e-5)
    np.testing.assert_allclose(
        out.sums["nll"], (NLL * np.asarray(BATCH["weights"])).sum(), rtol=1e-5
    )


def test_ignored_targets_change_nothing():
    other = BATCH | {"targets": BATCH["targets"].at[1, 2].set(0)}
    config = Config(label_smoothing=0.1, z_loss=1e-3)
    assert call(config)[1].sums == call(config, other)[1].sums


def test_gradient_against_finite_differences():
    objective = CausalLM(Config(label_smoothing=0.2, z_loss=0.01), Table())
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))

    def loss(table):
        out = objective({"table": table}, ctx, BATCH)
        return out.sums["nll"] + 0.01 * out.sums["z"]

    with jax.enable_x64(True):
        table = jnp.log(jnp.asarray(PROBS, jnp.float32)) + 0.5
        grads = jax.grad(loss)(table)
        for i in range(3):
            for j in range(3):
                step = 1e-2
                up, down = loss(table.at[i, j].add(step)), loss(table.at[i, j].add(-step))
                np.testing.assert_allclose(grads[i, j], (up - down) / (2 * step), atol=2e-3)


@pytest.mark.parametrize("config", [{"label_smoothing": 1.0}, {"z_loss": -1.0}])
def test_wrong_coefficients_are_named(config):
    with pytest.raises(ValueError, match=f"objective.{next(iter(config))}"):
        Config(**config)


@pytest.mark.parametrize("model", [Bidirectional, Pair])
def test_a_model_that_sees_its_targets_is_refused(model):
    with pytest.raises(ValueError, match='objective.kind="causal_lm" needs a model that is causal'):
        CausalLM(Config(), model())


def test_a_batch_with_prefixes_is_refused():
    objective = CausalLM(Config(), Prefixed())
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    params = {"table": jnp.log(jnp.asarray(PROBS))}
    with pytest.raises(ValueError, match="prefix_lm"):
        objective(params, ctx, BATCH | {"prefix_lengths": jnp.array([1, 2])})
