"""The Transformer of 2017: what every model must hold (docs/architecture.md, section 5), for two of its forms."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.decode.beam import Beam
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request
from jaxlm.layers import two_stacks
from jaxlm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig

PAPER = (
    EncoderDecoderConfig(  # stacks of different depth; heads that are not d_model / num_heads wide
        vocab_size=50,
        vocab_multiple=1,
        num_layers=1,
        num_decoder_layers=2,
        d_model=16,
        num_heads=2,
        head_dim=6,
        d_ff=32,
        max_len=16,
        dropout=0.5,  # must not show outside training
    )
)
OTHER = dataclasses.replace(
    PAPER,
    post_norm=False,
    positions="learned",
    share_embeddings=False,
    tie_embeddings=False,
    cross_attention="additive",
)
FORMS = {"paper": PAPER, "other": OTHER}
SOURCE, TARGET = 13, 9
QUICK = {"xla_backend_optimization_level": 0}  # compiled sooner
jit = functools.partial(jax.jit, compiler_options=QUICK)


@functools.cache
def build(config):
    model = EncoderDecoder(config)
    draw = np.random.default_rng(0)
    # All ids differ, so that a row of a table is one place.
    ids = draw.permutation(config.vocab_size).astype(np.int32)[: 2 * (SOURCE + TARGET)]
    source, tokens = ids[: 2 * SOURCE].reshape(2, -1), ids[2 * SOURCE :].reshape(2, -1)
    params = nn.unbox(jit(model.init)(jax.random.key(1), tokens, source))["params"]
    return model, params, tokens, source


@functools.partial(jit, static_argnums=0)
def run(model, params, tokens, source, **inputs):
    return model.apply({"params": params}, tokens, source, **inputs)


def logits(*args, **inputs):
    return run(*args, **inputs).logits()


def packed(*lengths, width):
    """Segment ids and positions of a row that holds so many tokens of segments 1, 2, ..., then filling."""
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    rows = np.zeros((2, width), np.int32)
    rows[:, : len(ids)] = ids, places
    return rows


def inputs(targets, sources):
    """Of two rows, each by the lengths of its segments."""
    rows = [packed(*lengths, width=TARGET) for lengths in targets]
    others = [packed(*lengths, width=SOURCE) for lengths in sources]
    names = ("segment_ids", "positions"), ("source_segment_ids", "source_positions")
    return {
        name: np.stack([row[part] for row in side])
        for side, pair in zip((rows, others), names, strict=True)
        for part, name in enumerate(pair)
    }


@pytest.mark.parametrize("name", FORMS)
def test_shapes_and_dtypes(name):
    model, params, tokens, source = build(FORMS[name])
    found = logits(model, params, tokens, source)
    assert found.shape == (2, TARGET, 50) and found.dtype == jnp.float32
    assert bool(jnp.isfinite(found).all())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.slow  # hundreds of operations, compiled one by one
@pytest.mark.parametrize("name", FORMS)
def test_jit_equals_no_jit(name):
    model, params, tokens, source = build(FORMS[name])
    plain = model.apply({"params": params}, tokens, source).logits()
    np.testing.assert_allclose(plain, logits(model, params, tokens, source), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_bfloat16_is_finite_and_keeps_float32_parameters_and_logits(name):
    _, params, tokens, source = build(FORMS[name])
    model = EncoderDecoder(dataclasses.replace(FORMS[name], dtype="bfloat16"))
    output = run(model, params, tokens, source)
    assert output.hidden.dtype == jnp.bfloat16 and output.logits().dtype == jnp.float32
    exact = logits(build(FORMS[name])[0], params, tokens, source)
    assert float(jnp.abs(output.logits() - exact).max()) < 0.1 * float(jnp.abs(exact).max())
    made = model.init_cache(params, 2, 8, source)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made)} == {"bfloat16", "int32"}


def shapes(config):
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return nn.unbox(jax.eval_shape(EncoderDecoder(config).init, jax.random.key(0), row, row))[
        "params"
    ]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_parameter_count_in_closed_form():
    d, f, v, inner, layers, deeper, places = 16, 32, 50, 12, 1, 2, 16
    norm, mlp = 2 * d, 2 * d * f + d + f
    attention = 4 * d * inner + 3 * inner + d
    encoder, decoder = attention + mlp + 2 * norm, 2 * attention + mlp + 3 * norm
    assert count(shapes(PAPER)) == v * d + layers * encoder + deeper * decoder
    # Additive: weights of each head for a bias of keys. A norm behind each stack, two tables of positions, three of tokens.
    assert count(shapes(OTHER)) == 3 * v * d + 2 * places * d + 2 * norm + (
        layers * encoder + deeper * decoder
    )


def test_the_base_model_has_as_many_parameters_as_torchs():
    """torch.nn.Transformer() has 44,140,544 without embeddings, 2,048 of them in the norms behind its post-norm stacks."""
    base = EncoderDecoderConfig(vocab_size=37_000)  # of the paper's English-German pairs
    assert count(shapes(base)) == 44_140_544 - 2_048 + 37_120 * 512  # rows: a multiple of 128


PACKED = inputs([(4, 5), (9,)], [(6, 5), (13,)])


@functools.cache
def seen(name, place):
    """Ids of source and target tokens that have a gradient from the decoder's state at a place of the first row."""
    model, params, tokens, source = build(FORMS[name])

    def state(params):
        output = model.apply({"params": params}, tokens, source, **PACKED)
        return jnp.sum(output.hidden[0, place] * jnp.linspace(-1.0, 2.0, 16))

    grads = jit(jax.grad(state))(params)
    tables = {table for table in ("embed", "source_embed") if table in grads}
    return {
        int(row)
        for table in tables
        for row in np.flatnonzero(jnp.abs(grads[table]["embedding"]).max(-1) > 0)
    }


@pytest.mark.parametrize("name", ["paper", pytest.param("other", marks=pytest.mark.slow)])
def test_a_token_sees_its_pairs_source_and_the_tokens_before_it(name):
    """By gradient: place 6 of a row with pairs of 4 + 6 and 5 + 5 tokens is the second pair's third one."""
    _, _, tokens, source = build(FORMS[name])
    assert seen(name, 6) == {*tokens[0, 4:7].tolist(), *source[0, 6:11].tolist()}


@pytest.mark.parametrize("name", FORMS)
def test_packed_pairs_score_as_padded_ones_and_as_they_do_alone(name):
    model, params, tokens, source = build(FORMS[name])
    together = logits(model, params, tokens, source, **PACKED)[0]
    assert bool(jnp.isfinite(together).all())
    # The same pairs one a row, filled up with other tokens.
    apart, sources = tokens.copy(), source.copy()
    apart[0], apart[1, :5] = np.roll(tokens[0], 1), tokens[0, 4:]
    apart[0, :4] = tokens[0, :4]
    sources[0, 6:], sources[1, :5] = source[1, 6:], source[0, 6:11]
    padded = logits(model, params, apart, sources, **inputs([(4,), (5,)], [(6,), (5,)]))
    np.testing.assert_allclose(together[:4], padded[0, :4], atol=1e-5)
    np.testing.assert_allclose(together[4:], padded[1, :5], atol=1e-5)
    # Alone, without ids and positions.
    alone = logits(model, params, tokens[:, 4:], source[:, 6:11])
    np.testing.assert_allclose(together[4:], alone[0], atol=1e-5)


def test_positions_count():
    """Unlike in a T5, whose biases are of distances."""
    model, params, tokens, source = build(PAPER)
    before = logits(model, params, tokens, source, **PACKED)
    for name in ("positions", "source_positions"):
        moved = PACKED | {name: PACKED[name] + 1}
        assert float(jnp.abs(logits(model, params, tokens, source, **moved) - before).max()) > 1e-2


def stack_layers(params: dict) -> dict:
    """Parameters of an unrolled stack in the layout of a scanned one."""
    blocks = [value for name, value in sorted(params.items()) if name.startswith("block_")]
    return {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def scanned(tree: dict) -> dict:
    return tree | {name: stack_layers(tree[name]) for name in ("encoder", "decoder")}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_scanned_and_rematerialised_layers_equal_unrolled_ones(name):
    _, params, tokens, source = build(FORMS[name])

    def loss_and_grads(config, params):
        def loss(params):
            out = EncoderDecoder(config).apply({"params": params}, tokens, source, train=True)
            return out.token_nll(jnp.roll(tokens, -1, axis=1)).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    plain = dataclasses.replace(FORMS[name], dropout=0.0)
    loss, grads = loss_and_grads(plain, params)
    config = dataclasses.replace(plain, scan_layers=True, remat="block")
    other, other_grads = loss_and_grads(config, scanned(params))
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        scanned(grads),
        other_grads,
    )


def test_fresh_weights_have_the_size_that_is_written():
    """Embeddings a deviation of d_model ** -0.5; kernels are uniform up to sqrt(6 / (in + out)), queries sqrt(3 / ...)."""
    _, params, _, _ = build(PAPER)
    np.testing.assert_allclose(jnp.std(params["embed"]["embedding"]), 16**-0.5, rtol=0.1)
    block = params["encoder"]["block_0"]
    for kernel, most in (
        (block["mlp"]["in"]["kernel"], (6 / 48) ** 0.5),
        (block["attention"]["out"]["kernel"], (6 / 28) ** 0.5),
        (block["attention"]["q"]["kernel"], (3 / 28) ** 0.5),
        (block["attention"]["v"]["kernel"], (3 / 28) ** 0.5),
    ):
        assert 0.95 * most < float(jnp.abs(kernel).max()) < most


@pytest.mark.slow
def test_dropout_follows_its_key_and_spares_nothing_when_it_is_off():
    model, params, tokens, source = build(PAPER)

    @jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, source, train=True, rngs=rngs).logits()

    np.testing.assert_array_equal(train(0), train(0))
    assert float(jnp.abs(train(0) - train(1)).max()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_two_pairs_are_learned_by_heart(name):
    """Both rows decode from the same first token, so only the source tells them apart."""
    model, params, tokens, source = build(FORMS[name])
    shifted = np.concatenate([np.zeros((2, 1), np.int32), tokens[:, :-1]], axis=1)
    tx = optax.adam(1e-2)

    @jit
    def step(params, opt_state):
        def loss(params):
            return model.apply({"params": params}, shifted, source).token_nll(tokens).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state = jit(tx.init)(params)
    for _ in range(60):
        params, opt_state, value = step(params, opt_state)
    assert float(value) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("method", [Sampling(temperature=0.0), Beam(num_beams=1)])
def test_sampling_and_beam_search_write_the_likeliest_tokens(name, method):
    """Of rows with sources of 13 and 6 tokens, as scored without a cache."""
    model, params, _, source = build(FORMS[name])
    params = jax.tree.map(lambda leaf: 2 * leaf, params)  # else all texts are one token
    real = (np.arange(SOURCE)[None] < np.array([[SOURCE], [6]])).astype(np.int32)
    given = {"source": source, "source_segment_ids": real}
    found = method.write(model, params, Request([[0]] * 2, 8, 9, inputs=given))
    for row, (best,) in enumerate(found):
        text = [0]
        for token in best.tokens:
            padded = np.array([text + [0] * (8 - len(text))] * 2)
            scores = logits(model, params, padded, source, source_segment_ids=real)
            assert token == scores[row, len(text) - 1].argmax()
            text.append(token)
    assert found[0][0].tokens != found[1][0].tokens


def test_flops_count_each_side_with_its_own_stack():
    params = shapes(PAPER)
    d, f, inner, layers, deeper, source, target = 16, 32, 12, 1, 2, 100, 20
    norm, mlp, attention = 2 * d, 2 * d * f + d + f, 4 * d * inner + 3 * inner + d
    cross = deeper * 2 * d * inner  # keys and values of the source, once a source token
    encoder = layers * (attention + mlp + 2 * norm)
    decoder = deeper * (2 * attention + mlp + 3 * norm) - cross
    products = source * (encoder + cross) + target * (decoder + 50 * d)
    pairs = layers * source**2 + deeper * (target**2 + target * source)
    expected = (6 * products + 12 * inner * pairs) / (source + target)
    assert EncoderDecoder(PAPER).flops_per_token(params, target, source) == pytest.approx(expected)


def test_what_reads_the_source_is_named():
    backend, why = EncoderDecoder(PAPER).attention_choice(("segment_ids",))
    assert (backend, why) == ("blockwise", "auto: fastest on cpu")
    backend, why = EncoderDecoder(OTHER).attention_choice()
    assert backend == "encoder blockwise, decoder blockwise, cross additive"
    assert 'model.cross_attention="additive"' in why


def test_reports_of_both_stacks_stand_one_after_the_other():
    encoder = {"load": jnp.array([[1.0, 2.0]]), "shared": jnp.array([1.0])}
    decoder = {"load": jnp.array([[3.0, 4.0], [5.0, 6.0]])}
    both = two_stacks.joined(encoder, decoder)
    np.testing.assert_array_equal(both["load"], [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(both["shared"], [1])


def test_more_tokens_than_learned_positions_are_refused():
    model, params, tokens, source = build(OTHER)
    row, long = (jax.ShapeDtypeStruct((2, length), jnp.int32) for length in (16, 17))
    message = "17 positions are more than the learned ones, model.max_len=16"
    for given in ((row, long), (long, row)):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.apply, {"params": params}, *given)
    jax.eval_shape(model.apply, {"params": params}, row, row)
    with pytest.raises(ValueError, match=message):
        model.init_cache(params, 2, 18, source)  # the last of 17 tokens is written, not read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "rotary"}, "model.positions='rotary': accepted are sinusoidal, learned"),
        ({"cross_attention": "mlp"}, "model.cross_attention='mlp': accepted are dot, additive"),
        ({"num_decoder_layers": 0}, "model.num_decoder_layers=0 must be at least 1"),
        ({"decoder_start_id": -1}, "model.decoder_start_id=-1 must be at least 0"),
        ({"mlp": "tanh"}, "model.mlp='tanh': accepted are"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PAPER, **change)
