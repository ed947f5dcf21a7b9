"""Means of embeddings by hand, n-grams by an exact hash, and what every classifier must hold."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.models.bag_of_embeddings import BagOfEmbeddings, BagOfEmbeddingsConfig, hashed, whole

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PLAIN = BagOfEmbeddingsConfig(vocab_size=10, vocab_multiple=4, d_model=4, num_labels=3)
FORMS = {
    "plain": PLAIN,
    "trigrams": dataclasses.replace(PLAIN, ngrams=3, ngram_buckets=7),
    "attention": dataclasses.replace(PLAIN, pooling="attention", ngrams=2, ngram_buckets=7),
    "deep": dataclasses.replace(PLAIN, num_layers=2, d_ff=5, word_dropout=0.5, dropout=0.5),
}
TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [7, 0, 0, 0, 0]])
REAL = (jnp.arange(5)[None] < jnp.array([[5], [3], [1]])).astype(jnp.int32)


@functools.cache
def build(name):
    model = BagOfEmbeddings(FORMS[name])
    params = nn.unbox(quick(model.init)(jax.random.key(0), TOKENS, REAL))["params"]
    draw = np.random.default_rng(0).normal
    return model, jax.tree.map(lambda p: p + 0.3 * draw(size=p.shape).astype(np.float32), params)


@functools.partial(quick, static_argnums=0)
def run(model, params, tokens=TOKENS, segment_ids=REAL):
    return model.apply({"params": params}, tokens, segment_ids)


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_shapes_dtypes_and_size(name):
    model, params = build(name)
    sizes = {
        "plain": 12 * 4 + 4 * 3 + 3,
        "trigrams": (12 + 7) * 4 + 4 * 3 + 3,
        "attention": (12 + 7) * (4 + 1) + 4 * 3 + 3,
        "deep": 12 * 4 + (4 * 5 + 5) + (5 * 5 + 5) + 5 * 3 + 3,
    }
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sizes[name]
    found = run(model, params).logits()
    assert found.shape == (3, 1, 3) and found.dtype == np.float32 and np.isfinite(found).all()
    close(found, model.apply({"params": params}, TOKENS, REAL).logits())  # jit = no jit
    boxed = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    names = [box.names for box in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names"))]
    assert len(names) == len(jax.tree.leaves(params))  # all have logical axes


def test_the_mean_by_hand():
    model, params = build("plain")
    table = params["embed"]["embedding"]
    found = run(model, params)
    close(found.hidden[0, 0], (table[3] + 2 * table[1] + table[4] + table[5]) / 5)
    close(found.hidden[1, 0], (table[9] + table[2] + table[6]) / 3)
    close(found.hidden[2, 0], table[7])
    head = params["classifier"]
    close(found.logits()[:, 0], found.hidden[:, 0] @ head["kernel"] + head["bias"][None])


def test_a_mean_by_attention_by_hand():
    """A softmax of the scores of a text's own words and pairs; large ones overflow nothing."""
    model, params = build("attention")
    pairs = np.asarray(12 + hashed(TOKENS, 2, 7))
    for more in (0.0, 500.0):
        scores = params["scores"]["embedding"].at[9].add(more)
        found = run(model, {**params, "scores": {"embedding": scores}})
        for row, size in ((0, 5), (1, 3), (2, 1)):
            ids = jnp.array([*np.asarray(TOKENS)[row, :size], *pairs[row, : size - 1]])
            weights = jax.nn.softmax(scores[ids, 0])
            close(found.hidden[row, 0], weights @ params["embed"]["embedding"][ids])


def test_attention_begins_as_the_mean():
    model = BagOfEmbeddings(FORMS["attention"])
    params = nn.unbox(quick(model.init)(jax.random.key(0), TOKENS, REAL))["params"]
    plain = BagOfEmbeddings(dataclasses.replace(FORMS["attention"], pooling="mean"))
    same = {name: part for name, part in params.items() if name != "scores"}
    close(run(model, params).hidden, run(plain, same).hidden)


def test_n_grams_by_their_exact_hashes():
    """fastText's recurrence, in Python's whole numbers."""

    def bucket(*ids, size):
        total = ids[0] + 1
        for one in ids[1:]:
            total = (total * 116_049_371 + one + 1) % 2**32
        return total % size

    assert bucket(3, 1, size=1000) == (4 * 116_049_371 + 2) % 1000 == 486
    np.testing.assert_array_equal(hashed(jnp.array([[3, 1]]), 2, 1000), [[486]])
    for size in (2, 3):
        rows = [[bucket(*row[n : n + size], size=7) for n in range(5 - size + 1)] for row in
                TOKENS.tolist()]  # fmt: skip
        np.testing.assert_array_equal(hashed(TOKENS, size, 7), rows)
    assert bucket(49_999, 49_998, 49_997, size=100_000) == int(
        hashed(jnp.array([[49_999, 49_998, 49_997]]), 3, 100_000)[0, 0]
    )
    model, params = build("trigrams")
    table = params["embed"]["embedding"]
    rows = [9, 2, 6, 12 + bucket(9, 2, size=7), 12 + bucket(2, 6, size=7)]
    rows += [12 + bucket(9, 2, 6, size=7)]
    close(run(model, params).hidden[1, 0], table[jnp.array(rows)].mean(0))


def test_n_grams_end_with_their_text():
    ids = jnp.array([[1, 1, 2, 2, 2, 0]])
    np.testing.assert_array_equal(whole(ids, 1), [[1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(whole(ids, 2), [[1, 0, 1, 1, 0]])
    np.testing.assert_array_equal(whole(ids, 3), [[0, 0, 1, 0]])


@pytest.mark.parametrize("name", FORMS)
def test_filling_changes_nothing(name):
    model, params = build(name)
    found = run(model, params).logits()
    close(found, run(model, params, jnp.where(REAL > 0, TOKENS, 8)).logits())
    for row, size in ((0, 5), (1, 3), (2, 1)):
        alone = run(model, params, TOKENS[row : row + 1, :size], None).logits()
        close(found[row], alone[0])
    empty = run(model, params, TOKENS, jnp.zeros_like(REAL)).logits()  # rows that fill up a batch
    assert np.isfinite(empty).all()


def test_only_n_grams_know_the_order():
    turned = TOKENS[:1, ::-1]
    for name, differs in (
        ("plain", False),
        ("deep", False),
        ("trigrams", True),
        ("attention", True),
    ):
        model, params = build(name)
        before = run(model, params, TOKENS[:1], None).logits()
        after = run(model, params, turned, None).logits()
        assert (float(jnp.abs(before - after).max()) > 1e-4) == differs


def test_words_are_left_out_of_the_mean_in_training():
    """Whole words, and those that are left count as all: a mean of equal vectors stays what it is, or is nothing."""
    model = BagOfEmbeddings(dataclasses.replace(PLAIN, word_dropout=0.5))
    _, params = build("plain")
    same = jnp.full((64, 3), 3)

    @quick
    def train(seed, tokens):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, train=True, rngs=rngs).hidden[:, 0]

    table = params["embed"]["embedding"]
    found = train(0, same)
    gone = np.asarray(jnp.all(found == 0, axis=1))
    close(found[~gone], jnp.broadcast_to(table[3][None], found[~gone].shape))
    assert 1 <= gone.sum() <= 20  # an eighth of 64
    assert np.abs(train(0, TOKENS) - train(1, TOKENS)).max() > 1e-2


@pytest.mark.parametrize("name", FORMS)
def test_two_texts_are_learned_by_heart(name):
    model = BagOfEmbeddings(FORMS[name])
    tx = optax.adam(5e-2)

    @jax.jit
    def learn(params):
        def step(state, _):
            def loss(p):
                output = model.apply({"params": p}, TOKENS[:2], REAL[:2])
                return output.token_nll(jnp.array([[0], [2]])).mean()

            params, opt_state = state
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=100)[1]

    losses = learn(nn.unbox(quick(model.init)(jax.random.key(0), TOKENS))["params"])
    assert losses[0] > 0.5 and losses[-1] < 0.05


def test_flops_are_of_vectors_and_of_weights_once_a_text():
    model, params = build("trigrams")
    assert model.flops_per_token(params, 10) == pytest.approx(6 * (3 * 4 + (4 * 3 + 3) / 10))
    model, params = build("attention")
    assert model.flops_per_token(params, 10) == pytest.approx(6 * (2 * 5 + (4 * 3 + 3) / 10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ngrams": 2}, "model.ngrams=2 with model.ngram_buckets=0: n-grams .* need buckets"),
        ({"ngram_buckets": 5}, "model.ngrams=1 with model.ngram_buckets=5: .* one token alone"),
        ({"ngrams": 0}, "model.ngrams=0 must be at least 1"),
        ({"word_dropout": 1.0}, r"model.word_dropout=1.0 must be in \[0, 1\)"),
        ({"pooling": "max"}, "model.pooling='max': accepted are mean, attention"),
        ({"d_ff": 0}, "model.d_ff=0 must be at least 1"),
        ({"dtype": "float16"}, "model.dtype='float16': accepted are auto, float32, bfloat16"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **change)
