"""LSTMs and GRUs with attention: what every model must hold, and what is a decoder's that stands behind a source."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.decode.beam import Beam
from jaxlm.decode.cache import take_rows
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request
from jaxlm.models.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig
from jaxlm.objectives.seq2seq import Config, Seq2Seq
from jaxlm.train import assembly

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PLAIN = RNNSeq2SeqConfig(
    vocab_size=40, vocab_multiple=1, num_layers=2, d_model=8, d_hidden=12, dropout=0.5
)
ADDITIVE = dataclasses.replace(PLAIN, align_width=5)
FORMS = {
    "additive": ADDITIVE,
    "dot": dataclasses.replace(PLAIN, alignment="dot", cell="gru", num_layers=1),
    "general": dataclasses.replace(
        PLAIN,
        alignment="general",
        bidirectional=False,
        share_embeddings=False,
        tie_embeddings=False,
    ),
    "feeding": dataclasses.replace(
        PLAIN, alignment="general", num_layers=1, input_feeding=True, d_hidden=None
    ),
}
SOURCE, TARGET = 7, 5
REAL = jnp.array([[1] * 7, [1] * 4 + [0] * 3])


@functools.cache
def build(name):
    """A model whose every parameter has its own noise, and two pairs, all of whose tokens differ."""
    model = RNNSeq2Seq(FORMS[name])
    ids = np.random.default_rng(0).permutation(40).astype(np.int32)
    source, tokens = ids[:14].reshape(2, 7), ids[14:24].reshape(2, 5)
    params = nn.unbox(quick(model.init)(jax.random.key(0), tokens, source))["params"]
    draw = np.random.default_rng(1).normal
    params = jax.tree.map(lambda p: p + 0.3 * draw(size=p.shape).astype(np.float32), params)
    return model, params, tokens, source


@functools.partial(quick, static_argnums=0, static_argnames="shown")
def run(model, params, tokens, source, real=REAL, shown=()):
    output = model.apply({"params": params}, tokens, source, real, shown=shown)
    return output.logits(), output.aux


@functools.cache
def logits(name):
    return np.asarray(run(*build(name))[0])


def close(left, right, atol=1e-5):
    np.testing.assert_allclose(left, right, rtol=0, atol=atol)


def expected_size(cfg):
    """Every matrix and vector by its sides."""
    width, inner, rows = cfg.d_model, cfg.hidden_width, 40
    products, parts = {"lstm": (4, 4), "gru": (3, 4)}[cfg.cell]

    def layer(read, own):
        return products * own * (read + own) + parts * own

    ways = 2 if cfg.bidirectional else 1
    reads = [width] + [inner] * (cfg.num_layers - 1)
    encoder = sum(ways * layer(read, inner // ways) for read in reads)
    reads[0] += width if cfg.input_feeding else 0
    decoder = sum(layer(read, inner) for read in reads)
    narrow = cfg.align_width or inner
    score = {"additive": 2 * inner * narrow + narrow, "general": inner * inner, "dot": 0}
    tables = 1 + (not cfg.share_embeddings) + (not cfg.tie_embeddings)
    return tables * rows * width + encoder + decoder + score[cfg.alignment] + 2 * inner * width


@pytest.mark.parametrize("name", FORMS)
def test_shapes_dtypes_and_size(name):
    model, params, tokens, source = build(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected_size(model.config)
    found = logits(name)
    assert found.shape == (2, TARGET, 40) and found.dtype == np.float32 and np.isfinite(found).all()
    boxed = jax.eval_shape(model.init, jax.random.key(0), tokens, source)["params"]
    names = [box.names for box in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names"))]
    assert len(names) == len(jax.tree.leaves(params))  # all have logical axes


@pytest.mark.parametrize("name", ["additive", "feeding"])
def test_jit_equals_no_jit(name):
    model, params, tokens, source = build(name)
    close(model.apply({"params": params}, tokens, source, REAL).logits(), logits(name))


@pytest.mark.parametrize("name", FORMS)
def test_a_token_sees_those_before_it_and_the_whole_source(name):
    model, params, tokens, source = build(name)
    changed = tokens.copy()
    changed[:, 3] = 39 - changed[:, 3]
    found = run(model, params, changed, source)[0]
    close(found[:, :3], logits(name)[:, :3])
    assert np.abs(found - logits(name))[:, 3:].max(axis=(0, 2)).min() > 1e-4
    for place in (0, 3):
        other = source.copy()
        other[:, place] = 39 - other[:, place]
        moved = np.abs(run(model, params, tokens, other)[0] - logits(name))
        assert moved.max(axis=2).min() > 1e-6  # every token of both rows


@pytest.mark.parametrize("name", FORMS)
def test_filling_of_the_source_changes_nothing(name):
    model, params, tokens, source = build(name)
    other = np.where(REAL > 0, source, 5)
    close(run(model, params, tokens, other)[0], logits(name))
    alone = run(model, params, tokens[1:], source[1:, :4], jnp.ones((1, 4), jnp.int32))[0]
    close(alone[0], logits(name)[1])


@pytest.mark.parametrize("name", FORMS)
def test_the_alignment_is_shown(name):
    """As many weights as source tokens, that sum to 1, none on filling; asking changes no score."""
    model, params, tokens, source = build(name)
    found, aux = run(model, params, tokens, source, shown=("cross_attention",))
    close(found, logits(name))
    weights = aux["decoder/cross_attention"]
    assert weights.shape == (1, 2, 1, TARGET, SOURCE) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(weights[0, 1, 0, :, 4:], 0)
    assert weights[0, 0].min() > 0 and float(weights.max() - weights[0, 0].min()) > 0.05
    with pytest.raises(ValueError, match=r"shown=\['states'\]: accepted are cross_attention"):
        model.apply({"params": params}, tokens, source, shown=("states",))


@pytest.mark.parametrize("name", FORMS)
def test_ragged_blocks_score_as_the_whole_target_and_filling_leaves_no_trace(name):
    model, params, tokens, source = build(name)
    extend = quick(model.extend)
    cache = others = model.init_cache(params, 2, 0, source, REAL)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {2}
    starts = np.zeros(2, int)
    for counts in ([3, 0], [0, 3], [1, 1], [1, 1]):
        block, other = np.full((2, 3), 39, np.int32), np.full((2, 3), 3, np.int32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            block[row, :count] = other[row, :count] = tokens[row, start : start + count]
        output, cache = extend(params, cache, block, jnp.asarray(counts))
        _, others = extend(params, others, other, jnp.asarray(counts))
        jax.tree.map(np.testing.assert_array_equal, cache, others)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            close(output.logits()[row, :count], logits(name)[row, start : start + count])
        starts += counts
    swapped = take_rows(model.init_cache(params, 2, 0, source, REAL), jnp.array([1, 0]))
    output, _ = extend(params, swapped, tokens[::-1, :3], jnp.array([3, 3]))
    close(output.logits(), logits(name)[::-1, :3])


@pytest.mark.parametrize(
    ("name", "method"),
    [("additive", Sampling(temperature=0.0)), ("feeding", Beam(num_beams=1))],
    ids=["sampling", "beam"],
)
def test_the_likeliest_tokens_are_written(name, method):
    """As scored without a cache, of rows with sources of 7 and 4 tokens."""
    model, params, _, source = build(name)
    given = {"source": source, "source_segment_ids": np.asarray(REAL)}
    found = method.write(model, params, Request([[0]] * 2, TARGET, 6, inputs=given))
    texts = np.array([[0, *best.tokens] for (best,) in found])
    scores = run(model, params, texts[:, :TARGET].astype(np.int32), source)[0]
    np.testing.assert_array_equal(texts[:, 1:], scores.argmax(-1))
    assert texts[0].tolist() != texts[1].tolist()


def test_beam_search_finds_no_worse_texts_than_greedy_ones():
    model, params, _, source = build("general")
    given = {"source": source, "source_segment_ids": np.asarray(REAL)}
    request = Request([[0]] * 2, TARGET, 6, inputs=given)
    (greedy, beam) = (m.write(model, params, request) for m in (Beam(num_beams=1), Beam()))
    for (one,), (best,) in zip(greedy, beam, strict=True):
        text = jnp.asarray([[0, *best.tokens[:-1]]] * 2)
        scores = jax.nn.log_softmax(run(model, params, text, source)[0])
        row = greedy.index([one])
        total = sum(float(scores[row, n, token]) for n, token in enumerate(best.tokens))
        np.testing.assert_allclose(best.score, total / TARGET, atol=1e-5)
        assert best.score >= one.score - 1e-6


def test_two_pairs_are_learned_by_heart():
    """Both rows decode from the same first token, so only the source tells them apart."""
    model = RNNSeq2Seq(dataclasses.replace(ADDITIVE, d_model=16, d_hidden=24, num_layers=1))
    _, _, tokens, source = build("additive")
    shifted = np.concatenate([np.zeros((2, 1), np.int32), tokens[:, :-1]], axis=1)
    tx = optax.adam(1e-2)

    @jax.jit
    def learn(params):
        def step(state, _):
            def loss(p):
                return model.apply({"params": p}, shifted, source).token_nll(tokens).mean()

            params, opt_state = state
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=200)[1]

    start = nn.unbox(quick(model.init)(jax.random.key(0), tokens, source))["params"]
    losses = learn(start)
    assert losses[0] > 3 and losses[-1] < 0.1


def test_dropout_is_of_training_only_and_follows_its_key():
    model, params, tokens, source = build("feeding")

    @quick
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, source, train=True, rngs=rngs).logits()

    np.testing.assert_array_equal(train(0), train(0))
    assert np.abs(train(0) - train(1)).max() > 1e-2


def test_bfloat16_keeps_states_in_float32():
    _, params, tokens, source = build("additive")
    model = RNNSeq2Seq(dataclasses.replace(ADDITIVE, dtype="bfloat16"))
    output = quick(lambda p: model.apply({"params": p}, tokens, source, REAL))(params)
    assert output.hidden.dtype == jnp.bfloat16
    close(output.logits(), logits("additive"), atol=0.3)
    cache = model.init_cache(params, 2, 0, source)
    assert {leaf.dtype for leaf in jax.tree.leaves(cache.carry)} == {jnp.dtype("float32")}


def test_packed_pairs_are_refused_as_any_entry_that_nothing_reads():
    model, _, tokens, source = build("additive")
    objective = Seq2Seq(Config(), model)
    batch = {"tokens": tokens, "source": source, "targets": tokens, "weights": np.ones((2, 5))}
    assembly.check_keys(batch | {"source_segment_ids": REAL}, model, objective)
    with pytest.raises(ValueError, match="segment_ids"):
        assembly.check_keys(batch | {"segment_ids": np.ones_like(tokens)}, model, objective)


def test_source_and_cache_are_one_or_the_other():
    model, params, tokens, source = build("additive")
    cache = model.init_cache(params, 2, 0, source)
    for given in ({}, {"source": source, "cache": cache}):
        with pytest.raises(ValueError, match="give either source or cache"):
            model.apply({"params": params}, tokens, **given)


def test_flops_count_each_side_with_its_own_layers():
    model, params, _, _ = build("additive")
    size = {
        name: sum(x.size for x in jax.tree.leaves(params[name])) for name in ("encoder", "decoder")
    }
    keys = 12 * 5  # made once a source token
    products = 30 * (size["encoder"] + keys) + 20 * (size["decoder"] - keys + 40 * 8)
    expected = 6 * (products + (5 + 12) * 20 * 30) / 50
    assert model.flops_per_token(params, 20, 30) == pytest.approx(expected)
    assert model.attention_choice() == ("additive alignment", 'model.alignment="additive"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alignment": "location"}, "model.alignment='location': accepted are additive, dot, gen"),
        ({"decoder_start_id": -1}, "model.decoder_start_id=-1 must be at least 0"),
        (
            {"alignment": "dot", "align_width": 4},
            'model.align_width=4: model.alignment="dot" compares',
        ),
        ({"cell": "mamba"}, "model.cell='mamba': accepted are rnn, gru, lstm"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **change)
