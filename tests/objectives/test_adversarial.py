"""The losses of both players by hand; gradients by finite differences; what is accepted."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.types import LossContext
from jaxlm.models.gan import GAN, GANConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.objectives import adversarial as losses
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.causal_lm import Config as LikelihoodConfig

pytestmark = pytest.mark.usefixtures("quick_compiling")
L3, L4, L2 = np.log([3.0, 4.0, 2.0])
# Log-odds of 0 and +-log 3 are probabilities of 1/2, 3/4 and 1/4.
REAL = jnp.array([[0.0, L3, -L3], [L3, 0.0, L3]])
FAKE = jnp.array([[L3, 0.0, 0.0], [-L3, -L3, 0.0]])
QUARTERS3 = L4 - L3  # -log 3/4


def test_the_discriminators_loss_by_hand():
    real = (L2 + QUARTERS3 + L4 + QUARTERS3 + L2 + QUARTERS3) / 6
    fake = (L4 + L2 + L2 + QUARTERS3 + QUARTERS3 + L2) / 6
    np.testing.assert_allclose(losses.discriminator_loss(REAL, FAKE), real + fake, rtol=1e-6)
    # A discriminator that can't tell: 2 log 2, whatever the numbers of texts.
    zeros = jnp.zeros((2, 3)), jnp.zeros((5, 1))
    np.testing.assert_allclose(losses.discriminator_loss(*zeros), 2 * L2, rtol=1e-6)


def test_the_generators_losses_by_hand():
    non_saturating = (QUARTERS3 + L2 + L2 + L4 + L4 + L2) / 6
    minimax = -(L4 + L2 + L2 + QUARTERS3 + QUARTERS3 + L2) / 6
    found = losses.generator_loss(FAKE, "non_saturating")
    np.testing.assert_allclose(found, non_saturating, rtol=1e-6)
    np.testing.assert_allclose(losses.generator_loss(FAKE, "minimax"), minimax, rtol=1e-6)
    # Both rise with D's odds of being real, and where D is sure of a fake only one still has a slope.
    slopes = [
        float(jax.grad(lambda x, kind=kind: losses.generator_loss(x, kind).sum())(jnp.array([[-9.0]]))[0, 0])
        for kind in losses.LOSSES
    ]  # fmt: skip
    np.testing.assert_allclose(slopes, [-1 / (1 + np.exp(-9)), -1 / (1 + np.exp(9))], rtol=1e-4)


def test_accuracies_by_hand():
    found = losses.accuracies(REAL, FAKE)
    np.testing.assert_allclose(found["real_accuracy"], 3 / 6)
    np.testing.assert_allclose(found["fake_accuracy"], 2 / 6)


def test_returns_and_baseline_by_hand():
    rewards = jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(losses.returns(rewards, 0.5), [[2.75, 3.5, 3], [0.5, 1, 0]])
    np.testing.assert_allclose(losses.returns(rewards, 0.0), rewards)
    np.testing.assert_allclose(losses.mean_of_others(rewards), rewards[::-1])
    three = jnp.array([[0.0], [3.0], [6.0]])
    np.testing.assert_allclose(losses.mean_of_others(three), [[4.5], [3], [1.5]])
    with pytest.raises(ValueError, match="batch_size=1"):
        losses.mean_of_others(rewards[:1])


def test_the_policys_loss_by_hand():
    log_probs = jnp.array([[-1.0, -2.0, -3.0], [0.0, -1.0, -1.0]])
    advantages = jnp.array([[1.0, 0.0, -1.0], [5.0, 2.0, 1.0]])
    np.testing.assert_allclose(losses.policy_loss(log_probs, advantages), -(-1 + 3 - 2 - 1) / 6)
    # The advantages are numbers: what they are made of has no gradient through them.
    slopes = jax.grad(losses.policy_loss, argnums=(0, 1))(log_probs, advantages)
    np.testing.assert_allclose(slopes[0], -advantages / 6, rtol=1e-6)
    np.testing.assert_array_equal(slopes[1], 0)


def test_the_discriminators_gradient_by_finite_differences():
    """In every log-odds: steps of a hundredth, as float32 tells no smaller ones of a loss of 1.7."""

    def value(moved):
        return losses.discriminator_loss(REAL + moved[0], FAKE + moved[1])

    steps = 1e-2 * np.eye(12, dtype=np.float32).reshape(12, 2, 2, 3)
    numeric = [(value(step) - value(-step)) / 2e-2 for step in steps]
    slopes = jax.grad(value)(jnp.zeros((2, 2, 3))).reshape(-1)
    np.testing.assert_allclose(slopes, numeric, atol=5e-5)
    assert np.abs(slopes).min() > 0.02


@functools.cache
def case():
    model = GAN(GANConfig(vocab_size=5, vocab_multiple=1, num_layers=1, d_model=6, num_filters=2))
    tokens = jax.random.randint(jax.random.key(3), (2, 4), 0, 5)
    weights = jnp.array([[1.0, 1, 1], [1, 0, 1]])
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), tokens))["params"]
    params["generator"]["embed"]["embedding"] *= 3
    return model, params, batch


def test_called_it_is_the_likelihood_as_of_any_language_model():
    model, params, batch = case()
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    objective = losses.Adversarial(losses.Config(), model)
    found = objective(params, ctx, batch)
    other = CausalLM(LikelihoodConfig(), model)(params, ctx, batch)
    np.testing.assert_array_equal(found.sums["nll"], other.sums["nll"])
    log_probs = jax.nn.log_softmax(model.apply({"params": params}, batch["tokens"]).logits())
    picked = np.take_along_axis(np.asarray(log_probs), np.asarray(batch["targets"])[..., None], -1)
    expected = -(picked[..., 0] * batch["weights"]).sum()
    np.testing.assert_allclose(found.sums["nll"], expected, rtol=1e-5)
    np.testing.assert_allclose(objective.weights(batch)["nll"], 5)
    ignored = batch | {"targets": batch["targets"].at[1, 1].set(4 - batch["targets"][1, 1])}
    np.testing.assert_array_equal(objective(params, ctx, ignored).sums["nll"], found.sums["nll"])


def test_the_likelihoods_gradient_by_finite_differences_and_none_for_the_discriminator():
    model, params, batch = case()
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    objective = losses.Adversarial(losses.Config(), model)
    value = jax.jit(lambda params: objective(params, ctx, batch).sums["nll"])
    grads = jax.jit(jax.grad(value))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["discriminator"]))
    moved = functools.partial(jax.tree.map, lambda x, g, by: x + by * g)
    norm = sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(grads))

    def along(by):
        return float(value(moved(params, grads, jax.tree.map(lambda _: by, params))))

    step = 1e-3
    np.testing.assert_allclose(norm, (along(step) - along(-step)) / (2 * step), rtol=1e-2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"generator": "gumble"}, 'objective.generator="gumble": accepted are gumbel, policy'),
        ({"generator_loss": "w"}, 'objective.generator_loss="w"'),
        ({"baseline": "mean"}, 'objective.baseline="mean": accepted are others, none'),
        ({"discount": 1.5}, "objective.discount=1.5"),
        ({"likelihood": -1.0}, "objective.likelihood=-1.0"),
    ],
)
def test_a_wrong_config_names_the_key(fields, said):
    with pytest.raises(ValueError, match=said):
        losses.Config(**fields)


def test_a_model_without_a_discriminator_is_refused():
    with pytest.raises(ValueError, match='needs a model with a discriminator .*"gan".*not GPT'):
        losses.Adversarial(losses.Config(), GPT(GPTConfig(vocab_size=8)))
