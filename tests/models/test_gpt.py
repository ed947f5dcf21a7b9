"""GPT in all its shapes: what every model must hold (docs/architecture.md, section 5)."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.models.gpt import GPT, GPTConfig

GPT2 = GPTConfig(vocab_size=50, num_layers=2, d_model=32, num_heads=4, max_len=24)
LLAMA = dataclasses.replace(
    GPT2,
    positions="rotary",
    norm="rmsnorm",
    mlp="swiglu",
    bias=False,
    num_kv_heads=2,
    tie_embeddings=False,
)
SHAPES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qk_norm relu2": dataclasses.replace(LLAMA, qk_norm=True, mlp="relu2", logit_soft_cap=15.0),
    "alibi window": dataclasses.replace(GPT2, positions="alibi", window=5, attention_soft_cap=20.0),
    "qwen2 llama3": dataclasses.replace(
        LLAMA,
        num_heads=3,
        num_kv_heads=1,
        head_dim=6,
        qkv_bias=True,
        rope_scaling="llama3",
        rope_factor=8.0,
        rope_original_len=16,
    ),
    "qwen3 yarn window": dataclasses.replace(
        LLAMA,
        num_heads=6,
        num_kv_heads=3,
        head_dim=10,
        qk_norm=True,
        mlp="geglu",
        window=5,
        rope_scaling="yarn",
        rope_factor=4.0,
        rope_original_len=8,
    ),
    "scanned": dataclasses.replace(LLAMA, scan_layers=True),
}


def build(config, key, length=24):
    model = GPT(config)
    tokens = jax.random.randint(key, (2, length), 0, config.vocab_size)
    params = nn.unbox(model.init(jax.random.key(1), tokens))["params"]
    return model, params, tokens


def eager(model, params, tokens, **kwargs):
    return model.apply({"params": params}, tokens, **kwargs).logits()


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens, **kwargs):
    return eager(model, params, tokens, **kwargs)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_dtypes_and_jit(key, name):
    model, params, tokens = build(SHAPES[name], key)
    plain = eager(model, params, tokens)
    assert plain.shape == (2, 24, 50) and plain.dtype == jnp.float32
    assert bool(jnp.isfinite(plain).all())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(plain, logits(model, params, tokens), rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_and_logits(key):
    model, params, tokens = build(dataclasses.replace(LLAMA, dtype="bfloat16"), key)
    output = model.apply({"params": params}, tokens)
    assert output.hidden.dtype == jnp.bfloat16 and output.logits().dtype == jnp.float32
    assert jax.tree.leaves(params)[0].dtype == jnp.float32


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_gpt2_small_has_124_million_parameters():
    model = GPT(GPTConfig(vocab_size=50257))
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens))["params"]
    padded = (50304 - 50257) * 768
    assert count(params) - padded == 124_439_808  # the published GPT-2 small
    assert (
        model.flops_per_token(params, 1024)
        == 6 * (124_439_808 + padded - 1024 * 768) + 12 * 12 * 768 * 1024
    )


def test_llama_parameter_count_in_closed_form(key):
    _, params, _ = build(LLAMA, key)
    d, f, v, heads, groups, width = 32, 128, 128, 4, 2, 8
    block = d * width * (2 * heads + 2 * groups) + 3 * d * f + 2 * d
    assert count(params) == 2 * v * d + 2 * block + d


@pytest.mark.parametrize("name", SHAPES)
def test_causal_by_changing_a_later_token(key, name):
    model, params, tokens = build(SHAPES[name], key)
    changed = tokens.at[:, 15].set((tokens[:, 15] + 1) % 50)
    before, after = logits(model, params, tokens), logits(model, params, changed)
    np.testing.assert_allclose(before[:, :15], after[:, :15], atol=1e-6)
    assert float(jnp.abs(before[:, 15] - after[:, 15]).max()) > 1e-3


def test_window_forgets_what_lies_before_it(key):
    config = dataclasses.replace(GPT2, positions="none", window=4, num_layers=1)
    model, params, tokens = build(config, key)
    changed = tokens.at[:, 3].set((tokens[:, 3] + 1) % 50)
    moved = jnp.abs(logits(model, params, tokens) - logits(model, params, changed)).max((0, 2))
    assert [position for position in range(24) if moved[position] > 1e-6] == [3, 4, 5, 6]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_padding_behind_changes_nothing(key, name):
    model, params, tokens = build(SHAPES[name], key)
    short = logits(model, params, tokens[:, :9])
    padded = logits(model, params, jnp.pad(tokens[:, :9], ((0, 0), (0, 15))))
    np.testing.assert_allclose(short, padded[:, :9], atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "alibi window", "qwen3 yarn window"])
def test_a_packed_document_scores_as_it_does_alone(key, name):
    model, params, tokens = build(SHAPES[name], key)
    segments = jnp.repeat(jnp.array([[1, 2]]), jnp.array([10, 14]), axis=1, total_repeat_length=24)
    places = jnp.concatenate([jnp.arange(10), jnp.arange(14)])[None].astype(jnp.int32)
    both = jnp.broadcast_to(segments, (2, 24)), jnp.broadcast_to(places, (2, 24))
    packed = logits(model, params, tokens, segment_ids=both[0], positions=both[1])
    np.testing.assert_allclose(packed[:, :10], logits(model, params, tokens[:, :10]), atol=1e-5)
    np.testing.assert_allclose(packed[:, 10:], logits(model, params, tokens[:, 10:]), atol=1e-5)


def test_prefix_is_seen_by_all_and_the_rest_stays_causal(key):
    model, params, tokens = build(LLAMA, key)
    prefix = jnp.array([6, 0])

    def moved_by(place):
        changed = tokens.at[:, place].set((tokens[:, place] + 1) % 50)
        both = [logits(model, params, row, prefix_lengths=prefix) for row in (tokens, changed)]
        return np.abs(both[0] - both[1]).max(-1) > 1e-5

    inside, behind = moved_by(5), moved_by(6)
    assert inside[0].all() and not inside[1, :5].any() and inside[1, 5:].all()
    assert not behind[:, :6].any() and behind[:, 6:].all()


def test_a_cached_row_is_one_text(key):
    model, params, tokens = build(GPT2, key)
    caches = model.init_cache(params, 2, 24).layers
    with pytest.raises(ValueError, match="segment_ids with caches"):
        logits(model, params, tokens, segment_ids=jnp.ones_like(tokens), caches=caches)


def test_biases_of_queries_keys_and_values_alone(key):
    _, params, _ = build(SHAPES["qwen2 llama3"], key)
    attention = params["stack"]["block_0"]["attention"]
    assert {name for name, part in attention.items() if "bias" in part} == {"q", "k", "v"}
    assert "bias" not in params["stack"]["block_0"]["mlp"]["in"]


def test_attention_choice_is_that_of_the_batch(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "jaxlm.layers.attention_backends.choose",
        lambda backend, spec, *rest: asked.append(spec) or ("x", "y"),
    )
    for keys in ((), ("tokens", "segment_ids"), ("prefix_lengths",)):
        GPT(GPT2).attention_choice(keys)
    assert [(spec.segments, spec.prefix) for spec in asked] == [(0, 0), (1, 0), (0, 1)]


def loss_and_grads(config, params, tokens):
    def loss(params):
        out = GPT(config).apply({"params": params}, tokens[:, :-1], train=True)
        return out.token_nll(tokens[:, 1:]).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("remat", ["dots", "block"])
def test_remat_changes_neither_loss_nor_gradient(key, remat):
    _, params, tokens = build(LLAMA, key)
    plain = loss_and_grads(LLAMA, params, tokens)
    again = loss_and_grads(dataclasses.replace(LLAMA, remat=remat), params, tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, again)


def test_remat_really_computes_again(key):
    _, params, tokens = build(LLAMA, key)

    def size(config):
        def loss(params):
            return (
                GPT(config).apply({"params": params}, tokens, train=True).token_nll(tokens).mean()
            )

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general")

    assert size(dataclasses.replace(LLAMA, remat="block")) > size(LLAMA)


def stack_layers(params: dict, num_layers: int) -> dict:
    """Parameters of an unrolled stack in the layout of a scanned one: block_0.. become blocks, stacked."""
    rest = {name: value for name, value in params.items() if not name.startswith("block_")}
    blocks = [params[f"block_{layer}"] for layer in range(num_layers)]
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def test_scanned_layers_equal_unrolled_ones(key):
    _, params, tokens = build(LLAMA, key)
    loss, grads = loss_and_grads(LLAMA, params, tokens)
    stacked = params | {"stack": stack_layers(params["stack"], 2)}
    for remat in ("none", "block"):
        config = dataclasses.replace(LLAMA, scan_layers=True, remat=remat)
        other, other_grads = loss_and_grads(config, stacked, tokens)
        np.testing.assert_allclose(loss, other, rtol=1e-6)
        expected = grads | {"stack": stack_layers(grads["stack"], 2)}
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            expected,
            other_grads,
        )


def test_dropout_is_on_in_training_only_and_follows_its_key(key):
    model, params, tokens = build(dataclasses.replace(GPT2, dropout=0.5), key)

    def train(seed):
        return logits(model, params, tokens, train=True, rngs={"dropout": jax.random.key(seed)})

    def logits(model, params, tokens, **kwargs):
        rngs = kwargs.pop("rngs", None)
        return model.apply({"params": params}, tokens, rngs=rngs, **kwargs).logits()

    np.testing.assert_array_equal(train(0), train(0))
    assert float(jnp.abs(train(0) - train(1)).max()) > 1e-2
    np.testing.assert_array_equal(logits(model, params, tokens), logits(model, params, tokens))


def test_two_sequences_are_learned_by_heart(key):
    model, params, tokens = build(LLAMA, key, length=17)
    tx = optax.adam(1e-2)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            return model.apply({"params": params}, tokens[:, :-1]).token_nll(tokens[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state = tx.init(params)
    for _ in range(60):
        params, opt_state, value = step(params, opt_state)
    assert float(value) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 15}, "model.d_model=15 must be a multiple of model.num_heads=4"),
        ({"num_kv_heads": 3}, "model.num_heads=4 must be a multiple of model.num_kv_heads=3"),
        ({"norm": "rms"}, "model.norm='rms': accepted are layernorm, rmsnorm"),
        ({"positions": "rotary", "head_dim": 7}, "even head width"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"window": -1}, "model.window"),
        ({"num_layers": 0}, "model.num_layers=0 must be at least 1"),
        ({"d_ff": 0}, "model.d_ff=0 must be at least 1"),
        ({"num_kv_heads": 0}, "model.num_kv_heads=0 must be at least 1"),
        ({"rope_scaling": "llama3"}, 'model.rope_scaling="llama3" needs model.positions="rotary"'),
        ({"rope_scaling": "longrope"}, "accepted are none, linear, llama3, yarn"),
        (
            {"positions": "rotary", "rope_scaling": "yarn", "rope_factor": 4.0},
            "needs model.rope_original_len",
        ),
        (
            {
                "positions": "rotary",
                "rope_scaling": "llama3",
                "rope_original_len": 8,
                "rope_low_freq": 4.0,
            },
            "0 < model.rope_low_freq=4.0 < model.rope_high_freq=4.0",
        ),
        ({"positions": "rotary", "rope_scaling": "linear", "rope_factor": 0.0}, "rope_factor=0.0"),
        (
            {"positions": "rotary", "rope_factor": 4.0},
            "model.rope_factor=4.0 needs model.rope_scal",
        ),
        ({"init": "fan_in"}, "accepted are gpt2, normal, zero_out"),  # T5's: scores are not scaled
        ({"remat": "full"}, "accepted are none, dots, block"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GPT2, **change)


def test_more_positions_than_were_learned_are_refused(key):
    model = GPT(dataclasses.replace(GPT2, max_len=8))
    tokens = jnp.zeros((1, 9), jnp.int32)
    with pytest.raises(ValueError, match="9 positions are more than .* model.max_len=8"):
        jax.eval_shape(model.init, key, tokens)
    with pytest.raises(ValueError, match="9 positions are more than .* model.max_len=8"):
        model.init_cache({}, 1, 9)
    rotary = GPT(dataclasses.replace(GPT2, max_len=8, positions="rotary"))
    jax.eval_shape(rotary.init, key, tokens)
