"""A GPT behind an image: what every model must hold (docs/architecture.md, section 5), and who sees whom."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.vlm import VLM, Patches, VLMConfig, cut
from jaxlm.train import assembly, plan

LEARNED = VLMConfig(
    vocab_size=50,
    num_layers=2,
    d_model=24,
    num_heads=3,
    max_len=20,
    image_size=6,
    patch_size=2,
    num_channels=3,
)
ROTARY = dataclasses.replace(
    LEARNED,
    positions="rotary",
    norm="rmsnorm",
    mlp="swiglu",
    bias=False,
    num_heads=2,
    num_kv_heads=1,
    tie_embeddings=False,
    scan_layers=True,
)
SHAPES = {"learned": LEARNED, "rotary scanned": ROTARY}
PATCHES, TEXT = 9, 7


@functools.cache
def build(config):
    """A model with any weights: drawn here, as compiling their initialisation takes longer than all that is tested."""
    model, draw = VLM(config), np.random.default_rng(0)
    tokens = draw.integers(0, config.vocab_size, (2, TEXT)).astype(np.int32)
    image = draw.random((2, *config.image_shape), np.float32)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens, image))["params"]
    params = jax.tree.map(lambda leaf: draw.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes)
    return model, params, tokens, image


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, tokens, image):
    output = model.apply({"params": params}, tokens, image)
    return output.replace(aux={}), output.logits()


def logits(*args):
    return np.asarray(run(*args)[1])


@functools.partial(jax.jit, static_argnums=0)
def read(model, params, image):
    return model.init_cache(params, 2, TEXT + 1, image)


def changed(image, patch):
    """The image with other pixels in one of its 3 x 3 patches."""
    row, column = 2 * (patch // 3), 2 * (patch % 3)
    other = image.copy()
    other[:, row : row + 2, column : column + 2] += 0.5
    return other


def test_patches_are_cut_row_by_row_and_read_row_by_row():
    image = np.arange(16).reshape(1, 4, 4, 1)
    assert image[0, ..., 0].tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    ]
    assert cut(image, 2).tolist() == [
        [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    ]
    colours = jnp.stack(
        [image[..., 0], 100 + image[..., 0]], -1
    )  # channels of a pixel stay together
    assert cut(colours, 2)[0, 0].tolist() == [0, 100, 1, 101, 4, 104, 5, 105]


def test_a_patch_is_its_pixels_from_minus_one_to_one_projected_and_its_place():
    _, params, *_ = build(LEARNED)
    own = params["patches"]
    image = np.full((1, 6, 6, 3), 0.5, np.float32)
    image[0, 2, 1, 2] = 1.0  # of patch 3: its pixel in the first row and second column, blue
    found = Patches(LEARNED).apply({"params": own}, image)[0]
    expected = own["positions"] + own["project"]["bias"]
    expected[3] += own["project"]["kernel"][5]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_shapes_and_dtypes():
    model, params, tokens, image = build(LEARNED)
    found = logits(model, params, tokens, image)
    assert found.shape == (2, TEXT, 50) and found.dtype == np.float32  # of the text only
    assert np.isfinite(found).all()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


@pytest.mark.slow  # hundreds of operations, compiled one by one
def test_jit_equals_no_jit():
    model, params, tokens, image = build(LEARNED)
    plain = model.apply({"params": params}, tokens, image).logits()
    np.testing.assert_allclose(plain, logits(model, params, tokens, image), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_is_finite_and_keeps_float32_parameters_and_logits():
    _, params, tokens, image = build(ROTARY)
    output, found = run(VLM(dataclasses.replace(ROTARY, dtype="bfloat16")), params, tokens, image)
    assert output.hidden.dtype == jnp.bfloat16 and found.dtype == jnp.float32
    exact = logits(VLM(ROTARY), params, tokens, image)
    assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_a_gpts_and_those_of_the_patches(name):
    config = SHAPES[name]
    row = jax.ShapeDtypeStruct((1, TEXT), jnp.int32)
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(GPTConfig) if f.init}
    fields = {name: value for name, value in fields.items() if name not in ("window", "num_future")}
    gpt = nn.unbox(jax.eval_shape(GPT(GPTConfig(**fields)).init, jax.random.key(0), row))["params"]
    own = assembly.model_shapes(_config(config))
    pixels, width = 2 * 2 * 3, 24
    patches = own.pop("patches")
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, gpt)
    assert plan.num_params(patches) == pixels * width + config.bias * width + PATCHES * width


def _config(config):
    from jaxlm import config as configs

    cfg = configs.base()
    cfg.model = configs.section("model", "vlm", **dataclasses.asdict(config))
    return cfg


def test_every_token_sees_the_whole_image_and_no_later_token():
    model, params, tokens, image = build(LEARNED)
    before = logits(model, params, tokens, image)
    for patch in range(PATCHES):
        after = logits(model, params, tokens, changed(image, patch))
        assert np.abs(before - after).max(-1).min() > 1e-4
    other = tokens.copy()
    other[:, 4] = (other[:, 4] + 1) % 50
    after = logits(model, params, other, image)
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert np.abs(before[:, 4] - after[:, 4]).max() > 1e-3


def test_patches_see_one_another_in_both_directions():
    """The last layer's keys, by what they hang on: those of every patch on every patch, the first on the last."""
    model, params, _, image = build(LEARNED)

    def keys(image):
        return np.asarray(read(model, params, image).layers[-1].k_BGKS[..., :PATCHES])

    before = keys(image)
    for patch in range(PATCHES):
        assert np.abs(before - keys(changed(image, patch))).max((0, 1, 2)).min() > 1e-4


def _scores(made):
    output, cache = made
    return output.logits(), cache


def test_patches_see_no_token_and_filling_behind_a_text_changes_nothing():
    """In a pass over all at once: had a patch seen a later token, so had the tokens before that one, by the patch."""
    model, params, tokens, image = build(LEARNED)
    short = logits(model, params, tokens[:, :4], image)
    filled = np.where(np.arange(TEXT) < 4, tokens, 0)
    np.testing.assert_allclose(short, logits(model, params, filled, image)[:, :4], atol=1e-5)


@pytest.mark.parametrize(
    "name", ["learned", pytest.param("rotary scanned", marks=pytest.mark.slow)]
)
def test_a_cache_gives_what_the_whole_pass_gives(name):
    model, params, tokens, image = build(SHAPES[name])
    whole = logits(model, params, tokens, image)
    lengths = np.array([3, 2])
    cache = read(model, params, image)
    extend = jax.jit(lambda *given: _scores(model.extend(*given)))
    first, cache = extend(params, cache, tokens[:, :3], lengths)
    np.testing.assert_allclose(first[0], whole[0, :3], atol=1e-5)
    rest = np.stack([tokens[0, 3:6], tokens[1, 2:5]])
    second, cache = extend(params, cache, rest, np.array([3, 3]))
    np.testing.assert_allclose(second[0], whole[0, 3:6], atol=1e-5)
    np.testing.assert_allclose(second[1], whole[1, 2:5], atol=1e-5)
    cache = model.rewind(cache, np.array([4, 3]))  # tokens, not positions
    third, _ = extend(params, cache, np.stack([tokens[0, 4:7], tokens[1, 3:6]]), np.array([3, 3]))
    np.testing.assert_allclose(third[0], whole[0, 4:7], atol=1e-5)
    np.testing.assert_allclose(third[1], whole[1, 3:6], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_two_captions_are_learned_by_heart(name):
    """Both rows are written from the same first token, so only the image tells them apart."""
    model, _, tokens, image = build(SHAPES[name])
    params = nn.unbox(jax.jit(model.init)(jax.random.key(1), tokens, image))["params"]
    shifted = np.concatenate([np.zeros((2, 1), np.int32), tokens[:, :-1]], axis=1)
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            return model.apply({"params": params}, shifted, image).token_nll(tokens).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state = tx.init(params)
    for _ in range(60):
        params, opt_state, value = step(params, opt_state)
    assert float(value) < 0.05


def test_another_image_size_is_one_clear_line_before_compiling():
    model, params, tokens, _ = build(LEARNED)
    image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    with pytest.raises(
        ValueError, match="images are 8 x 8 x 3 .* reads 6 x 6 x 3: model.image_size"
    ):
        jax.eval_shape(model.init, jax.random.key(0), tokens, image)
    with pytest.raises(ValueError, match="VLM reads an image with its tokens: none is given"):
        jax.eval_shape(model.init, jax.random.key(0), tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 4}, "model.image_size=6 must be a multiple of model.patch_size=4"),
        ({"num_channels": 0}, "model.num_channels=0 must be at least 1"),
        ({"max_len": 10}, "model.max_len=10 leaves no room for text after an image's 9 patches"),
    ],
)
def test_a_wrong_config_says_so(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LEARNED, **changes)


def test_patches_text_and_a_place_to_write_at_must_fit():
    model, params, _, image = build(LEARNED)
    score = functools.partial(jax.eval_shape, functools.partial(run, model), params)
    assert score(jnp.zeros((2, 10), jnp.int32), image)[1].shape == (2, 10, 50)  # 9 + 10 + 1
    jax.eval_shape(lambda: model.init_cache(params, 2, 11, image))
    with pytest.raises(ValueError, match="model.max_len=20 must be more than .* 9 patches and 11"):
        score(jnp.zeros((2, 11), jnp.int32), image)


def test_the_plan_counts_patches_as_positions():
    model, params, tokens, image = build(LEARNED)
    batch = {"tokens": tokens, "image": image}
    assert plan.lengths_of(batch, model) == (TEXT, PATCHES)
    assert plan.row(model, (TEXT, PATCHES)) == "(9 image + 7 target)"
    stack = plan.num_params(params["stack"]) + plan.num_params(params["final_norm"])
    project = plan.num_params(params["patches"]["project"])
    expected = 6 * (16 * stack + 9 * project + 7 * 128 * 24) + 12 * 2 * 24 * 16**2
    assert model.flops_per_token(params, TEXT, PATCHES) * 16 == pytest.approx(expected)
    assert model.attention_choice(())[0] == "blockwise"
