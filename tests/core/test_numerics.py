"""Token scores against float64 arithmetic by hand, and the chunked path against the full one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import numerics
from jaxlm.core.outputs import NeuralOutput


def test_token_stats_by_hand():
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [4.0, 2.0, 2.0]]))  # both rows sum to 8
    stats = numerics.token_stats(logits, jnp.array([2, 0]))
    np.testing.assert_allclose(stats.nll, -np.log([5 / 8, 4 / 8]), rtol=1e-6)
    np.testing.assert_allclose(stats.log_z, np.log([8, 8]), rtol=1e-6)
    uniform = [-np.mean(np.log([1 / 8, 2 / 8, 5 / 8])), -np.mean(np.log([4 / 8, 2 / 8, 2 / 8]))]
    np.testing.assert_allclose(stats.uniform_nll, uniform, rtol=1e-6)


def test_soft_cap_bounds_and_leaves_small_values():
    capped = numerics.soft_cap(jnp.array([-1e6, 0.01, 1e6]), 30.0)
    np.testing.assert_allclose(capped, [-30, 0.01, 30], rtol=1e-5)
    assert numerics.soft_cap(jnp.array([77.0]), 0.0)[0] == 77.0


def test_large_logits_stay_finite_in_bfloat16():
    stats = numerics.token_stats(jnp.array([[1e4, 0.0]], jnp.bfloat16), jnp.array([1]))
    assert stats.nll.dtype == jnp.float32
    np.testing.assert_allclose(stats.nll, [1e4], rtol=1e-2)


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 100])
def test_chunked_scores_and_gradients_equal_full_ones(key, chunk):
    keys = jax.random.split(key, 3)
    hidden = jax.random.normal(keys[0], (2, 6, 8))
    head = jax.random.normal(keys[1], (8, 16))
    targets = jax.random.randint(keys[2], (2, 6), 0, 11)

    def loss(hidden, head, rows):
        out = NeuralOutput(hidden, head, {}, vocab_size=11, soft_cap=5.0, chunk=rows)
        stats = out.token_stats(targets)
        return jnp.sum(stats.nll * jnp.arange(12.0).reshape(2, 6) + stats.log_z**2), stats.nll

    full, full_grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, head, 12)
    part, part_grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, head, chunk)
    np.testing.assert_allclose(part[1], full[1], rtol=1e-6, atol=1e-6)
    for left, right in zip(part_grads, full_grads, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_padded_vocabulary_is_out_of_the_distribution(key):
    hidden = jax.random.normal(key, (1, 2, 4))
    out = NeuralOutput(hidden, jnp.ones((4, 128)), {}, vocab_size=10)
    assert out.logits().shape == (1, 2, 10)
    np.testing.assert_allclose(
        out.token_nll(jnp.array([[3, 9]])), np.log([[10.0, 10.0]]), rtol=1e-6
    )
    assert out.logits(jnp.array([1])).shape == (1, 10)


def test_correct_is_the_argmax_and_of_equals_the_first():
    logits = jnp.array([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    targets = jnp.array([1, 2, 1, 0])
    np.testing.assert_array_equal(numerics.token_stats(logits, targets).correct, [1, 0, 0, 1])
    np.testing.assert_array_equal(
        jnp.argmax(logits, axis=-1) == targets, [True, False, False, True]
    )


def test_a_bias_is_added_before_the_cap_and_its_padding_left_out():
    out = NeuralOutput(
        jnp.array([[[1.0, 2.0]]]),
        jnp.array([[1.0, 0.0, 9.0], [0.0, 1.0, 9.0]]),
        {},
        vocab_size=2,
        soft_cap=5.0,
        bias_V=jnp.array([0.5, -3.0, 9.0]),
    )
    np.testing.assert_allclose(out.logits(), [[5 * np.tanh([1.5 / 5, -1.0 / 5])]], rtol=1e-6)
    np.testing.assert_allclose(
        NeuralOutput(out.hidden, out.head_DV, {}, 2, 5.0, 1, out.bias_V).token_nll(
            jnp.array([[0]])
        ),
        out.token_nll(jnp.array([[0]])),
        rtol=1e-6,
    )
