"""Points between two vectors by hand, and texts under them."""

import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from families import moved

from jaxlm.decode import interpolation
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.vae import VAE, VAEConfig


def test_along_the_line():
    found = interpolation.between(np.array([0.0, 4.0]), np.array([2.0, 0.0]), 3)
    np.testing.assert_allclose(found, [[0, 4], [1, 2], [2, 0]])


def test_along_the_arc():
    half = 3 / math.sqrt(2)
    found = interpolation.between(np.array([0.0, 3.0]), np.array([3.0, 0.0]), 3, spherical=True)
    np.testing.assert_allclose(found, [[0, 3], [half, half], [3, 0]], atol=1e-6)
    for second in ([2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]):  # no arc between them: the line
        pair = np.array([1.0, 0.0]), np.array(second)
        np.testing.assert_allclose(
            interpolation.between(*pair, 5, spherical=True), interpolation.between(*pair, 5)
        )


def test_texts_are_those_that_each_latent_writes_alone():
    model = VAE(
        VAEConfig(vocab_size=9, vocab_multiple=3, d_model=4, d_hidden=6, d_encoder=4, d_latent=2)
    )
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), np.zeros((1, 2), np.int32)))["params"]
    params = moved(params, jax.random.key(1), 1.0)
    points = interpolation.between(np.array([-3.0, 3.0]), np.array([3.0, -3.0]), 4)
    bounds = {"max_tokens": 6, "max_len": 8}
    written = interpolation.write(model, params, points, [1], **bounds)
    assert len(written) == 4 and len({tuple(one.tokens) for one in written}) > 1
    (alone,) = interpolation.write(model, params, points[2:3], [1], **bounds)
    assert alone.tokens == written[2].tokens


def test_what_is_refused():
    with pytest.raises(ValueError, match="num_points=1 must be at least 2"):
        interpolation.between(np.zeros(2), np.ones(2), 1)
    gpt = GPT(GPTConfig(vocab_size=9, num_layers=1, d_model=8, num_heads=2, max_len=8))
    with pytest.raises(ValueError, match='GPT writes under no latent.*model.kind="vae"'):
        interpolation.write(gpt, {}, np.zeros((2, 2)), [1], max_tokens=2, max_len=8)
