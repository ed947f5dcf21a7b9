"""ELBO <= importance-weighted bound <= log p, by exhaustive integration; what a latent is used for, by hand."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import moved

from jaxlm.core.types import TaskInfo
from jaxlm.eval import elbo
from jaxlm.eval.perplexity import Perplexity
from jaxlm.models.vae import VAE, VAEConfig


class Letters:
    name = "letters"

    def token_bytes(self):
        return np.full(5, 2)


INFO = TaskInfo(5, {}, Letters())
MODEL = VAE(
    VAEConfig(vocab_size=5, vocab_multiple=5, d_model=4, d_hidden=6, d_encoder=4, d_latent=1)
)
TOKENS, TARGETS = np.int32([[0, 1, 2, 3, 3]]), np.int32([[1, 2, 3, 3, 4]])
WEIGHTS = np.float32([[1, 1, 1, 1, 0]])
BATCH = {"tokens": TOKENS, "targets": TARGETS, "weights": WEIGHTS}
pytestmark = pytest.mark.usefixtures("quick_compiling")


@pytest.fixture(scope="module")
def params():
    """One whose text depends much on z."""
    made = nn.unbox(jax.jit(MODEL.init)(jax.random.key(1), TOKENS))["params"]
    return moved(made, jax.random.key(5), 0.9)


def predicting(params, evaluator):
    return jax.jit(lambda batch: evaluator.outputs(MODEL.apply({"params": params}, **batch), batch))


@jax.jit
def text_log_probs(params, latents_N1):
    """log p(text | z) for many z of the one text."""
    count = len(latents_N1)
    output = MODEL.apply({"params": params}, jnp.tile(TOKENS, (count, 1)), latent=latents_N1)
    return -jnp.sum(output.token_stats(jnp.tile(TARGETS, (count, 1))).nll * WEIGHTS, axis=1)


def test_bounds_by_exhaustive_integration(params):
    grid = np.linspace(-10, 10, 4001)
    logs = np.asarray(text_log_probs(params, jnp.float32(grid)[:, None]), np.float64)
    width = grid[1] - grid[0]
    prior = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    truth = math.log((prior * np.exp(logs)).sum() * width)
    output = MODEL.apply({"params": params}, **BATCH)
    mean, log_var = (float(output.aux[name][0, 0]) for name in ("mean_BZ", "log_var_BZ"))
    posterior = np.exp(-((grid - mean) ** 2) / (2 * math.exp(log_var)))
    posterior /= posterior.sum() * width
    exact = (posterior * logs).sum() * width - float(output.aux["kl_BZ"][0, 0])
    assert exact < truth - 0.02  # there is a gap to close

    count = 8000
    weights = np.asarray(
        jax.jit(lambda: elbo.log_weights(MODEL.apply({"params": params}, **BATCH), BATCH, count))()
    )[:, 0].astype(np.float64)
    error = weights.std() / math.sqrt(count)
    assert weights.mean() == pytest.approx(exact, abs=4 * error)  # K = 1 is the ELBO

    def bound(size):  # the same draws, in groups
        groups = weights.reshape(-1, size)
        return np.log(np.mean(np.exp(groups), axis=1)).mean()

    bounds = [bound(size) for size in (1, 4, 16, 80, count)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1]
    spread = np.exp(weights).std() / np.exp(weights).mean() / math.sqrt(count)
    assert bounds[-1] == pytest.approx(truth, abs=4 * spread)  # the mean weight is p(text)


def test_the_first_draw_is_the_one_that_perplexity_scores(params):
    output = MODEL.apply({"params": params}, **BATCH)
    first = elbo.log_weights(output, BATCH, 1)[0]
    latent, aux = output.aux["latent_BZ"], output.aux
    plain = jnp.sum(output.token_stats(TARGETS).nll * WEIGHTS, axis=1)
    ratio = 0.5 * (
        ((latent - aux["mean_BZ"]) ** 2) / jnp.exp(aux["log_var_BZ"])
        + aux["log_var_BZ"]
        - latent**2
    )
    np.testing.assert_allclose(first, ratio[:, 0] - plain, rtol=1e-4)


def test_perplexity_is_the_bound_and_says_so(params):
    evaluator = Perplexity(INFO, 5, "elbo")
    rows = {row.name: row for row in evaluator.run(predicting(params, evaluator), [BATCH]).rows}
    output = MODEL.apply({"params": params}, **BATCH)
    nats = float(jnp.sum(output.token_stats(TARGETS).nll * WEIGHTS) + output.aux["kl_BZ"].sum())
    assert rows["loss"].value == pytest.approx(nats / 4, rel=1e-5)
    assert rows["bits_per_byte"].value == pytest.approx(nats / math.log(2) / 8, rel=1e-5)
    assert rows["bits_per_byte"].signature == (
        "windows=5|stride=5|tokenizer=letters|bound=elbo|bytes=8"
    )
    assert "bound" not in Perplexity(INFO, 5, "causal_lm")._signature(BATCH)


def test_importance_weighted_bits_per_byte(params):
    class Few(elbo.ImportanceWeighted):
        num_samples = 3

    evaluator = Few(INFO, 5, "elbo")
    filled = {name: np.concatenate([values, 0 * values]) for name, values in BATCH.items()}
    rows = {row.name: row for row in evaluator.run(predicting(params, evaluator), [filled]).rows}
    logs = elbo.log_weights(MODEL.apply({"params": params}, **BATCH), BATCH, 3)[:, 0]
    bound = np.log(np.mean(np.exp(np.asarray(logs, np.float64))))
    assert rows["iw_loss"].value == pytest.approx(-bound / 4, rel=1e-5)
    assert rows["iw_bits_per_byte"].value == pytest.approx(-bound / math.log(2) / 8, rel=1e-5)
    assert "bound=iw,samples=3" in rows["iw_bits_per_byte"].signature


def test_what_the_latent_is_used_for_by_hand():
    def predict(batch):
        first = batch["id"][0]
        return {
            "kl": np.float32([1.0, 2.0, 7.0] if first == 0 else [3.0, 7.0, 7.0]),
            "mean": np.float32(
                [[0, 0, 1], [0.4, 0.1, 1], [9, 9, 9]] if first == 0 else [[0, 0.1, 1]] * 3
            ),
            "nll": np.float32([4.0, 6.0, 7.0] if first == 0 else [2.0, 7.0, 7.0]),
            "shuffled": np.float32([8.0, 7.0, 7.0] if first == 0 else [2.0, 7.0, 7.0]),
            "other": np.array([True, True, False] if first == 0 else [False] * 3),
        }

    def batch(first, texts):
        weights = np.zeros((3, 4), np.float32)
        weights[:texts] = 1
        return {
            "targets": np.zeros((3, 4), np.int32),
            "weights": weights,
            "id": first + np.arange(3),
        }

    scores = elbo.Latent(INFO, 4, "elbo").run(predict, [batch(0, 2), batch(2, 1)])
    found = {row.name: row.value for row in scores.rows}
    assert found == {
        "kl": pytest.approx(2.0),  # of three texts
        "active_units": 1,  # variances of 0.036, 0.0022 and 0
        "nll": pytest.approx(1.0),  # twelve tokens
        "shuffled_nll": pytest.approx(15 / 8),  # the last text has no other beside it
    }


def test_the_next_text_s_latent_is_never_that_of_filling(params):
    rows = np.random.default_rng(0).integers(0, 5, (4, 5)).astype(np.int32)
    weights = np.float32([[1] * 5, [1] * 5, [1] * 5, [0] * 5])
    batch = {"tokens": rows, "targets": np.roll(rows, 1, axis=0), "weights": weights}
    evaluator = elbo.Latent(INFO, 5, "elbo")
    found = predicting(params, evaluator)(batch)
    np.testing.assert_array_equal(found["other"][:3], [True] * 3)
    output = MODEL.apply({"params": params}, **batch)
    latent = output.aux["latent_BZ"][jnp.array([1, 2, 0, 0])]
    expected = jnp.sum(output.under(latent).token_stats(batch["targets"]).nll * weights, axis=1)
    np.testing.assert_allclose(found["shuffled"], expected, rtol=1e-5)
    alone = {name: values[:1] for name, values in batch.items()}
    assert not predicting(params, evaluator)(alone)["other"].any()


@pytest.mark.parametrize("kind", [elbo.Latent, elbo.ImportanceWeighted])
def test_other_objectives_have_no_latent(kind):
    with pytest.raises(ValueError, match='learned by objective.kind="elbo", not "causal_lm"'):
        kind(INFO, 5, "causal_lm")
