"""What layers show on request: states and attention's probabilities, of every family; nothing else changes by it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config

QUICK = {"xla_backend_optimization_level": 0}
SIZES = {"vocab_size": 11, "num_layers": 2, "d_model": 8, "num_heads": 2, "max_len": 6}
TOKENS = jnp.array([[1, 2, 3, 4, 0], [5, 6, 7, 8, 9]])
SEGMENTS = jnp.array([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]])
SOURCE = jnp.array([[3, 1, 4], [1, 5, 0]])
ALL = ("states", "attention")

MODELS = {
    "gpt": (GPT(GPTConfig(**SIZES, num_kv_heads=1, positions="rotary")), {}),
    "bert": (BERT(BERTConfig(**SIZES, head="none")), {}),
    "t5": (
        T5(T5Config(**SIZES, num_decoder_layers=1)),
        {"source": SOURCE, "source_segment_ids": (SOURCE > 0).astype(jnp.int32)},
    ),
}


def outputs(model, given, **asked):
    """The output of fresh weights: the same for layers that are scanned and for those that are not."""
    plain = type(model)(dataclasses.replace(model.config, scan_layers=False, attention="xla"))
    inputs = {"tokens": TOKENS, "segment_ids": SEGMENTS} | given
    params = nn.unbox(jax.jit(plain.init, compiler_options=QUICK)(jax.random.key(0), **inputs))
    params = params["params"]
    if model.config.scan_layers:
        params = scanned(params)
    run = jax.jit(lambda params: model.apply({"params": params}, **inputs, **asked))
    return run(params)


def scanned(tree):
    """Layers one behind the other on a first axis."""
    if not isinstance(tree, dict):
        return tree
    blocks = [tree[name] for name in tree if name.startswith("block_")]
    rest = {name: scanned(part) for name, part in tree.items() if not name.startswith("block_")}
    if not blocks:
        return rest
    return rest | {"blocks": jax.tree.map(lambda *parts: jnp.stack(parts), *blocks)}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_shown_is_what_was_computed(name):
    model, given = MODELS[name]
    plain, shown = outputs(model, given), outputs(model, given, shown=ALL)
    assert plain.aux == {}
    np.testing.assert_allclose(shown.hidden, plain.hidden, atol=1e-5)
    sides = [("", 2, 5)] if name != "t5" else [("encoder/", 2, 3), ("decoder/", 1, 5)]
    for side, depth, length in sides:
        assert shown.aux[f"{side}states"].shape == (depth, 2, length, 8)
        attention = shown.aux[f"{side}attention"]
        assert attention.shape == (depth, 2, 2, length, length)
        np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    if name == "bert":  # no norm behind the last block
        np.testing.assert_allclose(shown.aux["states"][-1], plain.hidden, atol=1e-6)
    if name == "t5":
        cross = shown.aux["decoder/cross_attention"]
        assert cross.shape == (1, 2, 2, 5, 3)
        np.testing.assert_array_equal(cross[:, 1, :, :, 2], 0)  # filling of the source is not read
    else:  # a token sees its own segment, and in a GPT none after it
        seen = np.asarray(SEGMENTS)[:, :, None] == np.asarray(SEGMENTS)[:, None]
        seen = np.tril(seen) if name == "gpt" else seen
        np.testing.assert_array_equal(shown.aux["attention"][0, :, 0] > 0, seen)


@pytest.mark.parametrize(
    "name", ["gpt", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bert", "t5"))]
)
def test_scanned_layers_and_other_backends_show_the_same(name):
    model, given = MODELS[name]
    shown = outputs(model, given, shown=ALL)
    config = dataclasses.replace(model.config, scan_layers=True, attention="blockwise")
    other = outputs(type(model)(config), given, shown=ALL)
    assert shown.aux.keys() == other.aux.keys()
    for entry, values in shown.aux.items():
        np.testing.assert_allclose(other.aux[entry], values, atol=1e-5)


def test_what_can_not_be_shown_is_refused():
    model, _ = MODELS["gpt"]
    with pytest.raises(ValueError, match="shown=\\['logits'\\]: accepted are states, attention"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS, shown=("logits",)))
    cache = model.init_cache({}, 2, 6)
    with pytest.raises(ValueError, match="shown with caches"):
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), TOKENS, caches=cache.layers, shown=("states",))
        )
    additive = EncoderDecoder(EncoderDecoderConfig(**SIZES, cross_attention="additive"))
    with pytest.raises(ValueError, match="additive.* can't show its probabilities"):
        jax.eval_shape(lambda: additive.init(jax.random.key(0), TOKENS, SOURCE, shown=ALL))
