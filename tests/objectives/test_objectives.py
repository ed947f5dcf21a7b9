"""Every objective on a 2x3 case by hand, on ignored targets, by finite differences, and on models that it refuses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import PROBS, Bidirectional, Blanked, Classifier, Pair, Prefixed, Table, loss_out

from jaxlm.core.types import LossContext
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.objectives import blank_infilling, classification, masked_lm, prefix_lm, seq2seq
from jaxlm.objectives.token_nll import Config, TokenNLL

TOKENS = jnp.array([[0, 1, 2], [2, 2, 0]])
TARGETS = jnp.array([[1, 1, 2], [0, 1, 2]])
WEIGHTS = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0]])
BATCH = {"tokens": TOKENS, "targets": TARGETS, "weights": WEIGHTS}
NLL = -np.log([[0.25, 0.8, 0.6], [0.2, 0.2, 0.25]])  # PROBS[token, target]


class Case(NamedTuple):
    objective: type[TokenNLL]
    model: type
    batch: dict
    nll: np.ndarray
    ignored: tuple[int, int]  # a place of weight 0
    accuracy: float | None = None


def halved(row):
    """Square roots of a row of probabilities, made to sum to 1 again."""
    return np.sqrt(row) / np.sqrt(row).sum()


SECOND = -np.log([halved(PROBS[2])[0], halved(PROBS[2])[1], halved(PROBS[0])[2]])
# The prefix of row 0 is its first two tokens: place 0 has the logits of token 1 and its target is inside.
IN_PREFIX = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.5, 0.0]])

CASES = [
    Case(
        prefix_lm.PrefixLM,
        Prefixed,
        BATCH | {"prefix_lengths": jnp.array([2, 1]), "weights": IN_PREFIX},
        np.array([[-np.log(0.8), *NLL[0, 1:]], NLL[1]]),
        (0, 0),
    ),
    Case(masked_lm.MaskedLM, Bidirectional, BATCH, NLL, (1, 2), 2 / 4.5),
    Case(
        seq2seq.Seq2Seq,
        Pair,
        BATCH | {"source": jnp.array([[0, 1], [1, 0]])},
        np.array([NLL[0], SECOND]),
        (1, 2),
    ),
    Case(
        blank_infilling.BlankInfilling,
        Blanked,
        BATCH
        | {
            "source": jnp.array([[0, 1], [1, 0]]),
            "positions": jnp.array([[0, 0, 0], [1, 1, 0]]),
            "block_positions": jnp.array([[1, 2, 3], [1, 2, 1]]),
        },
        np.array([[-np.log(halved(PROBS[0])[1]), *NLL[0, 1:]], [SECOND[0], NLL[1, 1], SECOND[2]]]),
        (1, 2),
        2 / 4.5,
    ),
    Case(
        classification.Classification,
        Classifier,
        {
            "tokens": jnp.array([[0, 1, 2], [2, 2, 0], [1, 0, 0], [1, 0, 0]]),
            "targets": jnp.array([[0], [1], [1], [0]]),
            "weights": jnp.array([[1.0], [1.0], [0.5], [0.0]]),
        },
        -np.log([[0.5], [0.2], [0.8], [0.1]]),
        (3, 0),
        1.5 / 2.5,
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.objective.__name__)
def case(request):
    return request.param


def test_sums_by_hand(case):
    objective = case.objective(Config(), case.model())
    out = loss_out(objective, case.batch)
    weights = np.asarray(case.batch["weights"])
    np.testing.assert_allclose(out.sums["nll"], (case.nll * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(objective.weights(case.batch)["nll"], weights.sum())
    np.testing.assert_allclose(out.report["loss"].weight, weights.sum())
    if case.accuracy is None:
        assert set(out.report) == {"loss"}
    else:
        accuracy = out.report["accuracy"]
        np.testing.assert_allclose(accuracy.total / accuracy.weight, case.accuracy, rtol=1e-6)


def test_ignored_targets_change_nothing(case):
    objective = case.objective(Config(label_smoothing=0.1, z_loss=1e-3), case.model())
    other = case.batch["targets"].at[case.ignored]
    for target in range(3):
        assert (
            loss_out(objective, case.batch | {"targets": other.set(target)}).sums
            == loss_out(objective, case.batch).sums
        )


def test_gradient_against_finite_differences(case):
    objective = case.objective(Config(label_smoothing=0.2, z_loss=0.01), case.model())
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))

    @jax.jit
    def loss(table):
        out = objective({"table": table}, ctx, case.batch)
        return out.sums["nll"] + 0.01 * out.sums["z"]

    table = jnp.log(jnp.asarray(PROBS, jnp.float32)) + 0.5
    grads = jax.grad(loss)(table)
    for i in range(3):
        for j in range(3):
            up, down = loss(table.at[i, j].add(1e-2)), loss(table.at[i, j].add(-1e-2))
            np.testing.assert_allclose(grads[i, j], (up - down) / 2e-2, atol=2e-3)


@pytest.mark.parametrize(
    ("objective", "model", "message"),
    [
        (prefix_lm.PrefixLM, Bidirectional, 'objective.kind="prefix_lm" needs a model .* causal'),
        (prefix_lm.PrefixLM, Table, "Table does not read prefix_lengths"),
        (masked_lm.MaskedLM, Table, "is causal.*For this model: causal_lm, prefix_lm"),
        (blank_infilling.BlankInfilling, Pair, "Pair does not read block_positions"),
        (seq2seq.Seq2Seq, Bidirectional, "needs a model that is encoder_decoder"),
    ],
)
def test_a_model_of_another_direction_is_refused(objective, model, message):
    with pytest.raises(ValueError, match=message):
        objective(Config(), model())


def test_a_class_of_a_row_for_a_model_that_scores_tokens_is_refused():
    objective = classification.Classification(Config(), Bidirectional())
    batch = {"tokens": TOKENS, "targets": TARGETS[:, :1], "weights": WEIGHTS[:, :1]}
    with pytest.raises(ValueError, match=r"targets are \(2, 1\), and the model scores \(2, 3\)"):
        loss_out(objective, batch)


def test_a_head_that_is_not_one_of_tokens_is_refused():
    model = BERT(BERTConfig(vocab_size=10, head="token", num_labels=2))
    with pytest.raises(ValueError, match='"masked_lm" needs model.head="mlm", not "token"'):
        masked_lm.MaskedLM(Config(), model)
