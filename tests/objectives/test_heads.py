"""Choices, spans, sets of labels and scores by hand: losses, what weighs nothing, gradients, other heads refused."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import heads
from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import LossContext
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.objectives import choice, multi_label, regression, span
from jaxlm.objectives.token_nll import NoOptions

CONTEXT = LossContext({}, {}, jnp.int32(0), jax.random.key(0))


class Given(nn.Module):
    """Its logits are its parameters [B, T, V]."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    config: Any = None

    @nn.compact
    def __call__(self, tokens, *, train=False):
        return output(self.get_variable("params", "logits"))


def output(logits):
    size = logits.shape[-1]
    return NeuralOutput(logits, jnp.eye(size), {}, vocab_size=size)


def made(kind, head):
    return kind(NoOptions(), Given(BERTConfig(head=head)))


def loss(objective, logits, batch):
    out = objective({"logits": jnp.asarray(logits)}, CONTEXT, batch)
    weights = objective.weights(batch)
    (name,) = objective.terms
    return out.sums[name] / weights[name], out


def batch(**values):
    arrays = {name: jnp.asarray(value) for name, value in values.items()}
    size = len(arrays["targets"])
    return {"tokens": jnp.zeros((size, 4), jnp.int32)} | arrays


# Row 0 has two choices, at places 0 and 2; row 1 three, at 0, 1 and 3; row 2 is filling.
CHOICES = batch(
    starts=[[0, 2, -1], [0, 1, 3], [0, 0, 0]],
    targets=[[1], [0], [0]],
    weights=[[1.0], [1.0], [0.0]],
)
SCORES = np.log([[[1.0], [9.0], [3.0], [9.0]], [[2.0], [1.0], [9.0], [1.0]], [[9.0]] * 4])
SCORES = SCORES.astype(np.float32)


def test_choices_by_hand():
    """1 : 3 of two choices, 2 : 1 : 1 of three; what stands at other places, or is no choice, plays no part."""
    value, out = loss(made(choice.Choice, "token"), SCORES, CHOICES)
    np.testing.assert_allclose(value, -(np.log(3 / 4) + np.log(2 / 4)) / 2, rtol=1e-6)
    assert float(out.report["accuracy"].total) == 2 and float(out.report["accuracy"].weight) == 2
    answers = made(choice.Choice, "token").answers(output(jnp.asarray(SCORES)), CHOICES)
    assert answers.tolist()[:2] == [[1], [0]]


# Places 1 and 3 are no part of the text.
SPANS = batch(
    allowed=[[1, 0, 1, 1, 1], [1, 0, 1, 1, 0]],
    targets=[[2, 4], [0, 0]],
    weights=np.ones((2, 2), np.float32),
)
ENDS = np.log(
    [  # beginning, end
        [[1.0, 1.0], [90.0, 90.0], [5.0, 7.0], [2.0, 1.0], [2.0, 3.0]],
        [[4.0, 3.0], [90.0, 90.0], [1.0, 1.0], [3.0, 4.0], [90.0, 90.0]],
    ]
).astype(np.float32)


def test_spans_by_hand():
    value, out = loss(made(span.Span, "token"), ENDS, SPANS)
    shares = [5 / 10, 3 / 12, 4 / 8, 3 / 8]
    np.testing.assert_allclose(value, -np.log(shares).mean(), rtol=1e-6)
    assert float(out.report["accuracy"].total) == 2  # both beginnings
    # Of the ends that are not before the beginning; a beginning at [CLS] has its end there.
    answers = made(span.Span, "token").answers(output(jnp.asarray(ENDS)), SPANS)
    assert answers.tolist() == [[2, 2], [0, 0]]
    later = (
        jnp.asarray(ENDS).at[0, 0, 1].set(9.0)
    )  # the likeliest end of all is before the beginning
    assert made(span.Span, "token").answers(output(later), SPANS).tolist()[0] == [2, 2]


def test_sets_of_labels_by_hand():
    logits = np.log([[[1.0, 3.0, 1.0]], [[1.0, 1.0, 1 / 3]]]).astype(np.float32)  # odds
    given = batch(targets=np.float32([[1, 1, 0], [0, 1, 1]]), weights=np.ones((2, 3), np.float32))
    value, out = loss(made(multi_label.MultiLabel, "sequence"), logits, given)
    shares = [1 / 2, 3 / 4, 1 / 2, 1 / 2, 1 / 2, 1 / 4]
    np.testing.assert_allclose(value, -np.log(shares).mean(), rtol=1e-6)
    assert float(out.report["accuracy"].total) == 3  # an even chance is no prediction
    answers = made(multi_label.MultiLabel, "sequence").answers(output(jnp.asarray(logits)), given)
    assert answers.tolist() == [[0, 1, 0], [0, 0, 0]]


def test_sets_of_labels_are_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (4, 1, 5)).astype(np.float32)  # far out, where exp would overflow
    targets = rng.integers(0, 2, (4, 5)).astype(np.float32)
    given = batch(targets=targets, weights=np.ones((4, 5), np.float32))
    value, _ = loss(made(multi_label.MultiLabel, "sequence"), logits, given)
    expected = torch.nn.BCEWithLogitsLoss()(torch.tensor(logits[:, 0]), torch.tensor(targets))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)


def test_scores_by_hand():
    logits = np.float32([[[1.0]], [[-2.0]], [[9.0]]])
    given = batch(targets=np.float32([[0.5], [1.0], [0.0]]), weights=np.float32([[1], [1], [0]]))
    value, out = loss(made(regression.Regression, "sequence"), logits, given)
    assert float(value) == (0.25 + 9) / 2 and float(out.report["loss"].total) == 9.25
    answers = made(regression.Regression, "sequence").answers(output(jnp.asarray(logits)), given)
    assert answers.tolist() == [[1], [-2], [9]]


@pytest.mark.parametrize(
    "kind, head, logits, given",
    [
        (choice.Choice, "token", SCORES, CHOICES),
        (span.Span, "token", ENDS, SPANS),
        (
            multi_label.MultiLabel,
            "sequence",
            np.float32([[[0.3, -1.0]], [[2.0, 0.1]]]),
            batch(targets=np.float32([[1, 0], [0, 0]]), weights=np.float32([[1, 1], [0, 0]])),
        ),
        (
            regression.Regression,
            "sequence",
            np.float32([[[0.3]], [[2.0]]]),
            batch(targets=np.float32([[1.0], [5.0]]), weights=np.float32([[1], [0]])),
        ),
    ],
)
def test_gradients_are_those_of_finite_differences(kind, head, logits, given):
    objective = made(kind, head)
    value = jax.jit(lambda x: loss(objective, x, given)[0])
    gradient = np.asarray(jax.grad(value)(jnp.asarray(logits)))
    step = 1e-2
    for place in np.ndindex(logits.shape):
        moved = np.zeros_like(logits)
        moved[place] = step
        slope = (float(value(logits + moved)) - float(value(logits - moved))) / (2 * step)
        assert gradient[place] == pytest.approx(slope, abs=2e-3)
    ignored = np.asarray(given["weights"]).sum(1) == 0
    assert np.isfinite(gradient).all() and not gradient[ignored].any()


@pytest.mark.parametrize(
    "kind, name, wrong, right",
    [
        (choice.Choice, "choice", "sequence", "token"),
        (span.Span, "span", "mlm", "token"),
        (multi_label.MultiLabel, "multi_label", "token", "sequence"),
        (regression.Regression, "regression", "none", "sequence"),
    ],
)
def test_other_heads_are_refused(kind, name, wrong, right):
    message = f'objective.kind="{name}" needs model.head="{right}", not "{wrong}"'
    with pytest.raises(ValueError, match=message):
        kind(NoOptions(), BERT(BERTConfig(head=wrong)))
    with pytest.raises(ValueError, match='head="token", not Headless, which has none'):
        span.Span(NoOptions(), type("Headless", (), {"inputs": (), "optional_inputs": ()})())


def test_choices_in_one_row_are_those_in_rows_of_their_own():
    """Segments and positions of their own: the score of a choice is that of [CLS] question [SEP] choice [SEP] alone."""
    config = BERTConfig(
        vocab_size=20, num_layers=1, d_model=16, num_heads=2, max_len=16, head="token", num_labels=1
    )
    model = BERT(config)
    first, second = [2, 5, 6, 3, 7, 3], [2, 5, 6, 3, 8, 9, 3]
    row = jnp.array([[*first, *second, 0]])
    ids = jnp.array([[1] * 6 + [2] * 7 + [0]])
    positions = jnp.array([[*range(6), *range(7), 0]])
    types = jnp.array([[0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0]])
    params = jax.jit(model.init)(jax.random.key(1), row)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    packed = model.apply({"params": params}, row, ids, types, positions)
    found = heads.choice_logits(packed, jnp.array([[0, 6, -1]]))
    for number, (alone, own) in enumerate(((first, types[:, :6]), (second, types[:, 6:13]))):
        single = model.apply({"params": params}, jnp.array([alone]), None, own)
        np.testing.assert_allclose(found[0, number], single.logits()[0, 0, 0], rtol=1e-5)
    assert found[0, 2] == heads.NEVER
