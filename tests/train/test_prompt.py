"""Prompt tuning: a prompt of embedded tokens is these tokens, cached or not; it alone trains; packed rows are refused."""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import FAMILIES, moved

from jaxlm.core import partition
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config
from jaxlm.objectives.classification import Classification
from jaxlm.train import assembly
from jaxlm.train.steps.gradient import Config as StepConfig
from jaxlm.train.steps.gradient import Gradient
from jaxlm.train.tuning.prompt import Config, Prompt

QUICK = {"xla_backend_optimization_level": 0}
SHAPE = {
    "vocab_size": 24,
    "vocab_multiple": 32,
    "num_layers": 2,
    "d_model": 16,
    "num_heads": 2,
    "max_len": 16,
    "dropout": 0.0,
}
MODELS = {
    "gpt": GPT(GPTConfig(**SHAPE, positions="rotary", norm="rmsnorm", bias=False, tie_embeddings=False)),
    "gpt, learned positions": GPT(GPTConfig(**SHAPE)),
    "gpt, window and scan": GPT(GPTConfig(**SHAPE, positions="rotary", window=5, scan_layers=True)),
    "bert": BERT(BERTConfig(**SHAPE, head="token", num_labels=3)),
    "t5": T5(T5Config(**SHAPE)),
    "encoder_decoder": EncoderDecoder(EncoderDecoderConfig(**SHAPE, positions="learned", share_embeddings=False)),
}  # fmt: skip
ROWS, LENGTH, WORDS = 3, 5, np.array([7, 3], np.int32)
TUNING = Config(num_tokens=len(WORDS))
LENGTHS = np.array([5, 3, 4])
SEGMENTS = (np.arange(LENGTH)[None] < LENGTHS[:, None]).astype(np.int32)
TOKENS = np.random.default_rng(0).integers(0, 24, (ROWS, LENGTH)).astype(np.int32)
SOURCES = np.random.default_rng(1).integers(0, 24, (ROWS, LENGTH)).astype(np.int32)


def init(model, *inputs):
    def make(key):
        params = nn.unbox(model.init(key, *inputs)["params"])
        return moved(params, key, 0.2)

    return jax.jit(make, compiler_options=QUICK)(jax.random.key(0))


def made(name):
    """The plain model, the prompted one, and the plain one's parameters with the prompt of WORDS beside them."""
    plain = MODELS[name]
    prompted = Prompt.model(TUNING, plain)
    inputs = [TOKENS] if "source" not in plain.inputs else [TOKENS, SOURCES]
    params = init(plain, *inputs)
    for table in ("positions", "token_types", "encoder_positions"):  # a prompt has none of its own
        if name in ("bert", "encoder_decoder") and table in params:
            params[table] = jax.tree.map(jnp.zeros_like, params[table])
    words = prompted.words(partition.flatten(params), WORDS)
    return plain, prompted, params, params | {"prompt": words}


def logits(model, params, **inputs):
    run = jax.jit(
        lambda params: model.apply({"params": params}, **inputs).logits(), compiler_options=QUICK
    )
    return np.asarray(run(params))


def with_words(ids, at=0):
    words = np.broadcast_to(WORDS, (ROWS, len(WORDS)))
    return np.concatenate([ids[:, :at], words, ids[:, at:]], axis=1)


def with_ones(segments):
    return np.concatenate([np.ones((ROWS, len(WORDS)), np.int32), segments], axis=1)


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("gpt, window and scan", "gpt, learned positions", "t5", "encoder_decoder")
]


@pytest.mark.parametrize("name", ["gpt", "bert", *SLOW])
def test_a_prompt_of_embedded_tokens_is_these_tokens(name):
    plain, prompted, params, with_prompt = made(name)
    real = SEGMENTS > 0
    if "source" in plain.inputs:
        mine = {"tokens": TOKENS, "segment_ids": SEGMENTS}
        theirs = dict(mine)
        mine |= {"source": SOURCES, "source_segment_ids": SEGMENTS}
        theirs |= {"source": with_words(SOURCES), "source_segment_ids": with_ones(SEGMENTS)}
        cut = slice(None)
    else:
        at = 1 if name == "bert" else 0
        mine = {"tokens": TOKENS, "segment_ids": SEGMENTS}
        theirs = {"tokens": with_words(TOKENS, at), "segment_ids": with_ones(SEGMENTS)}
        cut = np.r_[0, 3 : LENGTH + 2] if name == "bert" else slice(2, None)
    found = logits(prompted, with_prompt, **mine)
    expected = logits(plain, params, **theirs)[:, cut]
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-4, atol=1e-5)
    # Without its prompt it is the model that it was.
    as_before = logits(prompted, params, **mine)
    np.testing.assert_allclose(as_before, logits(plain, params, **mine), rtol=1e-5, atol=1e-6)
    assert np.abs(as_before - found)[real].max() > 1e-2


@pytest.mark.parametrize("name", ["gpt", *SLOW])
def test_a_cache_reads_the_prompt_once_and_rewinds_behind_it(name):
    plain, prompted, _, params = made(name)
    has_source = "source" in plain.inputs
    source = {"source": SOURCES, "source_segment_ids": SEGMENTS} if has_source else {}
    whole = logits(prompted, params, tokens=TOKENS, **source)

    def run(params):
        cache = prompted.init_cache(params, ROWS, LENGTH, **source)
        three = jnp.full((ROWS,), 3, jnp.int32)
        first, cache = prompted.extend(params, cache, TOKENS[:, :3], three)
        wrong, cache = prompted.extend(params, cache, TOKENS[:, :1], three // 3)
        cache = prompted.rewind(cache, three)
        last, _ = prompted.extend(params, cache, TOKENS[:, 3:], three - 1)
        return first.logits(), last.logits()

    first, last = jax.jit(run, compiler_options=QUICK)(params)
    found = np.concatenate([first, last], axis=1)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_is_written_behind_a_prompt_is_what_is_written_behind_its_tokens():
    plain, prompted, params, with_prompt = made("gpt")
    greedy = Sampling(temperature=0.0)

    def written(model, params, prompts):
        request = Request(prompts=prompts, max_tokens=6, max_len=16, seeds=[0, 1])
        return [best.tokens for (best,) in greedy.write(model, params, request)]

    prompts = [[5, 1, 2], [9]]
    behind = written(plain, params, [[*WORDS.tolist(), *prompt] for prompt in prompts])
    assert written(prompted, with_prompt, prompts) == behind
    assert written(plain, params, prompts) != behind


def test_the_prompt_trains_and_begins_as_words_and_nothing_else_moves():
    family = FAMILIES["classification"]
    padded = dataclasses.replace(family.model.config, vocab_multiple=32)
    model = Prompt.model(Config(num_tokens=4), family.model.clone(config=padded))
    tuning = Prompt(Config(num_tokens=4), assembly.abstract_params(model, family.batch))
    objective = Classification(Classification.Config(), model)
    step = Gradient(StepConfig(), model, objective, optax.sgd(0.5), lambda n: 0.0, 2, tuning)
    state = nn.unbox(jax.jit(step.init, compiler_options=QUICK)(jax.random.key(0), family.batch))
    assert set(partition.flatten(state.params)) == {
        "prompt",
        "classifier/kernel",
        "classifier/bias",
    }
    begun = tuning.begin(model, state.params, state.frozen["base"], jax.random.key(1))
    table = np.asarray(state.frozen["base"]["embed"]["embedding"])
    for vector in np.asarray(begun["prompt"]):
        assert (table[:24] == vector[None]).all(axis=1).any()
    state = state.replace(params=begun)
    after, _ = jax.jit(step.step, compiler_options=QUICK)(state, family.batch)
    jax.tree.map(np.testing.assert_array_equal, after.frozen, state.frozen)
    assert (np.abs(after.params["prompt"] - begun["prompt"]).max(axis=1) > 0).all()
    assert tuning.first(begun).keys() == {"classifier"}


def test_rows_of_several_texts_and_models_without_a_place_are_refused():
    model = Prompt.model(TUNING, MODELS["gpt"])
    batch = dict.fromkeys(("tokens", "targets", "weights", "segment_ids", "positions"))
    objective = SimpleNamespace(batch_keys=("targets", "weights"))
    with pytest.raises(
        ValueError, match=r"\['positions'\], which neither the model \(PromptedGPT\)"
    ):
        assembly.check_keys(batch, model, objective)
    with pytest.raises(
        ValueError,
        match='tuning.kind="prompt": GLM has no place for a prompt; accepted are GPT, BERT',
    ):
        Prompt.model(TUNING, FAMILIES["blank_infilling"].model)
    with pytest.raises(ValueError, match="tuning.num_tokens=0"):
        Config(num_tokens=0)
    with pytest.raises(
        ValueError, match="18 positions are more than the learned ones, model.max_len=16"
    ):
        learned = Prompt.model(TUNING, MODELS["gpt, learned positions"])
        learned.init(jax.random.key(0), jnp.zeros((1, 16), jnp.int32))


def test_the_costs_are_those_of_longer_rows():
    """Twice the positions, twice the products of a token; attention of (T + P)^2 pairs, of T it is 4 times as much."""
    plain = MODELS["gpt"]
    prompted = Prompt.model(Config(num_tokens=8), plain)
    params = assembly.abstract_params(plain, {"tokens": jax.ShapeDtypeStruct((1, 8), "int32")})
    attention = 12.0 * 2 * 16 * 8
    alone = plain.flops_per_token(params, 8)
    both = prompted.flops_per_token(
        params | {"prompt": jax.ShapeDtypeStruct((8, 16), "float32")}, 8
    )
    np.testing.assert_allclose(both, 2 * (alone - attention) + 4 * attention)
