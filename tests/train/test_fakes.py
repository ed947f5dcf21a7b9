"""Texts written inside a step, and the policy gradient that is made of them against exact sums over all texts."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.gan import GAN, GANConfig
from jaxlm.objectives import adversarial as losses
from jaxlm.train.steps import fakes
from jaxlm.train.steps.adversarial import Config
from jaxlm.train.steps.game import Game

TINY = GANConfig(
    vocab_size=2,
    vocab_multiple=1,
    num_layers=1,
    d_model=5,
    discriminator_width=4,
    num_filters=4,
    filter_widths=(1, 2),
)
TEXTS = jnp.array([(0, *rest) for rest in itertools.product((0, 1), repeat=2)], jnp.int32)
"""All texts of two letters behind a first one."""
pytestmark = pytest.mark.usefixtures("quick_compiling")


@functools.cache
def build(config=TINY):
    model = GAN(config)
    first = jnp.zeros((1, 1), jnp.int32)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), first))["params"]
    # Fresh players are undecided: larger weights make some texts likelier than others, and more or less real.
    last = params["discriminator"]["out"]
    last["kernel"] *= 10
    last["bias"] -= judged(model, params).mean()
    generator = jax.tree.map(lambda x: 3 * x + 0.1, params["generator"])
    generator["embed"]["embedding"] = 60 * params["generator"]["embed"]["embedding"]
    return model, params | {"generator": generator}


@functools.partial(jax.jit, static_argnums=0)
def judged(model, params):
    """Log-odds of TEXTS, [4, P]."""
    return model.apply({"params": params}, TEXTS, method="judge")


def log_probs(model, params, texts):
    """Of each written token, [B, T - 1]."""
    return -model.apply({"params": params}, texts[:, :-1]).token_nll(texts[:, 1:])


@functools.partial(jax.jit, static_argnums=0)
def probabilities(model, params):
    return jnp.exp(log_probs(model, params, TEXTS).sum(1))


def number(texts):
    return np.asarray(texts[:, 1] * 2 + texts[:, 2])


def assert_drawn_from(expected, texts):
    count = len(texts)
    found = np.bincount(number(texts), minlength=4) / count
    assert (np.abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / count)).all()


def test_drawn_texts_have_the_models_probabilities(key):
    model, params = build()
    expected = np.asarray(probabilities(model, params))
    np.testing.assert_allclose(expected.sum(), 1, rtol=1e-5)
    assert expected.max() < 0.9 and expected.min() > 0.01
    draw = jax.jit(lambda key: fakes.drawn(model, params, jnp.zeros(4000, jnp.int32), 3, key))
    texts = draw(key)
    assert texts.shape == (4000, 3) and texts.dtype == jnp.int32
    assert not np.any(texts[:, 0])
    assert_drawn_from(expected, texts)
    assert np.any(texts != draw(jax.random.key(9)))
    np.testing.assert_array_equal(texts, draw(key))


@pytest.mark.parametrize("straight_through", [False, True])
def test_the_argmax_of_relaxed_texts_is_a_draw(key, straight_through):
    """Exactly so where what is read next is one-hot; a mixture that is read is another text than any, in between."""
    model, params = build()
    write = jax.jit(
        lambda temperature: fakes.relaxed(
            model, params, jnp.zeros(4000, jnp.int32), 3, key, temperature, straight_through
        )
    )
    mixtures = write(jnp.float32(1.0 if straight_through else 0.01))
    assert mixtures.shape == (4000, 3, 2)
    np.testing.assert_allclose(mixtures.sum(-1), 1, rtol=1e-5)
    assert_drawn_from(np.asarray(probabilities(model, params)), mixtures.argmax(-1))
    if straight_through:
        assert set(np.unique(mixtures)) == {0.0, 1.0}
    else:  # the warmer, the more even
        sizes = [float(jnp.mean(write(jnp.float32(t)).max(-1))) for t in (0.01, 1.0, 100.0)]
        assert sizes[0] > 0.99 > sizes[1] > 0.8 > sizes[2]  # a third of it is the given token, 1


def test_a_relaxed_text_has_the_gradient_of_its_mixture(key):
    """By finite differences; straight through, of one written token, it is the same although the text is one-hot."""
    model, params = build()
    first, values = jnp.array([0, 1, 0]), jax.random.normal(jax.random.key(4), (3, 3, 2))
    direction = jax.tree.map(jnp.ones_like, params["generator"])

    def value(step, length, hard):
        moved = jax.tree.map(lambda x, by: x + step * by, params["generator"], direction)
        temperature = jnp.float32(0.7)
        whole = params | {"generator": moved}
        texts = fakes.relaxed(model, whole, first, length, key, temperature, hard)
        return jnp.sum(texts * values[:, :length])

    run = jax.jit(value, static_argnums=(1, 2))
    slope = jax.jit(jax.grad(value), static_argnums=(1, 2))
    numeric = (run(1e-3, 3, False) - run(-1e-3, 3, False)) / 2e-3
    np.testing.assert_allclose(slope(0.0, 3, False), numeric, rtol=2e-2)
    assert abs(float(numeric)) > 1e-3
    np.testing.assert_allclose(slope(0.0, 2, True), slope(0.0, 2, False), rtol=1e-4)


def test_rolled_out_texts_keep_their_beginnings(key):
    model, params = build()
    texts = jnp.array([[0, 1, 0, 1, 1], [1, 1, 0, 0, 0]])
    roll = jax.jit(lambda key: fakes.rolled_out(model, params, texts, (2, 4), key))
    rolled = roll(key)
    assert rolled.shape == (2, 2, 5)
    for place, known in enumerate((2, 4)):
        np.testing.assert_array_equal(rolled[place, :, :known], texts[:, :known])
    assert len({roll(jax.random.key(n)).tobytes() for n in range(5)}) > 1


def test_the_value_of_a_token_is_that_of_the_first_beginning_with_it():
    assert fakes.beginnings(5, 1) == (2, 3, 4)
    assert fakes.beginnings(6, 2) == (3, 5)
    assert fakes.beginnings(3, 4) == ()
    values = jnp.array([[10.0, 1.0], [20.0, 2.0], [30.0, 3.0]])  # behind 3 and 5 tokens, and all 6
    np.testing.assert_array_equal(
        fakes.spread(values, (3, 5), 6), [[10, 10, 20, 20, 30], [1, 1, 2, 2, 3]]
    )
    np.testing.assert_array_equal(fakes.spread(values[:1], (), 3), [[10, 10], [1, 1]])


def test_distinct_by_hand():
    texts = jnp.array([[1, 2, 1, 2], [1, 2, 3, 3]])
    np.testing.assert_allclose(fakes.distinct(texts, 1), 3 / 8)
    np.testing.assert_allclose(fakes.distinct(texts, 2), 4 / 8)  # 12, 21, 23, 33
    np.testing.assert_allclose(fakes.distinct(jnp.zeros((4, 5), jnp.int32), 2), 1 / 20)


# --- REINFORCE against all texts ---------------------------------------------------------------------------------------


def game(model, discount=1.0, **config):
    objective = losses.Adversarial(losses.Config(generator="policy", discount=discount), model)
    return Game(model, objective, Config(**config), num_steps=1)


def exact_gradient(model, params):
    """Of E[D(text)] in the generator's parameters, by the sum over all texts."""
    real = jax.nn.sigmoid(judged(model, params)[:, -1])

    def mean(generator):
        return jnp.sum(probabilities(model, params | {"generator": generator}) * real)

    return jax.jit(jax.grad(mean))(params["generator"])


def assert_close(left, right):
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(right)) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), left, right)


def exact_values(model, params):
    """What each written token is worth: its texts' mean D, from the sum over what may follow."""
    p = probabilities(model, params)
    real = jax.nn.sigmoid(judged(model, params)[:, -1])
    first = [jnp.sum((p * real)[n : n + 2]) / jnp.sum(p[n : n + 2]) for n in (0, 0, 2, 2)]
    return fakes.spread(jnp.stack([jnp.stack(first), real]), fakes.beginnings(3, 1), 3)


@pytest.mark.parametrize("values", ["at the end", "rolled out"])
def test_reinforce_is_in_expectation_the_exact_gradient(key, values):
    """The sum over all texts of p(text) times the gradient of its loss; two tokens a text, and the loss is a mean over them."""
    model, params = build()
    if values == "at the end":
        worth = game(model).returns(params, TEXTS, key)
    else:
        worth = exact_values(model, params)
    weights = probabilities(model, params)

    def expected(generator):
        found = log_probs(model, params | {"generator": generator}, TEXTS)
        each = [losses.policy_loss(found[n : n + 1], worth[n : n + 1]) for n in range(4)]
        return jnp.sum(weights * jnp.stack(each))

    grads = jax.jit(jax.grad(expected))(params["generator"])
    assert_close(jax.tree.map(lambda g: -2 * g, grads), exact_gradient(model, params))


def test_the_mean_of_the_others_takes_nothing_from_the_expectation(key):
    """The same with batches of two texts, over all sixteen pairs."""
    model, params = build()
    worth = game(model).returns(params, TEXTS, key)
    weights = probabilities(model, params)

    def expected(generator):
        found = log_probs(model, params | {"generator": generator}, TEXTS)
        total = 0.0
        for pair in itertools.product(range(4), repeat=2):
            pair = jnp.array(pair)
            advantages = worth[pair] - losses.mean_of_others(worth[pair])
            loss = losses.policy_loss(found[pair], advantages)
            total += jnp.prod(weights[pair]) * loss
        return total

    grads = jax.jit(jax.grad(expected))(params["generator"])
    assert_close(jax.tree.map(lambda g: -2 * g, grads), exact_gradient(model, params))


def test_rollouts_estimate_the_exact_values(key):
    model, params = build()
    rolled = game(model, num_rollouts=2000).returns(params, TEXTS, key)
    exact = exact_values(model, params)
    np.testing.assert_allclose(
        rolled[:, 1], exact[:, 1], rtol=1e-5
    )  # whole texts: nothing is drawn
    np.testing.assert_allclose(rolled[:, 0], exact[:, 0], atol=5 * 0.5 / 2000**0.5)
    assert float(jnp.abs(exact[0, 0] - exact[0, 1])) > 1e-3


def test_rewards_at_each_position_add_up_with_a_discount(key):
    model, params = build(dataclasses.replace(TINY, discriminator="gru"))
    found = game(model, 0.5).returns(params, TEXTS, key)
    real = jax.nn.sigmoid(judged(model, params))
    np.testing.assert_allclose(found[:, 1], real[:, 2], rtol=1e-6)
    np.testing.assert_allclose(found[:, 0], real[:, 1] + 0.5 * real[:, 2], rtol=1e-6)
