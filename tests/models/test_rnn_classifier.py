"""Recurrent classifiers: what every model must hold, for each pooling and for a class of every token."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.models.rnn_classifier import RNNClassifier, RNNClassifierConfig, max_over_tokens
from jaxlm.objectives.classification import Classification, Config
from jaxlm.objectives.masked_lm import MaskedLM

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MAX = RNNClassifierConfig(
    vocab_size=30, vocab_multiple=8, d_model=8, d_hidden=12, num_labels=3, dropout=0.5
)
FORMS = {
    "max": MAX,
    "mean": dataclasses.replace(MAX, pooling="mean", cell="gru", num_layers=2),
    "last": dataclasses.replace(MAX, pooling="last"),
    "last, one way": dataclasses.replace(MAX, pooling="last", bidirectional=False),
    "token": dataclasses.replace(MAX, head="token", num_layers=2),
}
REAL = jnp.array([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])


@functools.cache
def build(name):
    """A model whose every parameter has its own noise, and three texts."""
    model = RNNClassifier(FORMS[name])
    tokens = jax.random.randint(jax.random.key(1), (3, 6), 0, 30)
    params = nn.unbox(quick(model.init)(jax.random.key(0), tokens, REAL))["params"]
    draw = np.random.default_rng(0).normal
    return (
        model,
        jax.tree.map(lambda p: p + 0.3 * draw(size=p.shape).astype(np.float32), params),
        tokens,
    )


@functools.partial(quick, static_argnums=0)
def run(model, params, tokens, segment_ids=None):
    return model.apply({"params": params}, tokens, segment_ids).logits()


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)


def expected_size(cfg):
    products, parts, own = {"lstm": 4, "gru": 3}[cfg.cell], 4, cfg.d_hidden
    ways = 2 if cfg.bidirectional else 1
    total = 32 * cfg.d_model + cfg.d_hidden * 3 + 3
    for read in [cfg.d_model] + [own] * (cfg.num_layers - 1):
        total += ways * (products * own // ways * (read + own // ways) + parts * own // ways)
    return total


@pytest.mark.parametrize("name", FORMS)
def test_shapes_dtypes_and_size(name):
    model, params, tokens = build(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected_size(model.config)
    found = run(model, params, tokens, REAL)
    places = 6 if name == "token" else 1
    assert found.shape == (3, places, 3) and found.dtype == np.float32
    assert np.isfinite(found).all()
    boxed = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    names = [box.names for box in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names"))]
    assert len(names) == len(jax.tree.leaves(params))  # all have logical axes


@pytest.mark.parametrize("name", ["max"])
def test_jit_equals_no_jit(name):
    model, params, tokens = build(name)
    plain = model.apply({"params": params}, tokens, REAL).logits()
    close(plain, run(model, params, tokens, REAL))


@pytest.mark.parametrize("name", FORMS)
def test_filling_changes_nothing(name):
    model, params, tokens = build(name)
    found = run(model, params, tokens, REAL)
    other = run(model, params, jnp.where(REAL > 0, tokens, 7), REAL)
    for row, size in ((0, 6), (1, 4), (2, 1)):
        alone = run(model, params, tokens[row : row + 1, :size])[0]
        close(found[row, : len(alone)], alone)
        close(other[row, : len(alone)], alone)
    empty = run(model, params, tokens, jnp.zeros_like(REAL))  # rows that fill up a batch
    assert np.isfinite(empty).all()


@pytest.mark.parametrize("name", FORMS)
def test_every_token_counts_and_so_does_their_order(name):
    model, params, tokens = build(name)
    before = run(model, params, tokens, REAL)[0]
    turned = run(model, params, tokens[:, ::-1], REAL)[0]
    assert np.abs(before - turned).max() > 1e-3
    for place in range(6):
        changed = tokens.at[0, place].set((tokens[0, place] + 1) % 30)
        assert np.abs(run(model, params, changed, REAL)[0] - before).max() > 1e-4


def test_the_largest_of_each_feature_by_hand():
    x = jnp.array([[[1.0, -5.0], [3.0, -2.0], [9.0, 9.0]], [[-1.0, -2.0], [0.0, 0.0], [0.0, 0.0]]])
    found = max_over_tokens(x, jnp.array([[1, 1, 0], [1, 0, 0]]))
    np.testing.assert_array_equal(found, [[3, -2], [-1, -2]])
    np.testing.assert_array_equal(max_over_tokens(x, jnp.zeros((2, 3), jnp.int32)), 0)
    np.testing.assert_array_equal(max_over_tokens(x, None), [[9, 9], [0, 0]])


def test_texts_of_a_packed_row_have_their_tokens_classes():
    model, params, tokens = build("token")
    packed = run(model, params, tokens[:1], jnp.array([[1, 1, 2, 2, 2, 0]]))[0]
    close(packed[:2], run(model, params, tokens[:1, :2])[0])
    close(packed[2:5], run(model, params, tokens[:1, 2:5])[0])


@pytest.mark.parametrize("name", ["max", "token"])
def test_two_texts_are_learned_by_heart(name):
    model, _, tokens = build(name)
    tokens = tokens[:2]
    targets = jnp.array([[0, 1, 2, 1, 0, 2], [2, 2, 1, 0, 0, 1]])[:, : 6 if name == "token" else 1]
    tx = optax.adam(3e-2)

    @jax.jit
    def learn(params):
        def step(state, _):
            def loss(p):
                return model.apply({"params": p}, tokens).token_nll(targets).mean()

            params, opt_state = state
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=60)[1]

    start = nn.unbox(quick(model.init)(jax.random.key(0), tokens))["params"]
    losses = learn(start)
    assert losses[0] > 0.5 and losses[-1] < 0.05


def test_dropout_is_of_training_only():
    model, params, tokens = build("mean")

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, REAL, train=True, rngs=rngs).logits()

    assert np.abs(train(0) - train(1)).max() > 1e-2


def test_objectives_of_classes_take_it_and_those_of_tokens_do_not():
    model = RNNClassifier(MAX)
    Classification(Config(), model)
    with pytest.raises(ValueError, match='model.head="mlm", not "sequence"'):
        MaskedLM(Config(), model)


def test_flops_leave_out_lookups_and_count_the_head_once():
    model, params, _ = build("max")
    size = sum(leaf.size for leaf in jax.tree.leaves(params["stack"]))
    expected = 6 * (size + (12 * 3 + 3) / 50)
    assert model.flops_per_token(params, 50) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "mlm"}, "model.head='mlm': accepted are sequence, token"),
        ({"pooling": "sum"}, "model.pooling='sum': accepted are max, mean, last"),
        ({"num_labels": -1}, "model.num_labels=-1 must be at least 0"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MAX, **change)


def test_a_number_of_labels_is_needed():
    model = RNNClassifier(dataclasses.replace(MAX, num_labels=0))
    with pytest.raises(ValueError, match="model.num_labels=0"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
