"""An evaluator of one task of a mixture, "tagging@ner": its examples alone, its labels alone, its names before the scores."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxlm import registry
from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, Batch, TaskInfo
from jaxlm.eval import EVALUATORS, Evaluator, Scores

AT = "@"


def make(name: str, info: TaskInfo, seq_len: int, objective: str, where: str) -> Evaluator:
    """The evaluator that a config names: NAME, or of a mixture NAME@TASK.

    Args:
      name: the config's.
      info, seq_len, objective: see Evaluator.
      where: the config's key, for messages.

    Raises:
      ValueError: no such evaluator or task, or one that does not score this data.
    """
    kind, _, task = name.partition(AT)
    found = registry.lookup(EVALUATORS, kind, where)
    if task and task not in info.parts:
        raise ValueError(
            f'{where}="{name}": the data has no task "{task}"{registry.nearest(task, info.parts)}'
        )
    if task and "val" in info.splits and "val" not in info.parts[task].splits:
        raise ValueError(
            f'{where}="{name}": data.tasks.{task} has no lines to validate on (val_fraction, val_path)'
        )
    if task:
        return OfTask(found(info.parts[task], seq_len, objective), info, task)
    if info.parts and info.labels and not getattr(found, "of_mixtures", False):
        raise ValueError(
            f'{where}="{kind}": the tasks of a mixture have labels of their own; name those of one task, '
            f'"{kind}{AT}{next(iter(info.parts))}"'
        )
    return found(info, seq_len, objective)


class OfTask:
    """Another evaluator, of the batches of one task; what it finds is called TASK_NAME."""

    def __init__(self, evaluator: Evaluator, info: TaskInfo, task: str):
        self.evaluator, self.task = evaluator, task
        names = list(info.parts)
        self.number = names.index(task)
        counts = [len(part.labels) for part in info.parts.values()]
        self.first, self.num_labels = sum(counts[: self.number]), counts[self.number]
        for name in ("writes", "tokenizer"):  # only those that write have the first
            if hasattr(evaluator, name):
                setattr(self, name, getattr(evaluator, name))

    def outputs(self, output: NeuralOutput, batch: Batch) -> dict[str, Array]:
        """As the evaluator's, of a head with this task's labels alone."""
        if self.num_labels:
            own = slice(self.first, self.first + self.num_labels)
            bias = None if output.bias_V is None else output.bias_V[own]
            head = output.head_DV[:, own]
            output = output.replace(head_DV=head, bias_V=bias, vocab_size=self.num_labels)
        return self.evaluator.outputs(output, batch)

    def own(self, data: Iterable[Batch]) -> Iterator[Batch]:
        """The task's batches, whose targets count in its own labels."""
        for batch in data:
            if batch["task"][0] != self.number:
                continue
            targets = np.where(batch["weights"] > 0, batch["targets"] - self.first, 0)
            yield {**batch, "targets": targets.astype(np.int32)}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """As the evaluator's; rows, tables and examples say which task they are of. Nothing of a split that only others have."""
        batches = self.own(data)
        if (first := next(batches, None)) is None:
            return Scores([])
        found = self.evaluator.run(predict, itertools.chain([first], batches))
        return Scores(
            [dataclasses.replace(row, name=f"{self.task}_{row.name}") for row in found.rows],
            [{**example, "task": self.task} for example in found.examples],
            {f"{self.task}_{name}": table for name, table in found.tables.items()},
        )
