"""BERT with each of its heads: what every model must hold, and the paper's equations in plain numpy."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.models.bert import BERT, BERTConfig, mean_over_tokens

MLM = BERTConfig(vocab_size=50, num_layers=2, d_model=24, num_heads=3, d_ff=40, max_len=24)
NONE = dataclasses.replace(MLM, head="none")
HEADS = {
    "mlm": MLM,
    "sequence": dataclasses.replace(MLM, head="sequence", num_labels=3),
    "sequence, pooler": dataclasses.replace(MLM, head="sequence", num_labels=3, pooler=True),
    "token": dataclasses.replace(MLM, head="token", num_labels=5),
    "none": dataclasses.replace(NONE, pooler=True),
}


def build(config, key, length=20):
    model = BERT(config)
    tokens = jax.random.randint(key, (2, length), 0, config.vocab_size)
    params = nn.unbox(model.init(jax.random.key(1), tokens))["params"]
    return model, jax.tree.map(lambda leaf: leaf * 5, params), tokens  # far from even predictions


def logits(model, params, tokens, **kwargs):
    return model.apply({"params": params}, tokens, **kwargs).logits()


@pytest.mark.parametrize("name", HEADS)
def test_shapes_dtypes_and_jit(key, name):
    model, params, tokens = build(HEADS[name], key)
    plain = logits(model, params, tokens)
    places, classes = {"s": (1, 3), "t": (20, 5)}.get(name[0], (20, 50))
    assert plain.shape == (2, places, classes) and plain.dtype == jnp.float32
    assert bool(jnp.isfinite(plain).all())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    jitted = jax.jit(lambda params, tokens: logits(model, params, tokens))(params, tokens)
    np.testing.assert_allclose(plain, jitted, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_logits(key):
    model, params, tokens = build(dataclasses.replace(HEADS["sequence"], dtype="bfloat16"), key)
    output = model.apply({"params": params}, tokens)
    assert output.hidden.dtype == jnp.bfloat16 and output.logits().dtype == jnp.float32


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_bert_base_has_its_published_parameters():
    model = BERT(BERTConfig(vocab_size=30522, head="none", pooler=True))
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens))["params"]
    padded = (30592 - 30522) * 768
    assert count(params) - padded == 109_482_240  # bert-base-uncased


def test_parameter_count_and_flops_in_closed_form(key):
    model, params, _ = build(MLM, key)
    d, f, v = 24, 40, 128
    block = 4 * (d * d + d) + (2 * d * f + f + d) + 4 * d
    head = d * d + d + 2 * d + v
    lookups = (24 + 2) * d
    assert count(params) == v * d + lookups + 2 * d + 2 * block + head
    weights = v * d + 2 * d + 2 * block + head
    assert model.flops_per_token(params, 20) == 6 * weights + 12 * 2 * d * 20


def equations(params, tokens, types, num_heads):
    """Devlin et al. 2019, with the post-norm blocks of Vaswani et al. 2017, one sequence, float64."""

    def dense(p, x):
        return x @ p["kernel"] + p["bias"]

    def norm(p, x):
        return p["scale"] * (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) + p["bias"]

    def gelu(x):
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["embed"]["embedding"][tokens] + p["token_types"]["embedding"][types]
    x = norm(p["embedding_norm"], x + p["positions"]["embedding"][: len(tokens)])
    for block in p["stack"].values():
        q, k, v = (
            np.split(dense(block["attention"][name], x), num_heads, axis=-1) for name in "qkv"
        )
        mixed = []
        for head in range(num_heads):
            scores = np.exp(q[head] @ k[head].T / math.sqrt(q[head].shape[-1]))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ v[head])
        mixed = dense(block["attention"]["out"], np.concatenate(mixed, -1))
        x = norm(block["attention_norm"], x + mixed)
        x = norm(
            block["mlp_norm"], x + dense(block["mlp"]["out"], gelu(dense(block["mlp"]["in"], x)))
        )
    x = norm(p["mlm"]["norm"], gelu(dense(p["mlm"]["transform"], x)))
    return x @ p["embed"]["embedding"].T + p["mlm"]["bias"]


def test_masked_logits_are_those_of_the_equations(key):
    model, params, tokens = build(MLM, key)
    noise = jax.random.normal(key, (128,))  # zeros at the start would hide a bias forgotten
    params["mlm"]["bias"] = noise
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * noise[: leaf.shape[-1]] if leaf.ndim == 1 else leaf, params
    )
    types = np.arange(20) // 12
    ours = logits(model, params, tokens, token_types=jnp.broadcast_to(types, (2, 20)))
    for row in range(2):
        theirs = equations(params, np.asarray(tokens[row]), types, 3)[:, :50]
        np.testing.assert_allclose(ours[row], theirs, rtol=1e-4, atol=1e-4)


def test_every_token_sees_every_other(key):
    model, params, tokens = build(NONE, key)
    for place in (0, 19):
        changed = tokens.at[:, place].set((tokens[:, place] + 1) % 50)
        moved = jnp.abs(logits(model, params, tokens) - logits(model, params, changed)).max(-1)
        assert float(moved.min()) > 1e-4


@pytest.mark.parametrize("name", HEADS)
def test_filling_changes_nothing(key, name):
    model, params, tokens = build(HEADS[name], key)
    real = jnp.broadcast_to(jnp.arange(20) < 8, (2, 20)).astype(jnp.int32)
    alone = logits(model, params, tokens[:, :8])
    for filling in (0, 7):
        filled = jnp.where(real == 1, tokens, filling)
        padded = logits(model, params, filled, segment_ids=real)
        np.testing.assert_allclose(padded[:, :8], alone, atol=1e-5)


def test_a_packed_sequence_scores_as_it_does_alone(key):
    model, params, tokens = build(MLM, key)
    ids = jnp.array([1] * 8 + [2] * 8 + [0] * 4)
    places = jnp.concatenate([jnp.arange(8), jnp.arange(8), jnp.zeros(4, jnp.int32)])
    both = jnp.broadcast_to(ids, (2, 20)), jnp.broadcast_to(places, (2, 20))
    packed = logits(model, params, tokens, segment_ids=both[0], positions=both[1])
    for part in (slice(0, 8), slice(8, 16)):
        alone = logits(model, params, tokens[:, part])
        np.testing.assert_allclose(packed[:, part], alone, atol=1e-5)


def test_mean_is_over_real_tokens():
    x = jnp.array([[[1.0, 10.0], [3.0, 20.0], [100.0, 100.0]]])
    np.testing.assert_allclose(mean_over_tokens(x, jnp.array([[1, 1, 0]])), [[2.0, 15.0]])
    np.testing.assert_allclose(mean_over_tokens(x, None), [[104 / 3, 130 / 3]], rtol=1e-6)
    np.testing.assert_array_equal(mean_over_tokens(x, jnp.zeros((1, 3), jnp.int32)), [[0.0, 0.0]])


def test_scanned_layers_equal_unrolled_ones(key):
    model, params, tokens = build(MLM, key)
    layers = [params["stack"][f"block_{layer}"] for layer in range(2)]
    stacked = params | {"stack": {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *layers)}}
    scanned = BERT(dataclasses.replace(MLM, scan_layers=True))
    expected = logits(model, params, tokens)
    np.testing.assert_allclose(logits(scanned, stacked, tokens), expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_on_in_training_only(key):
    model, params, tokens = build(HEADS["sequence"], key)

    def train(seed):
        return logits(model, params, tokens, train=True, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(train(0), train(0))
    assert float(jnp.abs(train(0) - train(1)).max()) > 1e-2
    np.testing.assert_array_equal(logits(model, params, tokens), logits(model, params, tokens))


def test_masked_tokens_of_two_sequences_are_learned_by_heart(key):
    model, params, tokens = build(dataclasses.replace(MLM, num_layers=1, dropout=0.0), key)
    params = jax.tree.map(lambda leaf: leaf / 5, params)
    hidden = jnp.arange(20) % 4 == 1
    masked = jnp.where(hidden[None], 49, tokens)
    tx = optax.adam(5e-3)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            nll = model.apply({"params": params}, masked).token_nll(tokens)
            return jnp.sum(nll * hidden[None]) / (2 * jnp.sum(hidden))

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state = tx.init(params)
    for _ in range(80):
        params, opt_state, value = step(params, opt_state)
    assert float(value) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "nsp"}, "model.head='nsp': accepted are mlm, sequence, token, none"),
        ({"num_labels": -1}, "model.num_labels=-1"),
        ({"num_token_types": 0}, "model.num_token_types=0"),
        ({"d_model": 25}, "model.d_model=25 must be a multiple"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MLM, **change)


def test_a_classifier_needs_a_number_of_labels(key):
    with pytest.raises(ValueError, match="model.num_labels=0, and the task names no labels"):
        build(dataclasses.replace(MLM, head="token"), key)


def test_what_its_tables_do_not_hold_is_refused(key):
    tokens = jnp.zeros((1, 9), jnp.int32)
    short = BERT(dataclasses.replace(MLM, max_len=8))
    with pytest.raises(ValueError, match="9 positions are more than .* model.max_len=8"):
        jax.eval_shape(short.init, key, tokens)
    single = BERT(dataclasses.replace(MLM, num_token_types=1))
    with pytest.raises(ValueError, match="model.num_token_types=1, but there are token_types"):
        jax.eval_shape(single.init, key, tokens[:, :4], token_types=tokens[:, :4])
