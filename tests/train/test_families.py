"""The gradient step of encoders and encoder-decoders: micro-batches and devices are one computation, as for GPT."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxlm.models.glm import GLM, GLMConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config
from jaxlm.models.vlm import VLM, VLMConfig
from jaxlm.objectives import (
    blank_infilling,
    classification,
    image_to_text,
    masked_lm,
    multi_token,
    seq2seq,
)
from jaxlm.train import optim, parallel
from jaxlm.train.steps.gradient import Config, Gradient

ROWS, LENGTH, VOCABULARY = 8, 8, 24
SHAPE = {"vocab_size": VOCABULARY, "num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 8}
SHAPE |= {"vocab_multiple": 8, "dropout": 0.0}


class Family(NamedTuple):
    objective: type
    model: Any
    batch: dict[str, np.ndarray]


def ids(rng, shape, size=VOCABULARY):
    return rng.integers(0, size, shape).astype(np.int32)


def ragged(rng, width):
    """Segment ids of rows that are filled up, each to another length."""
    ends = rng.integers(1, width + 1, (ROWS, 1))
    return (np.arange(width)[None] < ends).astype(np.int32)


def make_families():
    rng = np.random.default_rng(0)
    shape = (ROWS, LENGTH)
    segments, source = ragged(rng, LENGTH), ragged(rng, 6)
    scored = segments * (rng.random(shape) < np.linspace(0.2, 1.0, ROWS)[:, None])
    text = {
        "tokens": ids(rng, shape),
        "targets": ids(rng, shape),
        "weights": scored.astype(np.float32),
        "segment_ids": segments,
    }
    classes = {
        "targets": ids(rng, (ROWS, 1), 3),
        "weights": np.float32([[1], [0], [0.5], [0], [0], [1], [0], [2]]),
    }
    blanks = {
        "source": ids(rng, (ROWS, 6)),
        "source_segment_ids": source,
        "positions": ids(rng, shape, 6),
        "block_positions": ids(rng, shape, 9),
    }
    return {
        "masked_lm": Family(masked_lm.MaskedLM, BERT(BERTConfig(**SHAPE)), text),
        "classification": Family(
            classification.Classification,
            BERT(BERTConfig(**SHAPE, head="sequence", num_labels=3)),
            text | classes,
        ),
        "seq2seq": Family(
            seq2seq.Seq2Seq,
            T5(T5Config(**SHAPE)),
            text | {"source": ids(rng, (ROWS, 6)), "source_segment_ids": source},
        ),
        "multi_token": Family(
            multi_token.MultiToken,
            GPT(GPTConfig(**SHAPE | {"num_layers": 3}, num_future=3)),
            text,
        ),
        "blank_infilling": Family(
            blank_infilling.BlankInfilling, GLM(GLMConfig(**SHAPE)), text | blanks
        ),
        "image_to_text": Family(
            image_to_text.ImageToText,
            VLM(VLMConfig(**SHAPE | {"max_len": 16}, image_size=4, patch_size=2, num_channels=1)),
            {name: text[name] for name in ("tokens", "targets", "weights")}
            | {"image": rng.random((ROWS, 4, 4, 1), np.float32)},
        ),
        "additive attention": Family(
            seq2seq.Seq2Seq,
            EncoderDecoder(
                EncoderDecoderConfig(**SHAPE, positions="learned", cross_attention="additive")
            ),
            text | {"source": ids(rng, (ROWS, 6)), "source_segment_ids": source},
        ),
    }


FAMILIES = make_families()
QUICK = {"xla_backend_optimization_level": 0}  # compiling is all that these tests spend time on


def make_step(family, num_micro_batches=1):
    objective = family.objective(family.objective.Config(z_loss=1e-2), family.model)
    tx, schedule = optim.build(optim.Config(learning_rate=1e-2, warmup_steps=1), 10, {})
    return Gradient(Config(), family.model, objective, tx, schedule, num_micro_batches)


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("additive attention", "blank_infilling", "image_to_text", "multi_token")
]


@pytest.mark.parametrize("name", ["masked_lm", "classification", "seq2seq", *SLOW])
def test_micro_batches_agree_on_ragged_weights(name):
    family = FAMILIES[name]
    init = jax.jit(make_step(family).init, compiler_options=QUICK)
    state = nn.unbox(init(jax.random.key(0), family.batch))
    whole, *parts = (
        jax.jit(make_step(family, count).loss_and_gradients, compiler_options=QUICK)(
            state, family.batch
        )
        for count in (1, 2, 4)
    )
    for part in parts:
        np.testing.assert_allclose(part[2], whole[2], rtol=1e-5)
        for left, right in zip(
            jax.tree.leaves((part[0].report, part[1])),
            jax.tree.leaves((whole[0].report, whole[1])),
            strict=True,
        ):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked_lm", "seq2seq", *SLOW])
def test_eight_devices_train_as_one_does(name):
    family = FAMILIES[name]
    step = make_step(family, 2)
    boxed = jax.jit(step.init, compiler_options=QUICK)(jax.random.key(0), family.batch)
    state = nn.unbox(boxed)
    alone, metrics = jax.jit(step.step, compiler_options=QUICK)(state, family.batch)

    mesh = parallel.make_mesh(parallel.Config(data=2, fsdp=2, tensor=2))
    shardings = parallel.state_shardings(boxed, mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        compiled = jax.jit(step.step, out_shardings=(shardings, None), compiler_options=QUICK)
        placed = parallel.placer(mesh)(family.batch)
        spread, spread_metrics = compiled(jax.device_put(state, shardings), placed)
    np.testing.assert_allclose(spread_metrics["loss_total"], metrics["loss_total"], rtol=1e-5)
    np.testing.assert_allclose(spread_metrics["grad_norm"], metrics["grad_norm"], rtol=1e-4)
    for left, right in zip(
        jax.tree.leaves(jax.device_get(spread.opt_state)),
        jax.tree.leaves(jax.device_get(alone.opt_state)),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-6)
