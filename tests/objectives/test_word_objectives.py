"""Negative sampling and GloVe: loops over pairs as the papers write them, filling, and gradients against differences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import word_losses
from jaxlm.core.types import LossContext
from jaxlm.models.word_vectors import WordVectors, WordVectorsConfig
from jaxlm.objectives.glove import GloVe
from jaxlm.objectives.negative_sampling import NegativeSampling

V, D = 7, 3
CTX = LossContext({}, {}, jnp.int32(0), jax.random.key(0))


def model_of(**config):
    return WordVectors(WordVectorsConfig(vocab_size=V, d_model=D, **config))


def drawn(model, scale=0.8):
    """Tables of which no two entries are alike."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape) * scale), shapes["params"])


def windows(num_rows=2):
    """Two rows of six centres in blocks of two, windows up to 2, the second document beginning inside a row."""
    rng = np.random.default_rng(2)
    contexts = rng.integers(0, V, (num_rows, 10)).astype(np.int32)
    return {
        "tokens": contexts[:, 2:8],
        "contexts": contexts,
        "segment_ids": np.int32([[0, 0, 1, 1, 1, 2, 2, 2, 2, 2], [3, 3, 3, 3, 3, 3, 3, 3, 0, 0]])[
            :num_rows
        ],
        "radius": np.int32([[1, 2, 2, 1, 2, 0], [2, 1, 2, 2, 1, 2]])[:num_rows],
        "negatives": rng.integers(0, V, (num_rows, 3, 2)).astype(np.int32),
        "negative_weight": np.full((num_rows, 1), 2.5, np.float32),
    }


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def by_hand(params, batch, architecture):
    """The paper's sums, word by word: (loss, positives)."""
    inputs, outputs = (np.asarray(params[name]["embedding"]) for name in ("input", "output"))
    loss, positives = 0.0, 0
    for row in range(len(batch["tokens"])):
        for place in range(6):
            words, documents = batch["contexts"][row], batch["segment_ids"][row]
            around = [
                words[place + 2 + step]
                for step in range(-2, 3)
                if step
                and abs(step) <= batch["radius"][row, place]
                and documents[place + 2 + step] == documents[place + 2]
            ]
            centre = words[place + 2]
            if architecture == "skip_gram":
                targets = [(inputs[centre], word) for word in around]
            else:
                targets = [(inputs[around].mean(0), centre)] if around else []
            for vector, word in targets:
                positives += 1
                loss -= log_sigmoid(vector @ outputs[word])
                for negative in batch["negatives"][row, place // 2]:
                    if negative != word:
                        loss -= 2.5 * log_sigmoid(-vector @ outputs[negative])
    return loss, positives


@pytest.mark.parametrize("architecture", word_losses.ARCHITECTURES)
def test_the_loss_is_that_of_every_pair(architecture):
    model = model_of(architecture=architecture)
    params, batch = drawn(model), windows()
    objective = NegativeSampling(NegativeSampling.Config(), model)
    out = objective(params, CTX, batch)
    loss, positives = by_hand(params, batch, architecture)
    assert float(out.sums["nll"]) == pytest.approx(loss, rel=1e-5)
    assert float(objective.weights(batch)["nll"]) == positives == float(out.report["loss"].weight)


def test_a_single_pair_by_hand():
    """u.v = ln 3: s = 3/4; one negative at u.n = 0 counts twice: -ln(3/4) - 2 ln(1/2)."""
    model = model_of()
    params = jax.tree.map(jnp.zeros_like, drawn(model))
    params["input"]["embedding"] = params["input"]["embedding"].at[1, 0].set(1.0)
    params["output"]["embedding"] = params["output"]["embedding"].at[2, 0].set(np.log(3.0))
    batch = {
        "tokens": np.int32([[1]]),
        "contexts": np.int32([[0, 1, 2]]),
        "segment_ids": np.int32([[0, 1, 1]]),
        "radius": np.int32([[1]]),
        "negatives": np.int32([[[4]]]),
        "negative_weight": np.float32([[2.0]]),
    }
    out = NegativeSampling(NegativeSampling.Config(), model)(params, CTX, batch)
    assert float(out.sums["nll"]) == pytest.approx(-np.log(0.75) - 2 * np.log(0.5), rel=1e-6)


def test_words_of_filling_change_nothing():
    model = model_of()
    params, batch = drawn(model), windows()
    objective = NegativeSampling(NegativeSampling.Config(), model)
    other = batch | {"contexts": np.where(batch["segment_ids"] == 0, 6, batch["contexts"])}
    assert (other["contexts"] != batch["contexts"]).any()
    one, two = (objective(params, CTX, each).sums["nll"] for each in (batch, other))
    assert float(one) == float(two)


def numeric_gradient(loss, params, path, place, step=1e-3):
    def moved(by):
        part, name = path
        table = params[part][name].at[place].add(by)
        return float(loss({**params, part: {**params[part], name: table}}))

    return (moved(step) - moved(-step)) / (2 * step)


@pytest.mark.parametrize("architecture", word_losses.ARCHITECTURES)
def test_gradient_against_finite_differences(architecture):
    model = model_of(architecture=architecture)
    params, batch = drawn(model), windows()
    objective = NegativeSampling(NegativeSampling.Config(), model)

    def loss(params):
        return objective(params, CTX, batch).sums["nll"]

    grads = jax.grad(loss)(params)
    for part in ("input", "output"):
        for place in ((0, 0), (3, 2), (5, 1)):
            expected = numeric_gradient(loss, params, (part, "embedding"), place)
            assert float(grads[part]["embedding"][place]) == pytest.approx(
                expected, abs=5e-2, rel=1e-2
            )


def test_the_vector_of_a_word_with_pieces_is_the_mean():
    words, pieces = jnp.float32([[1.0], [2.0], [5.0]]), jnp.float32([[4.0], [7.0], [9.0], [1e9]])
    made = word_losses.compose(words, pieces, jnp.int32([0, 0, 1, 3]))
    np.testing.assert_allclose(made[:, 0], [(1 + 4 + 7) / 3, (2 + 9) / 2, 5.0])


@pytest.mark.parametrize("architecture", word_losses.ARCHITECTURES)
def test_pieces_of_no_word_leave_the_loss_that_of_words(architecture):
    """Rows of words without n-grams: the same figures by the other way of reading."""
    plain, pieced = (model_of(architecture=architecture, num_buckets=n) for n in (0, 4))
    params, batch = drawn(pieced), windows(1)
    unique, places = np.unique(batch["contexts"][0], return_inverse=True)
    more = {
        "words": np.pad(unique, (0, 10 - len(unique)))[None].astype(np.int32),
        "places": places[None].astype(np.int32),
        "pieces": np.zeros((1, 2), np.int32),
        "owners": np.full((1, 2), 10, np.int32),
    }
    found = [
        float(NegativeSampling(NegativeSampling.Config(), model)(params, CTX, each).sums["nll"])
        for model, each in ((plain, batch), (pieced, batch | more))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def counts():
    return {
        "tokens": np.int32([[1, 2, 0]]),
        "contexts": np.int32([[2, 2, 0]]),
        "counts": np.float32([[np.e, 1.0, 9.0]]),
        "weights": np.float32([[0.5, 1.0, 0.0]]),
    }


def test_glove_by_hand():
    """u.v + b + c - ln X: 2 + 0.5 - 1 = 1.5 at weight 1/2, and 0 - 0 at weight 1; filling counts for nothing."""
    model = model_of(biases=True)
    params = jax.tree.map(jnp.zeros_like, drawn(model))
    params["input"]["embedding"] = params["input"]["embedding"].at[1, 0].set(1.0)
    params["output"]["embedding"] = params["output"]["embedding"].at[2, 0].set(2.0)
    params["input"]["bias"] = params["input"]["bias"].at[1].set(0.5)
    objective = GloVe(GloVe.Config(), model)
    out = objective(params, CTX, counts())
    assert float(out.sums["squares"]) == pytest.approx(0.5 * 1.5**2, rel=1e-6)
    assert float(objective.weights(counts())["squares"]) == 2 == float(out.report["loss"].weight)


def test_gloves_gradient_against_finite_differences():
    model = model_of(biases=True)
    params, objective = drawn(model), GloVe(GloVe.Config(), model)

    def loss(params):
        return objective(params, CTX, counts()).sums["squares"]

    grads = jax.grad(loss)(params)
    for path, place in (
        (("input", "embedding"), (1, 2)),
        (("output", "bias"), (2,)),
        (("input", "bias"), (0,)),
    ):
        expected = numeric_gradient(loss, params, path, place)
        assert float(grads[path[0]][path[1]][place]) == pytest.approx(expected, abs=1e-2)


def test_models_that_they_are_not_for():
    with pytest.raises(ValueError, match='needs model.kind="word_vectors", not Dense'):
        NegativeSampling(NegativeSampling.Config(), nn.Dense(3))
    with pytest.raises(ValueError, match="needs model.biases=True"):
        GloVe(GloVe.Config(), model_of())
