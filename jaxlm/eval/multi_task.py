"""All tasks of a mixture by two figures each run can be chosen by: the mean over tasks of their loss and of their accuracy.

Not each task's own scores: those are other evaluators', "tagging@ner" (eval/of_task.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxlm.core import numerics
from jaxlm.core.outputs import NeuralOutput, scored
from jaxlm.core.types import Array, Batch, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.metric import collect, make_row


class MultiTask:
    """Every task counts alike, whatever its number of examples. Classes are those of an example's own task alone."""

    of_mixtures: ClassVar[bool] = True

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError for data that is no mixture."""
        if not info.parts:
            raise ValueError('evaluators: "multi_task" scores the tasks of data.kind="mixture"')
        self.tasks, self.classes = tuple(info.parts), bool(info.labels)
        counts = [len(part.labels) for part in info.parts.values()]
        self.firsts = np.cumsum([0, *counts]).astype(np.int32)
        self.signature = f"objective={objective}|mean over {len(self.tasks)} tasks"

    def outputs(self, output: NeuralOutput, batch: Batch) -> dict[str, Array]:
        """nll_BT and correct_BT."""

        def figures(logits: Array, targets: Array, first: Array, end: Array) -> Any:
            if self.classes:
                logits = numerics.within(logits, first, end)
            return numerics.token_stats(logits, targets)

        firsts, shape = jnp.asarray(self.firsts), batch["targets"].shape
        ends = (firsts[batch["task"]], firsts[batch["task"] + 1])
        ends = [jnp.broadcast_to(one[:, None], shape) for one in ends]
        stats = scored((output,), figures, batch["targets"], *ends)
        return {"nll": stats.nll, "correct": stats.correct}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows `loss` and `accuracy`.

        Raises:
          ValueError: the data holds no weighed target.
        """
        arrays = collect(predict, data, ("task",))
        weights = arrays["weights"]
        mine_NK = arrays["task"][:, None] == np.arange(len(self.tasks))[None]
        signature = f"{self.signature}|targets={int(weights.sum())}|rows={len(weights)}"

        def row(name: str, values: np.ndarray, unit: str) -> Row:
            sums = [(values * weights).sum(1), weights.sum(1)]
            return make_row(
                name,
                np.concatenate([mine_NK * one[:, None] for one in sums], 1),
                unit=unit,
                finish="mean_ratio",
                signature=signature,
                higher_is_better=unit == "fraction",
            )

        loss = row("loss", arrays["nll"], "nats/target")
        return Scores([loss, row("accuracy", arrays["correct"], "fraction")])
