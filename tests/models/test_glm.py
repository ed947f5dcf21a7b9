"""GLM: what every model must hold (docs/architecture.md, section 5), and its mask and its two kinds of places by hand."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.transformer import Stack
from jaxlm.models.glm import GLM, GLMConfig, blank_places

LEARNED = GLMConfig(
    vocab_size=50,
    num_layers=2,
    d_model=24,
    num_heads=3,
    d_ff=40,
    max_len=16,
    mask_id=49,
    dropout=0.5,  # must not show outside training
)
ROTARY = dataclasses.replace(LEARNED, positions="rotary")
SHAPES = {"learned": LEARNED, "rotary": ROTARY}
SOURCE, TARGET = 13, 9
QUICK = {"xla_backend_optimization_level": 0}  # compiled sooner


@functools.cache
def build(config):
    """A model, weights of a size that all of them matter, and texts without a [MASK]."""
    model = GLM(config)
    source, tokens = (
        jax.random.randint(part, (2, length), 0, 49)
        for part, length in zip(jax.random.split(jax.random.key(0)), (SOURCE, TARGET), strict=True)
    )
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(
        lambda leaf: 0.2 * draw(size=leaf.shape).astype(np.float32), shapes(config)
    )
    return model, params, tokens, source


def shapes(config):
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return nn.unbox(jax.eval_shape(GLM(config).init, jax.random.key(0), row, row))["params"]


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def run(model, params, tokens, source, **more):
    return model.apply({"params": params}, tokens, source, **more)


def logits(*args, **more):
    return run(*args, **more).logits()


def ids(*rows):
    return jnp.array(rows, jnp.int32)


def test_shapes_and_dtypes():
    model, params, tokens, source = build(LEARNED)
    found = jax.eval_shape(
        lambda *given: model.apply(*given).logits(), {"params": params}, tokens, source
    )
    assert found.shape == (2, TARGET, 50) and found.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(LEARNED))} == {jnp.dtype("float32")}


@pytest.mark.slow  # hundreds of operations, compiled one by one
@pytest.mark.parametrize("name", SHAPES)
def test_jit_equals_no_jit(name):
    model, params, tokens, source = build(SHAPES[name])
    plain = model.apply({"params": params}, tokens, source).logits()
    np.testing.assert_allclose(plain, logits(model, params, tokens, source), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_is_finite_and_keeps_float32_parameters_and_logits():
    _, params, tokens, source = build(ROTARY)
    output = run(GLM(dataclasses.replace(ROTARY, dtype="bfloat16")), params, tokens, source)
    assert output.hidden.dtype == jnp.bfloat16 and output.logits().dtype == jnp.float32
    exact = logits(GLM(ROTARY), params, tokens, source)
    assert float(jnp.abs(output.logits() - exact).max()) < 0.1 * float(jnp.abs(exact).max())


def test_parameter_count_in_closed_form():
    d, f, v, layers, max_len = 24, 40, 128, 2, 16
    block = 4 * d * d + 4 * d + 2 * d * f + d + f + 4 * d  # products, their biases, two norms
    whole = v * d + layers * block + 2 * d
    tables = (max_len + max_len + 1) * d  # block positions begin with the source's 0
    for config, expected in ((LEARNED, whole + tables), (ROTARY, whole)):
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes(config))) == expected


SPANS = {  # figure 2 of the paper: x1 x2 [M] x4 [M], of which [M] x5 x6 comes first, then [M] x3
    "source": ids([1, 2, 49, 4, 49]),
    "tokens": ids([0, 5, 6, 0, 3]),
    "positions": ids([4, 4, 4, 2, 2]),  # theirs count from 1: 5 5 5 3 3
    "block_positions": ids([1, 2, 3, 1, 2]),
}


def given(model, params, **batch):
    """What is looked up in each table, and the sight that the stack is given; the stack itself is passed over."""
    seen = {}

    def spy(call, args, kwargs, context):
        if isinstance(context.module, Stack):
            seen["sight"] = args[1]
            return args[0], None, {}
        if isinstance(context.module, Embedding) and context.method_name == "__call__":
            seen[context.module.name] = args[0].tolist()
        return call(*args, **kwargs)

    with nn.intercept_methods(spy):
        model.apply({"params": params}, **batch)
    return seen


def test_places_of_figure_2_by_hand():
    model, params, *_ = build(LEARNED)
    seen = given(model, params, **SPANS)
    assert seen["embed"] == [[1, 2, 49, 4, 49, 0, 5, 6, 0, 3]]
    assert seen["positions"] == [[0, 1, 2, 3, 4, 4, 4, 4, 2, 2]]
    assert seen["block_positions"] == [[0, 0, 0, 0, 0, 1, 2, 3, 1, 2]]


@functools.partial(jax.jit, compiler_options=QUICK)
def reached(params, x, sight):
    """How much the state of each place depends on each place that the stack is given, [S + T, S + T]."""

    def states(x):
        found, _, _ = Stack(LEARNED, Spec()).apply({"params": params}, x, sight)
        return found[0] @ jax.random.normal(jax.random.key(2), (24,))

    return jnp.abs(jax.jacrev(states)(x)).sum((1, 3))


def visible(**segments):
    """On which places each place depends, through all layers: "01101" a place."""
    model, params, *_ = build(LEARNED)
    sight = given(model, params, **SPANS, **segments)["sight"]
    x = jax.random.normal(jax.random.key(1), (1, 10, 24))
    seen = reached(params["stack"], x, sight) > 1e-9
    return ["".join(str(int(one)) for one in row) for row in seen]


def test_the_mask_of_figure_2_by_gradient():
    """The source sees the source, a token sees the source and what is before it, in whatever blank it is."""
    source, tokens = ["1111100000"] * 5, ["1" * (6 + n) + "0" * (4 - n) for n in range(5)]
    whole = {"segment_ids": ids([1] * 5), "source_segment_ids": ids([1] * 5)}
    assert visible(**whole) == [*source, *tokens]
    filled = {"segment_ids": ids([1, 1, 1, 1, 0]), "source_segment_ids": ids([1, 1, 1, 0, 0])}
    assert visible(**filled) == [
        *["1110000000"] * 3,
        *["0001100000"] * 2,  # filling
        "1110010000",
        "1110011000",
        "1110011100",
        "1110011110",
        "0001100001",  # filling
    ]


def test_without_places_all_tokens_fill_the_first_blank_or_follow_the_end():
    source = ids(
        [5, 6, 49, 7, 49, 9], [5, 6, 7, 8, 9, 49], [49, 1, 2, 3, 0, 0], [1, 2, 3, 49, 0, 0]
    )
    real = ids([1] * 6, [1] * 5 + [0], [1] * 4 + [0] * 2, [1] * 3 + [0] * 3)
    assert blank_places(source, real, 49).tolist() == [2, 4, 0, 2]  # filling is no blank
    assert blank_places(source, None, 49).tolist() == [2, 5, 0, 3]
    assert blank_places(source, real, -1).tolist() == [5, 4, 3, 2]
    assert blank_places(source, jnp.zeros_like(real), 49).tolist() == [0, 0, 0, 0]
    model, params, *_ = build(LEARNED)
    tokens = ids([0, 11, 12], [0, 13, 14], [0, 15, 16], [0, 17, 18])
    seen = given(model, params, tokens=tokens, source=source, source_segment_ids=real)
    assert [row[6:] for row in seen["positions"]] == [[2] * 3, [4] * 3, [0] * 3, [2] * 3]
    assert [row[6:] for row in seen["block_positions"]] == [[1, 2, 3]] * 4


@pytest.mark.parametrize("name", ["learned", pytest.param("rotary", marks=pytest.mark.slow)])
def test_filling_on_either_side_changes_nothing(name):
    model, params, tokens, source = build(SHAPES[name])
    short = logits(model, params, tokens[:, :4], source[:, :6])
    filled = {
        "source_segment_ids": ids([1] * 6 + [0] * 7, [1] * 6 + [0] * 7),
        "segment_ids": ids([1] * 4 + [0] * 5, [1] * 4 + [0] * 5),
    }
    padded = logits(model, params, tokens, source, **filled)
    np.testing.assert_allclose(short, padded[:, :4], atol=1e-5)
    assert bool(jnp.isfinite(padded).all())


@pytest.mark.slow
def test_both_kinds_of_places_matter():
    model, params, tokens, source = build(ROTARY)
    where = {
        "positions": jnp.full_like(tokens, 4),
        "block_positions": jnp.broadcast_to(jnp.arange(1, 10)[None], (2, 9)),
    }
    before = logits(model, params, tokens, source, **where)
    for name in where:
        moved = where | {name: where[name].at[:, 6].add(1)}
        after = logits(model, params, tokens, source, **moved)
        np.testing.assert_allclose(before[:, :6], after[:, :6], atol=1e-6)
        assert float(jnp.abs(before[:, 6:] - after[:, 6:]).max()) > 1e-4, name


@pytest.mark.slow
def test_scanned_and_rematerialised_layers_equal_unrolled_ones():
    _, params, tokens, source = build(LEARNED)

    def loss_and_grads(config, params):
        def loss(params):
            out = GLM(config).apply({"params": params}, tokens, source, train=True)
            return out.token_nll(jnp.roll(tokens, -1, axis=1)).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    def scanned(tree):
        blocks = [tree["stack"][f"block_{layer}"] for layer in range(2)]
        return tree | {"stack": {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}}

    plain = dataclasses.replace(LEARNED, dropout=0.0)
    loss, grads = loss_and_grads(plain, params)
    config = dataclasses.replace(plain, scan_layers=True, remat="block")
    other, other_grads = loss_and_grads(config, scanned(params))
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        scanned(grads),
        other_grads,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_two_fillings_are_learned_by_heart(name):
    """Both rows are filled from the same start symbol, so only the source tells them apart."""
    model, _, tokens, source = build(dataclasses.replace(SHAPES[name], dropout=0.0))
    params = nn.unbox(jax.jit(model.init)(jax.random.key(1), tokens, source))["params"]
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


def test_flops_count_the_head_for_tokens_only():
    params = shapes(LEARNED)
    d, layers, source, target = 24, 2, 100, 20
    stack = sum(leaf.size for leaf in jax.tree.leaves(params["stack"]))
    products = (source + target) * stack + target * (128 * d + 2 * d)
    pairs = layers * (source**2 + target * (source + target))
    expected = (6 * products + 12 * d * pairs) / (source + target)
    assert GLM(LEARNED).flops_per_token(params, target, source) == pytest.approx(expected)


def test_more_tokens_than_places_are_refused():
    model, params, tokens, source = build(LEARNED)
    long = jnp.zeros((2, 17), jnp.int32)
    for one, other, name in ((tokens, long, "source"), (long, source, "blank")):
        with pytest.raises(ValueError, match=f"a {name} of 17 tokens .* model.max_len=16"):
            model.apply({"params": params}, one, other)
    with pytest.raises(ValueError, match="a blank of 17 tokens"):
        model.init_cache(params, 2, 18, source)
    cache = jax.eval_shape(functools.partial(model.init_cache, params, 2, 17), source)
    assert cache.layers[0].v_BGSK.shape == (2, 3, SOURCE + 17, 8)
    with pytest.raises(ValueError, match="positions and block_positions go together"):
        model.apply({"params": params}, tokens, source, positions=tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_id": -2}, "model.mask_id=-2 must be an id, or -1"),
        ({"decoder_start_id": -1}, "model.decoder_start_id=-1 must be at least 0"),
        ({"positions": "alibi"}, "model.positions='alibi': accepted are learned, rotary"),
        ({"positions": "rotary", "head_dim": 6}, "a multiple of 4, not 6"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LEARNED, **change)
