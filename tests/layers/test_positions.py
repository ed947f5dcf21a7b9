"""Rotary angles and ALiBi slopes, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.layers import positions


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


def test_alibi_slopes_of_the_paper():
    np.testing.assert_allclose(positions.alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(positions.alibi_slopes(3), [2.0**-4, 2.0**-8, 2.0**-2])
