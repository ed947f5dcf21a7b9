"""The suite "run": a run's own evaluators over its own held-out data, as training scored them, once more."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
from ml_collections import FrozenConfigDict

from jaxlm.core.types import Batch, Task
from jaxlm.eval import Scores
from jaxlm.eval.metric import each_once
from jaxlm.eval.predict import Scorer
from jaxlm.eval.suites import Found
from jaxlm.train import assembly, parallel, plan

SPLITS = ("val", "test")


@dataclasses.dataclass(frozen=True)
class Run:
    """Scores `val_*` and `test_*` of the loaded weights, which are those that training evaluates with (EMA where on).

    Attributes:
      batch_size: rows at once; 0: the run's micro_batch_size. It moves no score.
      splits: which of them to score, joined by commas; "": val and test, where the data have them.
    """

    batch_size: int = 0
    splits: str = ""

    def __post_init__(self):
        if self.batch_size < 0:
            raise ValueError(f"--batch_size {self.batch_size} must be at least 0")

    def run(self, lm: Any) -> Found:
        """Every evaluator of the config, over every split.

        Raises:
          ValueError: no run of ours, other data than it was trained with, or no held-out data.
        """
        if lm.template or not lm.config.evaluators:
            raise ValueError(
                "--suite run: this is no run of ours with evaluators; name another suite"
            )
        cfg = FrozenConfigDict(lm.config)
        task = assembly.make_task(cfg)
        if lm.tokenizer is not None and task.info.tokenizer.digest != lm.tokenizer.digest:
            raise ValueError(
                "the data's tokenizer is not the one that this run was trained with: the text behind data.path has changed"
            )
        splits = self._splits(task)
        mesh = parallel.make_mesh(parallel.Config())  # of this machine, whatever it was trained on
        shards = parallel.batch_shards(mesh)
        rows_at_once = -(-(self.batch_size or cfg.micro_batch_size) // shards) * shards
        params = jax.device_put(lm.params, parallel.replicated(mesh))
        example = next(iter(task.eval(splits[0], rows_at_once)))
        with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
            scorers = make_scorers(lm, cfg, task, example, mesh)
            parts = []
            for split in splits:
                written: dict[Any, Any] = {}  # texts that several evaluators score
                for name, scorer in zip(cfg.evaluators, scorers, strict=True):
                    found = scorer(params, task.eval(split, rows_at_once), written)
                    by = name if len(scorers) > 1 else ""
                    examples = with_texts(found.examples, task, split)
                    parts.append(_named(found._replace(examples=examples), split, by))
        rows = each_once([row for part in parts for row in part.rows])
        examples = [example for part in parts for example in part.examples]
        tables = {name: table for part in parts for name, table in part.tables.items()}
        return Found(Scores(rows, examples, tables), {"data": task.info.digest})

    def _splits(self, task: Task) -> list[str]:
        wanted = [name for name in self.splits.split(",") if name]
        there = [name for name in (wanted or SPLITS) if name in task.info.splits]
        missing = [name for name in wanted if name not in there]
        if missing or not there:
            raise ValueError(
                f"--splits {self.splits or ','.join(SPLITS)}: the data has {', '.join(task.info.splits)}"
            )
        return there


def make_scorers(
    lm: Any, cfg: FrozenConfigDict, task: Task, example: Batch, mesh: Any
) -> list[Scorer]:
    """The config's evaluators, bound to a loaded model."""
    seq_len = plan.lengths_of(example, lm.model)[0]
    evaluators = assembly.make_evaluators(cfg, task, lm.model, seq_len)
    place, replicated = parallel.whole_placer(mesh), parallel.replicated(mesh)
    return [Scorer(evaluator, lm.model, place, replicated) for evaluator in evaluators]


def with_texts(examples: list[dict[str, Any]], task: Task, split: str) -> list[dict[str, Any]]:
    """With what was read, of data that can say it."""
    if not hasattr(task, "example"):
        return examples
    return [
        one
        if one.get("input") or "id" not in one
        else {"id": one["id"], "input": task.example(split, int(one["id"]))[1]}
        | {name: value for name, value in one.items() if name != "input"}
        for one in examples
    ]


def _named(scores: Scores, split: str, evaluator: str) -> Scores:
    """With the split before every name, and in examples the evaluator whose score they have."""
    rows = [dataclasses.replace(row, name=f"{split}_{row.name}") for row in scores.rows]
    by = {"evaluator": evaluator} if evaluator else {}
    examples = [
        {**example, "id": f"{split}/{example.get('id', number)}", **by}
        for number, example in enumerate(scores.examples)
    ]
    return Scores(rows, examples, {f"{split}_{name}": t for name, t in scores.tables.items()})
