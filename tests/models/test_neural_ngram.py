"""The neural probabilistic language model: its equation by hand, and what every model must hold."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.models.neural_ngram import NeuralNGram, NPLMConfig

SMALL = NPLMConfig(vocab_size=30, vocab_multiple=8, order=4, d_model=5, d_hidden=11)
FORMS = {"direct": SMALL, "layer only": dataclasses.replace(SMALL, direct=False),
         "bigram": dataclasses.replace(SMALL, order=2)}  # fmt: skip


@functools.cache
def build(name):
    model = NeuralNGram(FORMS[name])
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, 30)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), tokens))["params"]
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda x: x + 0.3 * draw(size=x.shape).astype(np.float32), params)
    logits = jax.jit(lambda p: model.apply({"params": p}, tokens).logits())(params)
    return model, params, tokens, np.asarray(logits)


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_the_papers_equation(name):
    model, params, tokens, logits = build(name)
    cfg = model.config
    assert logits.dtype == np.float32
    close(logits, model.apply({"params": params}, tokens).logits())
    table = np.asarray(params["embed"]["embedding"])
    kernel, bias = (np.asarray(params["hidden"][part]) for part in ("kernel", "bias"))
    head, free = np.asarray(params["head"]["kernel"]), np.asarray(params["head_bias"])
    for row, place in ((0, 0), (1, 1), (2, 11)):
        context = [
            int(tokens[row, t]) if t >= 0 else -1 for t in range(place, place - cfg.order + 1, -1)
        ]
        x = np.concatenate([table[one] if one >= 0 else np.zeros(5) for one in context])
        states = np.tanh(x @ kernel + bias)
        expected = states @ head[: cfg.d_hidden] + free
        if cfg.direct:
            expected = expected + x @ head[cfg.d_hidden :]
        close(logits[row, place], expected[:30])


@pytest.mark.parametrize("name", FORMS)
def test_size(name):
    model, params, *_ = build(name)
    n, out = model.config.order - 1, model.config.out_width
    expected = 32 * 5 + n * 5 * 11 + 11 + out * 32 + 32
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    assert model.flops_per_token(params, 12) == 6.0 * (expected - 32 * 5)


def test_a_token_counts_for_the_next_three_only():
    model, params, tokens, logits = build("direct")
    changed = model.apply({"params": params}, tokens.at[:, 4].add(1) % 30).logits()
    differs = np.abs(changed - logits).max(axis=(0, 2)) > 1e-4
    assert differs.tolist() == [False] * 4 + [True] * 3 + [False] * 5


@pytest.mark.parametrize("name", FORMS)
def test_ragged_blocks_score_as_the_whole_text_and_filling_leaves_no_trace(name):
    model, params, tokens, logits = build(name)
    cache, starts = model.init_cache(params, 3, 0), np.zeros(3, int)
    extend = jax.jit(model.extend)
    for counts in ([5, 1, 3], [0, 4, 1], [1, 1, 1], [6, 6, 7]):
        block = np.full((3, 7), 29, np.int32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            block[row, :count] = tokens[row, start : start + count]
        output, cache = extend(params, cache, block, jnp.asarray(counts))
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            close(output.logits()[row, :count], logits[row, start : start + count])
        starts += counts
    assert cache.tolist() == (tokens[:, 12 - cache.shape[1] :] + 1).tolist()


def test_segments_are_rows_of_their_own_and_carried_batches_one_text():
    model, params, tokens, logits = build("direct")
    segments = jnp.array([[1] * 4 + [2] * 5 + [3] + [0] * 2, [1] * 12, [4] + [2] * 8 + [0] * 3])
    found = model.apply({"params": params}, tokens, segments).logits()
    close(found[1], logits[1])
    for row, start, stop in ((0, 4, 9), (0, 9, 10), (2, 1, 9)):
        alone = model.apply({"params": params}, tokens[row : row + 1, start:stop]).logits()
        close(found[row, start:stop], alone[0])
    carry = model.init_cache(params, 3, 0) + 7  # of a text before
    for number in range(3):
        part = tokens[:, 4 * number : 4 * number + 4]
        continues = jnp.full(3, float(number > 0))
        output, carry = model.apply({"params": params}, part, None, continues, carry=carry)
        close(output.logits(), logits[:, 4 * number : 4 * number + 4])
    with pytest.raises(ValueError, match="continues without carry"):
        model.apply({"params": params}, tokens, None, jnp.ones(3))


def test_two_sequences_are_learned_by_heart():
    model, _, tokens, _ = build("direct")
    tokens, tx = tokens[:2], optax.adam(3e-2)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), tokens))["params"]

    @jax.jit
    def step(params, opt_state):
        def loss(p):
            return model.apply({"params": p}, tokens[:, :-1]).token_nll(tokens[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state = tx.init(params)
    for _ in range(60):
        params, opt_state, value = step(params, opt_state)
    assert value < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 1}, "model.order=1 must be at least 2"),
        ({"dropout": 1.0}, r"model.dropout=1.0 must be in \[0, 1\)"),
        ({"dtype": "int8"}, "model.dtype='int8': accepted are auto, float32, bfloat16"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
