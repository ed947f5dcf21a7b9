"""The GAN's two parts: the generator is a language model like any other, also of mixtures of tokens; the discriminator judges both."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.gan import GAN, GANConfig
from jaxlm.models.rnn import RNN, RNNConfig

SMALL = GANConfig(
    vocab_size=7,
    vocab_multiple=8,
    num_layers=2,
    d_model=12,
    discriminator_width=5,
    num_filters=3,
    filter_widths=(1, 3),
)
GRU = dataclasses.replace(SMALL, cell="gru", discriminator="gru")
SHAPES = {"lstm and cnn": SMALL, "gru and gru": GRU}
pytestmark = pytest.mark.usefixtures("quick_compiling")


@functools.cache
def fresh(config):
    first = jnp.zeros((1, 1), jnp.int32)
    return nn.unbox(jax.jit(GAN(config).init)(jax.random.key(1), first))["params"]


def build(config, key, length=9):
    model = GAN(config)
    tokens = jax.random.randint(key, (3, length), 0, config.vocab_size)
    params = jax.tree.map(jnp.copy, fresh(config))
    # An embedding of a fiftieth says little: larger ones show what depends on what.
    params["generator"]["embed"]["embedding"] *= 30
    return model, params, tokens


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens):
    return model.apply({"params": params}, tokens).logits()


@functools.partial(jax.jit, static_argnums=0)
def judged(model, params, texts):
    return model.apply({"params": params}, texts, method="judge")


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_dtypes_and_jit(key, name):
    model, params, tokens = build(SHAPES[name], key)
    found = logits(model, params, tokens)
    assert found.shape == (3, 9, 7) and found.dtype == jnp.float32
    plain = model.apply({"params": params}, tokens).logits()
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    verdict = judged(model, params, tokens)
    assert verdict.shape == (3, 9 if SHAPES[name].discriminator == "gru" else 1)
    assert verdict.dtype == jnp.float32
    plain = model.apply({"params": params}, tokens, method="judge")
    np.testing.assert_allclose(verdict, plain, rtol=1e-5, atol=1e-6)
    assert np.isfinite(found).all() and np.isfinite(verdict).all()


def test_probabilities_sum_to_one_over_the_vocabulary(key):
    """Every token's, those never seen included; rows that fill the table up have none."""
    model, params, tokens = build(SMALL, key)
    score = jax.jit(lambda v: model.apply({"params": params}, tokens).token_nll(0 * tokens + v))
    np.testing.assert_allclose(sum(jnp.exp(-score(v)) for v in range(7)), 1.0, rtol=1e-5)


def test_parameter_counts_in_closed_form(key):
    def count(config, player):
        return sum(leaf.size for leaf in jax.tree.leaves(build(config, key)[1][player]))

    rows, d, width = 8, 12, 5  # 7 tokens, padded
    layer = 2 * d * 4 * d + 4 * d
    assert count(SMALL, "generator") == rows * d + 2 * layer
    assert count(GRU, "generator") == rows * d + 2 * (2 * d * 3 * d + 4 * d)
    filters = sum(size * width * 3 + 3 for size in (1, 3))
    assert count(SMALL, "discriminator") == rows * width + filters + 2 * 3 + 1
    gru = 2 * width * 3 * width + 4 * width
    assert count(GRU, "discriminator") == rows * width + gru + width + 1
    assert GAN(SMALL).flops_per_token(build(SMALL, key)[1], 9) == 6 * (rows * d + 2 * layer)


@pytest.mark.parametrize("name", SHAPES)
def test_the_generator_is_causal_and_so_is_a_judgement_of_each_position(key, name):
    config = SHAPES[name]
    model, params, tokens = build(config, key)
    changed = tokens.at[:, 5].set((tokens[:, 5] + 1) % 7)
    pairs = [(logits(model, params, tokens), logits(model, params, changed))]
    if config.discriminator == "gru":
        pairs.append((judged(model, params, tokens), judged(model, params, changed)))
    for before, after in pairs:
        np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
        assert float(jnp.abs(before[:, 5] - after[:, 5]).max()) > 1e-3


@pytest.mark.parametrize("name", SHAPES)
def test_extended_piece_by_piece_is_as_read_at_once(key, name):
    model, params, tokens = build(SHAPES[name], key)
    whole = logits(model, params, tokens)
    cache = model.init_cache(params, 3, 9)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(cache))
    lengths = jnp.array([4, 0, 2])  # rows of different lengths: what is behind them is filling
    first, cache = model.extend(params, cache, tokens[:, :4], lengths)
    np.testing.assert_allclose(first.logits()[0], whole[0, :4], rtol=1e-4, atol=1e-5)
    rest = jnp.stack([jnp.roll(row, -n)[:5] for row, n in zip(tokens, lengths, strict=True)])
    second, _ = model.extend(params, cache, rest, jnp.full(3, 5))
    for row, start in enumerate(lengths.tolist()):
        np.testing.assert_allclose(
            second.logits()[row], whole[row, start : start + 5], rtol=1e-4, atol=1e-5
        )


def test_the_generator_is_the_recurrent_model(key):
    """With the same weights: so is what others wrote of it, and its weights are exchangeable."""
    model, params, tokens = build(SMALL, key)
    fields = [field.name for field in dataclasses.fields(RNNConfig)]
    other = RNN(RNNConfig(**{name: getattr(SMALL, name) for name in fields}))
    expected = other.apply({"params": params["generator"]}, tokens).logits()
    np.testing.assert_array_equal(model.apply({"params": params}, tokens).logits(), expected)


@pytest.mark.parametrize("name", SHAPES)
def test_one_hot_mixtures_are_tokens_to_both_players(key, name):
    model, params, tokens = build(SHAPES[name], key)
    hot = jax.nn.one_hot(tokens, 7)
    for read in (logits, judged):
        np.testing.assert_allclose(
            read(model, params, hot), read(model, params, tokens), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", SHAPES)
def test_a_mixture_has_a_gradient_by_finite_differences(key, name):
    """Of what both players make of it, in one direction; small steps, as a largest answer has kinks."""
    model, params, tokens = build(SHAPES[name], key)
    mixtures = jax.nn.softmax(jax.random.normal(key, (3, 9, 7)))
    direction = jax.random.normal(jax.random.key(5), mixtures.shape)

    @jax.jit
    def value(step):
        texts = mixtures + step * direction
        scored = jnp.mean(model.apply({"params": params}, texts).logits() ** 2)
        return scored + jnp.mean(model.apply({"params": params}, texts, method="judge") ** 2)

    slope = jax.grad(value)(0.0)
    numeric = (value(1e-3) - value(-1e-3)) / 2e-3
    np.testing.assert_allclose(slope, numeric, rtol=2e-2)


def test_the_cnn_takes_texts_shorter_than_its_filters(key):
    config = dataclasses.replace(SMALL, filter_widths=(5,))
    model, params, tokens = build(config, key, length=2)
    assert judged(model, params, tokens).shape == (3, 1)


def test_the_cnn_finds_a_word_wherever_it_stands(key):
    """Its filters see windows, and a text's judgement is their largest answers: where they stand plays no part."""
    model, params, _ = build(SMALL, key)
    texts = np.zeros((2, 9), np.int32)
    texts[0, 1:4], texts[1, 4:7] = (1, 2, 3), (1, 2, 3)
    first, second = judged(model, params, jnp.asarray(texts))
    np.testing.assert_allclose(first, second, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"discriminator": "mlp"}, 'model.discriminator="mlp": accepted are cnn, gru'),
        ({"num_filters": 0}, "model.num_filters=0"),
        ({"filter_widths": ()}, r"model.filter_widths=\(\)"),
        ({"discriminator_dropout": 1.0}, "model.discriminator_dropout=1.0"),
        ({"cell": "mlp"}, "model.cell='mlp'"),
    ],
)
def test_a_wrong_config_names_the_key(fields, said):
    with pytest.raises(ValueError, match=said):
        GANConfig(**fields)
