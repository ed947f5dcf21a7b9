"""Layers in both directions: each way is a layer of its own, whatever fills a row up or stands beside a text in it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers.history import Marks
from jaxlm.layers.recurrent import Recurrent
from jaxlm.layers.recurrent_stack import RecurrentStack, StackConfig, both_ways

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STACK = RecurrentStack("lstm", 2, 6)


@functools.cache
def build(both=True):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 4)), jnp.float32)
    params = nn.unbox(STACK.init(jax.random.key(0), x, *both_ways(7, None, both)))["params"]
    draw = np.random.default_rng(1).normal
    return x, jax.tree.map(lambda p: p + 0.3 * draw(size=p.shape).astype(np.float32), params)


@functools.partial(quick, static_argnums=2)
def run(params, x, both=True, segment_ids=None):
    return STACK.apply({"params": params}, x, *both_ways(x.shape[1], segment_ids, both))


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)


def test_each_way_is_a_layer_and_the_next_layer_reads_both():
    x, params = build()
    found, states = run(params, x)
    for number in range(2):
        layer = Recurrent("lstm", 3)
        zeros = (jnp.zeros((3, 3)),) * 2
        weights = params[f"block_{number}"]
        there, last = layer.apply({"params": weights["forward"]}, x, zeros, Marks())
        back, first = layer.apply({"params": weights["backward"]}, x[:, ::-1], zeros, Marks())
        x = jnp.concatenate([there, back[:, ::-1]], axis=-1)
        for part in range(2):
            close(states[number][part], jnp.concatenate([last[part], first[part]], axis=-1))
    close(found, x)


@pytest.mark.parametrize("both", [True, False])
def test_texts_of_a_row_are_read_as_they_are_alone(both):
    """Filling between them and behind them; and the last states are those of the last text, back those of the first."""
    x, params = build(both)
    ids = jnp.array([[1, 1, 0, 2, 2, 2, 0], [1] * 7, [3] + [0] * 6])
    found, states = run(params, x, both, ids)
    spoilt, kept = run(params, jnp.where((ids == 0)[..., None], 9.0, x), both, ids)
    jax.tree.map(np.testing.assert_array_equal, states, kept)
    for row, start, stop in ((0, 0, 2), (0, 3, 6), (1, 0, 7), (2, 0, 1)):
        alone, last = run(params, x[row : row + 1, start:stop], both)
        close(found[row, start:stop], alone[0])
        close(spoilt[row, start:stop], alone[0])
        if row:
            jax.tree.map(lambda a, b, row=row: close(a[row], b[0]), states, last)


def test_one_way_does_not_see_what_follows():
    x, params = build(False)
    changed = x.at[:, 4].add(1.0)
    before, after = run(params, x, False)[0], run(params, changed, False)[0]
    close(before[:, :4], after[:, :4])
    assert np.abs(before - after)[:, 4:].max(axis=(0, 2)).min() > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "qrnn"}, "model.cell='qrnn': accepted are rnn, gru, lstm"),
        ({"d_model": 15}, "model.d_model=15 must be even: model.bidirectional=True"),
        ({"d_hidden": 15}, "model.d_hidden=15 must be even: model.bidirectional=True"),
        ({"d_hidden": 0}, "model.d_hidden=0 must be at least 1"),
        ({"num_layers": 0}, "model.num_layers=0 must be at least 1"),
        ({"dropout": 1.0}, r"model.dropout=1.0 must be in \[0, 1\)"),
        ({"dtype": "float16"}, "model.dtype='float16': accepted are auto, float32, bfloat16"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        StackConfig(**change)
    assert StackConfig(bidirectional=False, d_hidden=15).hidden_width == 15
