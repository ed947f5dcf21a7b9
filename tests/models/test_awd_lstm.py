"""AWD-LSTM's dropouts and penalties (Merity et al. 2017): in training only, whole, by their key; and terms of the loss."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.rnn import RNN, RNNConfig
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.causal_lm import Config as LossConfig

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = RNNConfig(vocab_size=30, vocab_multiple=8, num_layers=2, d_model=16, d_hidden=24)


@functools.cache
def build(cell):
    """Parameters that have their own noise each, and three texts."""
    model = RNN(dataclasses.replace(SMALL, cell=cell))
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, 30)
    params = nn.unbox(quick(model.init)(jax.random.key(0), tokens))["params"]
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda x: x + 0.2 * draw(size=x.shape).astype(np.float32), params)
    return params, tokens


AWD = dataclasses.replace(SMALL, dropout=0.2, locked_dropout=True, word_dropout=0.2,
                          weight_dropout=0.5, activation_reg=2.0, temporal_reg=1.0)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"weight_dropout": 0.5}, {"word_dropout": 0.5}, {"dropout": 0.5}, {"output_dropout": 0.5}],
    ids=str,
)
def test_every_dropout_is_of_training_only_and_follows_its_key(change):
    params, tokens = build("lstm")
    model = RNN(dataclasses.replace(SMALL, **change))

    @quick
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, train=True, rngs=rngs).logits()

    def evaluated(model):
        return quick(lambda params: model.apply({"params": params}, tokens).logits())(params)

    np.testing.assert_array_equal(train(0), train(0))
    assert np.abs(train(0) - train(1)).max() > 1e-2
    np.testing.assert_allclose(evaluated(model), evaluated(RNN(SMALL)), rtol=0, atol=1e-6)


def test_dropped_words_and_features_are_whole():
    """A word wherever it stands, a state's feature at all positions of its row."""
    params, _ = build("lstm")
    tokens = jnp.tile(jnp.arange(6)[None], (2, 2))
    rngs = {"dropout": jax.random.key(0)}
    locked = RNN(dataclasses.replace(SMALL, output_dropout=0.5, locked_dropout=True))
    read = quick(lambda p: locked.apply({"params": p}, tokens, train=True, rngs=rngs).hidden)
    hidden = read(params)
    gone = np.asarray(hidden == 0)
    assert (gone == gone[:, :1]).all() and 0 < gone.mean() < 1 and (gone[0] != gone[1]).any()

    params, _ = build("mamba")  # which reads vectors as they are
    words = RNN(dataclasses.replace(SMALL, cell="mamba", word_dropout=0.5))
    show = {"mutable": "intermediates", "capture_intermediates": lambda m, _: m.name == "norm"}
    read = quick(lambda p: words.apply({"params": p}, tokens, train=True, rngs=rngs, **show)[1])
    kept = read(params)
    normed = np.asarray(kept["intermediates"]["block_0"]["norm"]["__call__"][0])
    absent = (normed == 0).all(axis=-1)
    assert (absent[0, :6] == absent[1, 6:]).all() and 0 < absent.mean() < 1


def test_penalties_are_terms_of_the_loss():
    params, tokens = build("lstm")
    model = RNN(AWD)
    assert dict(model.aux_terms) == {"ar": 2.0, "tar": 1.0}
    segments = jnp.array([[1] * 5 + [2] * 7, [1] * 12, [1] * 3 + [0] * 9])
    output = model.apply({"params": params}, tokens, segments)
    hidden = np.asarray(output.hidden, np.float64)
    squares = [(hidden[r, :n] ** 2).sum() for r, n in enumerate((12, 12, 3))]
    np.testing.assert_allclose(output.aux["ar"], sum(squares) / (27 * 16), rtol=1e-5)
    steps = [(np.diff(hidden[r, a:b], axis=0) ** 2).sum() for r, a, b in
             ((0, 0, 5), (0, 5, 12), (1, 0, 12), (2, 0, 3))]  # fmt: skip
    np.testing.assert_allclose(output.aux["tar"], sum(steps) / ((4 + 6 + 11 + 2) * 16), rtol=1e-5)
    objective = CausalLM(LossConfig(), model)
    assert dict(objective.terms) == {"nll": 1.0, "ar": 2.0, "tar": 1.0}
