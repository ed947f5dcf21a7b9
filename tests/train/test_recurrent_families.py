"""The gradient step of recurrent encoder-decoders and classifiers, and of bags: micro-batches are one batch, of ragged weights."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxlm.models.bag_of_embeddings import BagOfEmbeddings, BagOfEmbeddingsConfig
from jaxlm.models.rnn_classifier import RNNClassifier, RNNClassifierConfig
from jaxlm.models.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig
from jaxlm.objectives.classification import Classification
from jaxlm.objectives.seq2seq import Seq2Seq
from jaxlm.objectives.token_nll import Config as LossConfig
from jaxlm.train import optim
from jaxlm.train.steps.gradient import Config, Gradient

QUICK = {"xla_backend_optimization_level": 0}
ROWS, TARGET, SOURCE = 8, 5, 6
SIZES = {"vocab_size": 24, "vocab_multiple": 8, "d_model": 8, "dropout": 0.0}
CLASSES = {"num_labels": 3}
MODELS = {
    "seq2seq": RNNSeq2Seq(RNNSeq2SeqConfig(**SIZES, num_layers=1)),
    "input feeding": RNNSeq2Seq(RNNSeq2SeqConfig(**SIZES, num_layers=1, input_feeding=True)),
    "classifier": RNNClassifier(RNNClassifierConfig(**SIZES, **CLASSES)),
    "bag": BagOfEmbeddings(
        BagOfEmbeddingsConfig(**SIZES, **CLASSES, ngrams=2, ngram_buckets=9, num_layers=1)
    ),
}


def batch_of(model):
    """Rows of every length, some of which weigh nothing."""
    rng = np.random.default_rng(0)

    def ids(width, size=24):
        return rng.integers(0, size, (ROWS, width)).astype(np.int32)

    def real(width):
        return (np.arange(width)[None] < rng.integers(1, width + 1, (ROWS, 1))).astype(np.int32)

    if "source" not in model.inputs:
        weights = np.float32([[1], [0], [0.5], [0], [0], [1], [0], [2]])
        text = {"tokens": ids(SOURCE), "segment_ids": real(SOURCE)}
        return text | {"targets": ids(1, 3), "weights": weights}
    scored = real(TARGET) * (rng.random((ROWS, TARGET)) < np.linspace(0.2, 1.0, ROWS)[:, None])
    return {
        "tokens": ids(TARGET), "targets": ids(TARGET), "weights": scored.astype(np.float32),
        "source": ids(SOURCE), "source_segment_ids": real(SOURCE),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "input feeding")) for n in MODELS]
)
def test_micro_batches_agree_on_ragged_weights(name):
    model = MODELS[name]
    batch = batch_of(model)
    make = Seq2Seq if "source" in model.inputs else Classification
    objective = make(LossConfig(z_loss=1e-2), model)
    tx, schedule = optim.build(optim.Config(learning_rate=1e-2, warmup_steps=1), 10, {})

    def step(count):
        return Gradient(Config(), model, objective, tx, schedule, count)

    state = nn.unbox(jax.jit(step(1).init, compiler_options=QUICK)(jax.random.key(0), batch))
    whole, *parts = (
        jax.jit(step(count).loss_and_gradients, compiler_options=QUICK)(state, batch)
        for count in (1, 2, 4)
    )
    for part in parts:
        np.testing.assert_allclose(part[2], whole[2], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            (part[0].report, part[1]),
            (whole[0].report, whole[1]),
        )
