"""A small model of every family, with an objective and a batch of ragged rows that fit it."""

from typing import Any, NamedTuple

import jax
import numpy as np

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

ROWS, LENGTH, VOCABULARY = 8, 8, 24
SHAPE = {"vocab_size": VOCABULARY, "num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 8}
SHAPE |= {"vocab_multiple": 8, "dropout": 0.0}


class Family(NamedTuple):
    objective: type
    model: Any
    batch: dict[str, np.ndarray]


def moved(tree, key, by):
    """A tree whose every leaf has its own noise: no two kernels are alike, and nothing is 0."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(one, x.shape, x.dtype) for one, x in zip(keys, leaves, strict=True)]
    return structure.unflatten([x + by * n for x, n in zip(leaves, noise, strict=True)])


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
