"""The contrastive loss by hand, against torch's cross-entropy, and what it leaves out."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import Bidirectional, Table

from jaxlm.core import sentences
from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import LossContext
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.objectives.contrastive import Config, Contrastive

VECTORS = np.array([[1.0, 0.0], [0.28, 0.96], [-1.0, 0.0], [0.0, 1.0], [0.8, -0.6], [0.0, 2.0]])


class Looked(nn.Module):
    """A token's state is its row of a table."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids",)
    direction: ClassVar[str] = "bidirectional"

    @nn.compact
    def __call__(self, tokens, segment_ids=None, *, train=False):
        table = self.param("table", nn.initializers.zeros, VECTORS.shape)
        return NeuralOutput(table[tokens], table.T, {}, vocab_size=6)


# Two rows of three texts: a token each, and two for the last text, whose mean has the direction of the first.
BATCH = {
    "tokens": jnp.array([[0, 1, 2, 2], [3, 4, 5, 3]]),
    "segment_ids": jnp.array([[1, 2, 3, 0], [1, 2, 3, 3]]),
    "text_ids": jnp.array([[10, 11, 12], [13, 14, 15]]),
    "weights": jnp.ones((2, 1)),
}
# Cosines of the anchors with both positives, then with both hard negatives.
COSINES = np.array([[0.28, 0.8, -1.0, 0.0], [0.96, -0.6, 0.0, 1.0]])


def loss_out(batch=BATCH, table=VECTORS, **options):
    objective = Contrastive(Config(**options), Looked())
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0), True)
    return objective({"table": jnp.asarray(table)}, ctx, batch)


def by_hand(logits, own):
    return np.log(np.exp(logits).sum()) - logits[own]


def test_two_rows_of_three_texts_by_hand():
    logits = COSINES / 0.5
    out = loss_out(temperature=0.5)
    expected = by_hand(logits[0], 0) + by_hand(logits[1], 1)
    np.testing.assert_allclose(out.sums["nll"], expected, rtol=1e-6)
    np.testing.assert_allclose(out.report["loss"].weight, 2)
    np.testing.assert_allclose(
        out.report["accuracy"].total, 0
    )  # 0.8 beats 0.28, and 1.0 beats -0.6
    weights = Contrastive(Config(), Looked()).weights(BATCH)
    assert weights == {"nll": 2.0}


def test_symmetric_is_the_mean_of_both_directions():
    logits = COSINES / 0.5
    back = logits[:, :2].T
    one_way = by_hand(logits[0], 0) + by_hand(logits[1], 1)
    other_way = by_hand(back[0], 0) + by_hand(back[1], 1)
    out = loss_out(temperature=0.5, symmetric=True)
    np.testing.assert_allclose(out.sums["nll"], (one_way + other_way) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("ids", "left"),
    [
        ([[10, 11, 12], [13, 11, 15]], [[0, 2, 3], [1, 2, 3]]),  # the same positive
        ([[10, 11, 12], [10, 14, 15]], [[0, 2, 3], [1, 2, 3]]),  # the same anchor
        ([[10, 11, 12], [13, 10, 15]], [[0, 2, 3], [0, 1, 2, 3]]),  # a positive is the anchor
        ([[10, 11, 12], [13, 14, 11]], [[0, 1, 2], [0, 1, 2, 3]]),  # a negative is the positive
    ],
)
def test_what_is_no_negative_is_left_out(ids, left):
    logits = COSINES / 0.05
    expected = sum(by_hand(logits[row, kept], kept.index(row)) for row, kept in enumerate(left))
    out = loss_out(BATCH | {"text_ids": jnp.array(ids)})
    np.testing.assert_allclose(out.sums["nll"], expected, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_row_of_weight_0_changes_nothing(symmetric):
    two = {name: value[:2] for name, value in BATCH.items()}
    filling = {"tokens": jnp.array([[1, 1, 1, 1]]), "segment_ids": jnp.array([[0, 0, 0, 0]]),
               "text_ids": jnp.array([[0, 0, 0]]), "weights": jnp.zeros((1, 1))}  # fmt: skip
    three = {name: jnp.concatenate([two[name], filling[name]]) for name in two}
    gradient = jax.grad(
        lambda table, batch: loss_out(batch, table, symmetric=symmetric).sums["nll"]
    )
    table = jnp.asarray(VECTORS)
    np.testing.assert_allclose(
        loss_out(three, symmetric=symmetric).sums["nll"],
        loss_out(two, symmetric=symmetric).sums["nll"], rtol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(gradient(table, three), gradient(table, two), atol=1e-6)


@pytest.mark.slow
def test_gradient_against_finite_differences():
    table = np.asarray(VECTORS, np.float64)
    with jax.enable_x64(True):
        from jax.test_util import check_grads

        check_grads(
            lambda t: loss_out(table=t, temperature=0.5, symmetric=True).sums["nll"],
            (table,), order=1, modes="rev", atol=1e-3, rtol=1e-3,
        )  # fmt: skip


def test_is_torchs_cross_entropy_of_the_similarities():
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(8, 3, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    ids = jnp.arange(24).reshape(8, 3)
    anchors, positives, negatives = (torch.tensor(vectors[:, place]) for place in range(3))
    similar = anchors @ torch.cat([positives, negatives]).T * 20
    own = torch.arange(8)
    one_way = torch.nn.functional.cross_entropy(similar, own, reduction="none")
    back = torch.nn.functional.cross_entropy(similar[:, :8].T, own, reduction="none")
    for symmetric, expected in ((False, one_way), (True, (one_way + back) / 2)):
        objective = Contrastive(Config(temperature=0.05, symmetric=symmetric), Looked())
        found, _ = objective.scores(jnp.asarray(vectors), ids, jnp.ones(8))
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_a_text_is_told_from_itself_by_dropout_alone():
    model = BERT(BERTConfig(vocab_size=16, num_layers=1, d_model=16, num_heads=2, max_len=8,
                            head="none", dropout=0.5))  # fmt: skip
    row = jnp.array([1, 2, 3, 4])
    tokens = jnp.stack([jnp.tile(row, 2), jnp.tile(row + 5, 2)])
    batch = {
        "tokens": tokens,
        "segment_ids": jnp.broadcast_to(jnp.repeat(jnp.array([1, 2]), 4), (2, 8)),
        "positions": jnp.broadcast_to(jnp.tile(jnp.arange(4), 2), (2, 8)),
        "text_ids": jnp.array([[1, 1], [2, 2]]),
        "weights": jnp.ones((2, 1)),
    }
    params = model.init(jax.random.key(1), tokens)["params"]

    def cosine(train):
        inputs = {name: batch[name] for name in ("tokens", "segment_ids", "positions")}
        output = model.apply(
            {"params": params}, **inputs, train=train, rngs={"dropout": jax.random.key(2)}
        )
        vectors = sentences.vectors(output.hidden, batch["segment_ids"], 2)
        return jnp.einsum("BD,BD->B", vectors[:, 0], vectors[:, 1])

    np.testing.assert_allclose(cosine(train=False), 1, atol=1e-5)
    assert float(cosine(train=True).max()) < 0.99


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Table(), "needs a model that is bidirectional"),
        (BERT(BERTConfig(head="mlm", vocab_size=8)), 'needs model.head="none", not "mlm"'),
    ],
)
def test_refuses_what_is_no_sentence_encoder(model, message):
    with pytest.raises(ValueError, match=message):
        Contrastive(Config(), model)
    Contrastive(Config(), Bidirectional())


def test_temperature_is_above_0():
    with pytest.raises(ValueError, match="objective.temperature=0 must be above 0"):
        Config(temperature=0)
