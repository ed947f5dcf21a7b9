"""Alignments on numbers small enough for a hand: each score, filling, and what is shown."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers.alignment import SCORES, Alignment

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SOURCE = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])  # two source states h
STATES = jnp.array([[[1.0, 0.5], [-1.0, 0.0]]])  # two states s of a decoder


def align(score, params, real=(1, 1), source=SOURCE, states=STATES, shown=True):
    module = Alignment(score, 2, nn.initializers.zeros)

    def run(module):
        return module(states, module.remember(source, jnp.array([real])), shown)

    return quick(lambda p: nn.apply(run, module)({"params": p}))(params)


def share(first, second):
    """The softmax of two scores."""
    part = 1 / (1 + math.exp(second - first))
    return [part, 1 - part]


def test_dot_by_hand():
    """s^T h: of the first state 1 and 1, of the second -1 and 0."""
    read, weights = align("dot", {})
    np.testing.assert_allclose(weights, [[share(1, 1), share(-1, 0)]], atol=1e-6)
    expected = [[0.5, 1.0], [share(-1, 0)[0], 2 * share(-1, 0)[1]]]
    np.testing.assert_allclose(read[0], expected, atol=1e-6)


def test_general_by_hand():
    """s^T W h with W h = [h1 + 3 h2, 2 h1]: [1, 2] and [6, 0]; so 1 + 1 and 6, then -1 and -6."""
    kernel = jnp.array([[1.0, 2.0], [3.0, 0.0]])  # of h as a row
    _, weights = align("general", {"key": {"kernel": kernel}})
    np.testing.assert_allclose(weights, [[share(2, 6), share(-1, -6)]], atol=1e-6)


def test_additive_by_hand():
    """w = [1, 2], W = [[1, 0], [0, 2]], U = [[0, 1], [1, 0]]: W s = [1, 1] and [-1, 0]; U h = [0, 1] and [2, 0]."""
    params = {
        "query": {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0]])},
        "key": {"kernel": jnp.array([[0.0, 1.0], [1.0, 0.0]])},
        "weights": jnp.array([1.0, 2.0]),
    }
    tanh = math.tanh
    scores = [
        (tanh(1) + 2 * tanh(2), tanh(3) + 2 * tanh(1)),
        (tanh(-1) + 2 * tanh(1), tanh(1) + 2 * tanh(0)),
    ]
    read, weights = align("additive", params)
    np.testing.assert_allclose(weights[0], [share(*pair) for pair in scores], atol=1e-6)
    np.testing.assert_allclose(read[0], weights[0] @ SOURCE[0], atol=1e-6)
    unseen, nothing = align("additive", params, shown=False)
    assert nothing is None
    np.testing.assert_allclose(unseen, read, atol=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_filling_gets_no_weight_and_a_source_without_tokens_no_nan(score):
    module = Alignment(score, 2, nn.initializers.normal(1.0))
    draw = np.random.default_rng(0).normal
    source = jnp.asarray(draw(size=(1, 3, 2)), jnp.float32)
    init = nn.init(lambda m: m(STATES, m.remember(source, jnp.ones((1, 3), jnp.int32))), module)
    params = nn.unbox(init(jax.random.key(0))).get("params", {})
    whole, _ = align(score, params, (1, 1), source[:, :2])
    for fill in (5.0, -7.0):
        other = source.at[:, 2].set(fill)
        read, weights = align(score, params, (1, 1, 0), other)
        np.testing.assert_allclose(read, whole, atol=1e-6)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
        assert (weights[..., 2] == 0).all()
    read, weights = align(score, params, (0, 0, 0), source)
    assert np.isfinite(read).all() and np.isfinite(weights).all()
