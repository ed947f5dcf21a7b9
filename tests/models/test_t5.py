"""T5 1.0 and 1.1: what every model must hold (docs/architecture.md, section 5), for two stacks."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.layers.positions import relative_buckets
from jaxlm.models.t5 import T5, T5Config

OLD = T5Config(  # 1.0; heads wider than d_model / num_heads, stacks of different depth
    vocab_size=50,
    num_layers=1,
    num_decoder_layers=2,
    d_model=24,
    num_heads=3,
    head_dim=10,
    d_ff=40,
    dropout=0.5,  # must not show outside training
    relative_buckets=8,
    relative_max_distance=12,
)
NEW = dataclasses.replace(OLD, mlp="geglu", tie_embeddings=False, num_decoder_layers=None)
SHAPES = {"1.0": OLD, "1.1": NEW}
SOURCE, TARGET = 13, 9


@functools.cache
def build(config):
    model = T5(config)
    source, tokens = (
        jax.random.randint(part, (2, length), 0, config.vocab_size)
        for part, length in zip(jax.random.split(jax.random.key(0)), (SOURCE, TARGET), strict=True)
    )
    params = nn.unbox(jax.jit(model.init)(jax.random.key(1), tokens, source))["params"]
    return model, params, tokens, source


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, tokens, source, **segments):
    return model.apply({"params": params}, tokens, source, **segments)


def logits(*args, **segments):
    return run(*args, **segments).logits()


def ids(*parts):
    """Segment ids of two equal rows: (id, how often), ..."""
    row = [number for number, times in parts for _ in range(times)]
    return jnp.array([row, row], jnp.int32)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_and_dtypes(name):
    model, params, tokens, source = build(SHAPES[name])
    found = logits(model, params, tokens, source)
    assert found.shape == (2, TARGET, 50) and found.dtype == jnp.float32
    assert bool(jnp.isfinite(found).all())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.slow  # hundreds of operations, compiled one by one
def test_jit_equals_no_jit():
    model, params, tokens, source = build(OLD)
    plain = model.apply({"params": params}, tokens, source).logits()
    np.testing.assert_allclose(plain, logits(model, params, tokens, source), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_finite_and_keeps_float32_parameters_and_logits():
    model = T5(dataclasses.replace(NEW, dtype="bfloat16"))
    _, params, tokens, source = build(NEW)
    output = run(model, params, tokens, source)
    assert output.hidden.dtype == jnp.bfloat16 and output.logits().dtype == jnp.float32
    assert bool(jnp.isfinite(output.logits()).all())
    exact = logits(T5(NEW), params, tokens, source)
    assert float(jnp.abs(output.logits() - exact).max()) < 0.1 * float(jnp.abs(exact).max())


def shapes(config):
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return nn.unbox(jax.eval_shape(T5(config).init, jax.random.key(0), row, row))["params"]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_small_ones_have_their_published_number_of_parameters():
    small = T5Config(vocab_size=32128)
    assert count(shapes(small)) == 60_506_624  # t5-small
    small = dataclasses.replace(
        small, num_layers=8, num_heads=6, head_dim=64, d_ff=1024, mlp="geglu", tie_embeddings=False
    )
    assert count(shapes(small)) == 76_961_152  # t5-v1_1-small


def test_parameter_count_in_closed_form():
    d, f, v, inner, layers, deeper = 24, 40, 128, 30, 1, 2
    attention, mlp, tables = 4 * d * inner, 2 * d * f, 2 * 8 * 3
    encoder, decoder = attention + mlp + 2 * d, 2 * attention + mlp + 3 * d
    assert count(shapes(OLD)) == v * d + layers * encoder + deeper * decoder + tables + 2 * d
    encoder, decoder = encoder + d * f, decoder + d * f
    assert count(shapes(NEW)) == 2 * v * d + layers * (encoder + decoder) + tables + 2 * d


def test_a_tied_head_sees_states_scaled_to_its_embeddings():
    """1.0 scales the decoder's states by d_model**-0.5; 1.1, whose head is its own, does not."""
    for config, size in ((OLD, 24**-0.5), (NEW, 1.0)):
        model, params, tokens, source = build(config)
        hidden = run(model, params, tokens, source).hidden
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(hidden**2, -1)), size, rtol=1e-3)


@pytest.mark.parametrize("name", SHAPES)
def test_the_decoder_is_causal_and_the_encoder_is_not(name):
    model, params, tokens, source = build(SHAPES[name])
    before = logits(model, params, tokens, source)
    after = logits(model, params, tokens.at[:, 5].set((tokens[:, 5] + 1) % 50), source)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert float(jnp.abs(before[:, 5] - after[:, 5]).max()) > 1e-3
    after = logits(model, params, tokens, source.at[:, -1].set((source[:, -1] + 1) % 50))
    assert float(jnp.abs(before - after).max(-1).min()) > 1e-6


def test_padding_on_either_side_changes_nothing():
    model, params, tokens, source = build(OLD)
    short = logits(model, params, tokens[:, :4], source[:, :6])
    both = {"segment_ids": ids((1, 4), (0, 5)), "source_segment_ids": ids((1, 6), (0, 7))}
    padded = logits(model, params, tokens, source, **both)
    np.testing.assert_allclose(short, padded[:, :4], atol=1e-5)
    assert bool(jnp.isfinite(padded).all())
    # Without ids for the targets, they are one segment, that sees the source's first.
    source_only = logits(model, params, tokens, source, source_segment_ids=ids((1, 6), (0, 7)))
    np.testing.assert_allclose(short, source_only[:, :4], atol=1e-5)


def test_packed_pairs_score_as_they_do_alone():
    """With the positions that packed data give: only distances in a row count, the same wherever a segment begins."""
    model, params, tokens, source = build(OLD)
    both = {
        "segment_ids": ids((1, 4), (2, 4), (0, 1)),
        "source_segment_ids": ids((1, 6), (2, 6), (0, 1)),
        "positions": jnp.array(2 * [[*range(4), *range(4), 0]], jnp.int32),
        "source_positions": jnp.array(2 * [[*range(6), *range(6), 0]], jnp.int32),
    }
    packed = logits(model, params, tokens, source, **both)
    first = logits(model, params, tokens[:, :4], source[:, :6])
    second = logits(model, params, tokens[:, 4:8], source[:, 6:12])
    np.testing.assert_allclose(packed[:, :4], first, atol=1e-5)
    np.testing.assert_allclose(packed[:, 4:8], second, atol=1e-5)


def loss_and_grads(config, params, tokens, source):
    def loss(params):
        out = T5(config).apply({"params": params}, tokens, source, train=True)
        return out.token_nll(jnp.roll(tokens, -1, axis=1)).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def stack_layers(params: dict) -> dict:
    """Parameters of an unrolled stack in the layout of a scanned one."""
    blocks = [value for name, value in sorted(params.items()) if name.startswith("block_")]
    rest = {name: value for name, value in params.items() if not name.startswith("block_")}
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def scanned(tree: dict) -> dict:
    return tree | {name: stack_layers(tree[name]) for name in ("encoder", "decoder")}


def test_scanned_and_rematerialised_layers_equal_unrolled_ones():
    _, params, tokens, source = build(OLD)
    plain = dataclasses.replace(OLD, dropout=0.0)
    loss, grads = loss_and_grads(plain, params, tokens, source)
    for name in ("encoder", "decoder"):
        assert float(jnp.abs(grads[name]["relative_bias"]["embedding"]).max()) > 1e-6
    config = dataclasses.replace(plain, scan_layers=True, remat="block")
    other, other_grads = loss_and_grads(config, scanned(params), tokens, source)
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        scanned(grads),
        other_grads,
    )


def test_buckets_by_hand():
    """Half of a side's buckets hold one distance each, then they grow by sqrt(2) (encoder, 8 to 128)."""
    distance = jnp.array([-200, -91, -90, -64, -16, -15, -8, -7, -1, 0, 1, 8, 128])
    both = [15, 15, 14, 14, 10, 9, 8, 7, 1, 0, 16 + 1, 16 + 8, 16 + 15]
    assert relative_buckets(distance, 32, 128, bidirectional=True).tolist() == both
    # The decoder has them all for what lies behind; growth by 8 ** (1 / 16), so that 16, 17, 18 share one.
    distance = jnp.array([-500, -128, -19, -18, -16, -15, -1, 0, 3])
    behind = [31, 31, 17, 16, 16, 15, 1, 0, 0]
    assert relative_buckets(distance, 32, 128, bidirectional=False).tolist() == behind


def test_dropout_follows_its_key():
    model, params, tokens, source = build(OLD)

    @jax.jit
    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, tokens, source, train=True, rngs=rngs).logits()

    np.testing.assert_array_equal(train(0), train(0))
    assert float(jnp.abs(train(0) - train(1)).max()) > 1e-2


def test_two_pairs_are_learned_by_heart():
    """Both rows decode from the same first token, so only the source tells them apart."""
    model, params, tokens, source = build(NEW)
    inputs = jnp.concatenate([jnp.zeros((2, 1), jnp.int32), tokens[:, :-1]], axis=1)
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            return model.apply({"params": params}, inputs, source).token_nll(tokens).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state = tx.init(params)
    for _ in range(60):
        params, opt_state, value = step(params, opt_state)
    assert float(value) < 0.05


def test_flops_count_each_side_with_its_own_stack():
    params = shapes(OLD)
    d, f, inner, layers, deeper, source, target = 24, 40, 30, 1, 2, 100, 20
    encoder = layers * (4 * d * inner + 2 * d * f + 2 * d) + 8 * 3 + d
    cross = deeper * 2 * d * inner  # keys and values of the source, once a source token
    decoder = deeper * (8 * d * inner + 2 * d * f + 3 * d) + 8 * 3 + d - cross
    head = 128 * d
    products = source * (encoder + cross) + target * (decoder + head)
    pairs = layers * source**2 + deeper * (target**2 + target * source)
    expected = (6 * products + 12 * inner * pairs) / (source + target)
    assert T5(OLD).flops_per_token(params, target, source) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp": "gelu"}, "model.mlp='gelu': accepted are relu, geglu"),
        ({"num_decoder_layers": 0}, "model.num_decoder_layers=0 must be at least 1"),
        (
            {"num_experts": 2, "moe_every": 2, "num_layers": 2, "num_decoder_layers": 1},
            "model.moe_every=2 must be at most model.num_decoder_layers=1",
        ),
        ({"num_layers": 0}, "model.num_layers=0 must be at least 1"),
        ({"relative_buckets": 3}, "model.relative_buckets=3 must be at least 4"),
        ({"relative_max_distance": 4}, "model.relative_max_distance=4 must be more than"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"remat": "full"}, "accepted are none, dots, block"),
        ({"decoder_start_id": -1}, "model.decoder_start_id=-1"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(OLD, **change)
