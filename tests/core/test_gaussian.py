"""Divergence and densities by hand; noise that is a function of a text, or of a seed, alone."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import gaussian


def test_divergence_by_hand():
    mean, log_var = jnp.array([[0.0, 1.0, 0.0]]), jnp.array([[0.0, 0.0, math.log(4)]])
    expected = [[0.0, 0.5, (4 - 1 - math.log(4)) / 2]]
    np.testing.assert_allclose(gaussian.kl(mean, log_var), expected, rtol=1e-6)


def test_log_ratio_is_that_of_the_two_densities():
    latent, mean, log_var = (
        jnp.array([[0.3, -1.2]]),
        jnp.array([[1.0, 0.5]]),
        jnp.array([[-1.0, 0.7]]),
    )

    def density(x, m, v):
        return -0.5 * (math.log(2 * math.pi * v) + (x - m) ** 2 / v)

    prior = density(0.3, 0, 1) + density(-1.2, 0, 1)
    posterior = density(0.3, 1, math.exp(-1)) + density(-1.2, 0.5, math.exp(0.7))
    found = gaussian.log_ratio(latent, mean, log_var)
    np.testing.assert_allclose(found, [prior - posterior], rtol=1e-6)


def test_the_mean_log_ratio_under_the_posterior_is_minus_the_divergence():
    mean, log_var = jnp.full((20_000, 1), 0.8), jnp.full((20_000, 1), -0.6)
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((20_000, 1)), jnp.float32)
    ratios = gaussian.log_ratio(gaussian.draw(mean, log_var, noise), mean, log_var)
    error = float(ratios.std()) / math.sqrt(20_000)
    assert float(ratios.mean()) == pytest.approx(
        -float(gaussian.kl(mean, log_var)[0, 0]), abs=4 * error
    )


def test_a_text_s_noise_is_its_own_in_any_batch_and_filling():
    ids = jnp.array([[3, 1, 4], [1, 5, 9], [3, 4, 1]])
    real = jnp.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
    noise = gaussian.text_noise(ids, real, 4)
    again = gaussian.text_noise(
        jnp.pad(ids[1:2], ((0, 0), (0, 2))), jnp.pad(real[1:2], ((0, 0), (0, 2))), 4
    )
    np.testing.assert_array_equal(again, noise[1:2])
    assert len(np.unique(np.asarray(noise)[:, 0])) == 3  # the order of tokens counts
    assert not np.allclose(noise, gaussian.text_noise(ids, real, 4, sample=1))


def test_noise_is_standard_normal():
    ids = jnp.asarray(np.random.default_rng(1).integers(0, 9, (4000, 6)), jnp.int32)
    noise = np.asarray(gaussian.text_noise(ids, jnp.ones(ids.shape, bool), 2))
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.06
    drawn = np.asarray(gaussian.seed_noise(jnp.arange(4000, dtype=jnp.uint32), 2))
    assert abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05


def test_a_seed_s_noise_is_its_own():
    seeds = jnp.array([7, 8, 7], jnp.uint32)
    noise = gaussian.seed_noise(seeds, 3)
    np.testing.assert_array_equal(noise[0], noise[2])
    assert not np.allclose(noise[0], noise[1])
