"""One head for several tasks: each task's softmax over its own labels, by hand; its scores by its own evaluators."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from tables import PROBS, loss_out, output

from jaxlm.core.types import SplitInfo, TaskInfo
from jaxlm.eval import of_task
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.objectives.multi_task import Config, MultiTask

# Task a has label 0 and 1, task b label 2; of task a's rows the first two of three probabilities count.
TASKS = {"tasks": ("a", "b"), "num_labels": (2, 1)}
BATCH = {
    "tokens": jnp.array([[0, 1], [2, 2], [1, 0]]),
    "targets": jnp.array([[1, 1], [2, 2], [0, 0]]),
    "weights": jnp.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
    "task": jnp.array([0, 1, 0]),
}
NLL = -np.log([[0.25 / 0.75, 0.8 / 0.9], [1.0, 1.0], [0.1 / 0.9, 0.5 / 0.75]])


class Tokens(nn.Module):
    """A token's logits by the token itself."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    config: ClassVar = type("Head", (), {"head": "token"})

    @nn.compact
    def __call__(self, tokens, *, train=False):
        return output(self.param("table", nn.initializers.zeros, (3, 3))[tokens])


def test_sums_by_hand():
    """Rows count once: of the first, half of each of its two targets. The last one's answer is wrong."""
    objective = MultiTask(Config(**TASKS), Tokens())
    assert objective.terms == {"a": 1.0, "b": 1.0}
    out = loss_out(objective, BATCH)
    np.testing.assert_allclose(out.sums["a"], NLL[0].mean() + NLL[2, 0], rtol=1e-5)
    np.testing.assert_allclose(out.sums["b"], 0, atol=1e-6)  # its only label
    assert {name: float(w) for name, w in objective.weights(BATCH).items()} == {"a": 3, "b": 3}
    means = {name: float(one.total / one.weight) for name, one in out.report.items()}
    assert means == pytest.approx(
        {
            "loss": (NLL[0].sum() + NLL[2, 0]) / 4,
            "a_loss": (NLL[0].sum() + NLL[2, 0]) / 3,
            "a_accuracy": 1 / 3,  # of 0.5, 0.25 the first is likelier, and of 0.1, 0.8 the second
            "b_loss": 0,
            "b_accuracy": 1,
        },
        abs=1e-6,
    )


def test_targets_may_count_instead_of_rows():
    objective = MultiTask(Config(average="target", **TASKS), Tokens())
    out = loss_out(objective, BATCH)
    np.testing.assert_allclose(out.sums["a"], NLL[0].sum() + NLL[2, 0], rtol=1e-5)
    assert objective.weights(BATCH)["b"] == 4


def test_smoothing_spreads_over_the_task_s_own_labels():
    objective = MultiTask(Config(label_smoothing=0.5, z_loss=0.1, **TASKS), Tokens())
    out = loss_out(objective, BATCH)
    own = np.log(PROBS[:, :2] / PROBS[:, :2].sum(1, keepdims=True))
    uniform = -own.mean(1)  # by token
    expected = 0.5 * (NLL[0].mean() + NLL[2, 0]) + 0.5 * (uniform[[0, 1]].mean() + uniform[1])
    np.testing.assert_allclose(out.sums["a"], expected, rtol=1e-5)
    z = np.log([0.75, 0.9]) ** 2
    np.testing.assert_allclose(out.sums["z"], z.mean() + np.log(0.6) ** 2 + z[1], rtol=1e-4)


def test_without_labels_all_tasks_share_the_vocabulary():
    objective = MultiTask(Config(tasks=("a", "b"), num_labels=(0, 0)), Tokens())
    plain = -np.log(PROBS)
    out = loss_out(objective, BATCH)
    np.testing.assert_allclose(out.sums["b"], plain[2, 2], rtol=1e-5)


INFO = {"splits": {"val": SplitInfo(3, 6, 6)}, "vocab_size": 3}
PARTS = {"a": TaskInfo(labels=("x", "y"), **INFO), "b": TaskInfo(labels=("z",), **INFO)}
MIXTURE = TaskInfo(labels=("a/x", "a/y", "b/z"), parts=PARTS, **INFO)


def score(name):
    """The rows of an evaluator over the batch above, in batches of one task each as a mixture gives them."""
    evaluator = of_task.make(name, MIXTURE, 2, "multi_task", "evaluators[0]")
    data = [
        {key: np.asarray(values)[rows] for key, values in BATCH.items()} | {"id": np.array(rows)}
        for rows in ([0, 2], [1])
    ]

    def predict(batch):
        made = output(jnp.log(PROBS)[batch["tokens"]])
        return {key: np.asarray(value) for key, value in evaluator.outputs(made, batch).items()}

    return evaluator.run(predict, data)


def test_a_task_s_own_evaluator_sees_its_rows_and_labels_alone():
    scores = score("accuracy@a")
    values = {row.name: row.value for row in scores.rows}
    assert values["a_accuracy"] == pytest.approx(1 / 3)
    assert values["a_loss"] == pytest.approx((NLL[0].sum() + NLL[2, 0]) / 3, rel=1e-6)
    assert [(one["id"], one["task"]) for one in scores.examples] == [(0, "a"), (2, "a")]
    assert {row.name: row.value for row in score("accuracy@b").rows}["b_accuracy"] == 1


def test_a_split_that_only_other_tasks_have_is_scored_for_those():
    """As a test part of one of six tasks; but a score that can never be told is refused before the run."""
    evaluator = of_task.make("accuracy@b", MIXTURE, 2, "multi_task", "evaluators[0]")
    only_a = {key: np.asarray(values)[[0, 2]] for key, values in BATCH.items()}
    assert evaluator.run(None, [only_a]).rows == []
    untold = dataclasses.replace(MIXTURE, parts=PARTS | {"b": TaskInfo(3, {}, labels=("z",))})
    with pytest.raises(ValueError, match="data.tasks.b has no lines to validate on"):
        of_task.make("accuracy@b", untold, 2, "multi_task", "evaluators[0]")


def test_all_tasks_count_alike_in_the_mean():
    values = {row.name: row.value for row in score("multi_task").rows}
    assert values["accuracy"] == pytest.approx((1 / 3 + 1) / 2)
    assert values["loss"] == pytest.approx((NLL[0].sum() + NLL[2, 0]) / 6, rel=1e-6)


def test_answers_are_of_the_task_s_own_labels():
    objective = MultiTask(Config(**TASKS), Tokens())
    made = output(jnp.log(PROBS)[BATCH["tokens"]])
    assert objective.answers(made, BATCH).tolist() == [[0, 1], [2, 2], [1, 0]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match='needs the tasks of data.kind="mixture"'):
        MultiTask(Config(), Tokens())
    with pytest.raises(ValueError, match='average="row": accepted are example, target'):
        Config(average="row")
    bert = BERT(BERTConfig(vocab_size=3, d_model=8, num_heads=1, head="sequence"))
    with pytest.raises(ValueError, match='model.head="token", not "sequence"'):
        MultiTask(Config(**TASKS), bert)
    with pytest.raises(ValueError, match="data.tasks.z: this name is a term"):
        MultiTask(Config(tasks=("z",), num_labels=(2,), z_loss=0.1), Tokens())
    with pytest.raises(ValueError, match='no task "c"'):
        score("accuracy@c")
    with pytest.raises(ValueError, match='name those of one task, "accuracy@a"'):
        score("accuracy")
    with pytest.raises(ValueError, match='scores the tasks of data.kind="mixture"'):
        of_task.make("multi_task", PARTS["a"], 2, "classification", "evaluators[0]")
