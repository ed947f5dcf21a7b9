"""Pools over the states of a text, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers.text_encoder import pool

STATES = jnp.array([[[1.0, -5.0], [4.0, -2.0], [9.0, 9.0]], [[2.0, 3.0], [7.0, 7.0], [8.0, 8.0]]])
REAL = jnp.array([[1, 1, 0], [0, 0, 0]], bool)


@pytest.mark.parametrize(
    ("how", "first"), [("last", [4.0, -2.0]), ("mean", [2.5, -3.5]), ("max", [4.0, -2.0])]
)
def test_of_real_states_alone_and_zero_without_any(how, first):
    np.testing.assert_allclose(pool(how, STATES, REAL), [first, [0.0, 0.0]])
