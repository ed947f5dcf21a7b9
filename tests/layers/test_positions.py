"""Sinusoids, rotary angles and ALiBi slopes, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.layers import positions


def test_sinusoids_by_hand():
    """Width 4: angles p and p / 100. sin 1 = 0.8415, cos 1 = 0.5403, sin 2 = 0.9093, cos 2 = -0.4161."""
    table = [
        [0.0, 1.0, 0.0, 1.0],
        [0.84147, 0.54030, 0.0099998, 0.99995],
        [0.90930, -0.41615, 0.0199987, 0.99980],
    ]
    np.testing.assert_allclose(positions.sinusoids(jnp.arange(3)[None], 4), [table], atol=1e-5)
    # Wherever a token is said to stand, as in packed rows and behind a cache; an odd width ends with a sine.
    packed = positions.sinusoids(jnp.array([[2, 0, 1], [1, 1, 0]]), 4)
    np.testing.assert_allclose(packed[0], np.array(table)[[2, 0, 1]], atol=1e-5)
    np.testing.assert_allclose(packed[1], np.array(table)[[1, 1, 0]], atol=1e-5)
    assert positions.sinusoids(jnp.array([[1]]), 3).shape == (1, 1, 3)
    far = positions.sinusoids(jnp.array([[5000]]), 512)[0, 0]  # column 2i: 5000 / 10000^(i / 256)
    np.testing.assert_allclose(far[256], np.sin(50.0), atol=1e-3)
    np.testing.assert_allclose(far[257], np.cos(50.0), atol=1e-3)


def test_rotary_turns_pairs_by_the_angle():
    table = positions.rotary_table(jnp.array([[0, 1, 3]]), 4, base=100.0)  # rates 1 and 0.1
    x = jnp.zeros((1, 1, 3, 4)).at[..., 0].set(1.0).at[..., 1].set(1.0)
    angles = np.array([[0, 0], [1, 0.1], [3, 0.3]])
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(positions.rotate(x, table)[0, 0], expected, atol=1e-6)


def test_the_cpu_turn_equals_the_one_of_other_devices(key, monkeypatch):
    table = positions.rotary_table(jnp.arange(5)[None], 8, base=10_000.0)
    x = jax.random.normal(key, (1, 2, 5, 8))
    here = positions.rotate(x, table)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_array_equal(here, positions.rotate(x, table))


def test_rotary_scores_depend_on_distance_only(key):
    q, k = jax.random.normal(key, (2, 1, 1, 1, 8))

    def score(at, to):
        tables = [positions.rotary_table(jnp.array([[p]]), 8, 10_000.0) for p in (at, to)]
        return float(jnp.vdot(positions.rotate(q, tables[0]), positions.rotate(k, tables[1])))

    assert abs(score(7, 3) - score(104, 100)) < 1e-4
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_two_places_turn_half_of_the_pairs_each():
    """Eight columns, four pairs: with base 100 two turn with the one place at rates 1 and 0.1, two with the other."""
    table = positions.rotary_table_2d(jnp.array([[0, 3, 3]]), jnp.array([[0, 0, 2]]), 8, base=100.0)
    x = jnp.zeros((1, 1, 3, 8)).at[..., :4].set(1.0)
    angles = np.array([[0, 0, 0, 0], [3, 0.3, 0, 0], [3, 0.3, 2, 0.2]])
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(positions.rotate(x, table)[0, 0], expected, atol=1e-6)


def test_alibi_slopes_of_the_paper():
    np.testing.assert_allclose(positions.alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(positions.alibi_slopes(3), [2.0**-4, 2.0**-8, 2.0**-2])


# Rates 1, 0.1, 0.01, 0.001; over 628 positions about 100, 10, 1 and 0.1 turns.
TENTHS = {"head_dim": 8, "base": 10_000.0}


def test_linear_scaling_divides_every_rate():
    scaling = positions.RopeScaling("linear", factor=4.0)
    rates = positions.rotary_rates(**TENTHS, scaling=scaling)
    np.testing.assert_allclose(rates, [0.25, 0.025, 0.0025, 0.00025], rtol=1e-6)


def test_llama3_scaling_keeps_fast_rates_divides_slow_ones_and_blends_between():
    scaling = positions.RopeScaling("llama3", 8.0, low_freq=5.0, high_freq=15.0, original_len=628)
    rates = positions.rotary_rates(**TENTHS, scaling=scaling)
    kept = (62.8 / (2 * np.pi) - 5) / 10  # 10 turns lie in the middle of 5 and 15
    blended = 0.1 * kept + 0.1 / 8 * (1 - kept)
    np.testing.assert_allclose(rates, [1.0, blended, 0.01 / 8, 0.001 / 8], rtol=1e-6)


def test_yarn_scaling_ramps_over_the_pairs_and_sharpens_attention():
    # 32 turns are at pair log10(100 / 32) = 0.49, taken as 0; 1 turn is at 2. Half of pair 1 is kept.
    scaling = positions.RopeScaling("yarn", 4.0, 1.0, 32.0, original_len=628, attention_factor=1.5)
    rates = positions.rotary_rates(**TENTHS, scaling=scaling)
    np.testing.assert_allclose(rates, [1.0, 0.0625, 0.0025, 0.00025], rtol=1e-6)
    cos, sin = positions.rotary_table(jnp.array([[0, 2]]), **TENTHS, scaling=scaling)
    np.testing.assert_allclose(cos[0, 0, :, 1], [1.5, 1.5 * np.cos(0.125)], rtol=1e-6)
    np.testing.assert_allclose(sin[0, 0, :, 5], [0.0, 1.5 * np.sin(0.125)], rtol=1e-6)
