"""Products of linear layers, and of vectors with every position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers.linear import times_row


@pytest.mark.parametrize("shape", [(1, 5, 3), (2, 5, 3), (4, 3)])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_vectors_gradient_is_that_of_a_plain_product(platform, shape, monkeypatch):
    draw = np.random.default_rng(0).normal
    x, vector, grad = (jnp.asarray(draw(size=s), jnp.float32) for s in (shape, shape[-1:], shape))
    wide = jnp.broadcast_to(vector, shape)
    expected = x * wide, grad * wide, (x * grad).reshape(-1, 3).sum(0)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    found, back = jax.vjp(times_row, x, vector)
    for one, other in zip((found, *back(grad)), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
