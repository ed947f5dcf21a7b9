"""What a run shows while it goes: metric rows, evaluations, samples, profiles, and the stop on a non-finite step."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxlm.core.types import Batch, PyTree, TrainState
from jaxlm.eval import Row
from jaxlm.eval.metric import each_once
from jaxlm.eval.predict import Scorer
from jaxlm.train import assembly, parallel
from jaxlm.train.checkpoint import Checkpointer
from jaxlm.train.evaluation import with_texts
from jaxlm.train.meter import Meter
from jaxlm.train.samples import Sampler
from jaxlm.train.writers import Writer

SEGMENTS = ("segment_ids", "source_segment_ids")  # 0 where a position is filling
BOUNDARIES = {"eval": "eval_every", "sample": "sample_every", "checkpoint": "checkpoint_every"}


class Observer:
    """Turns the loop's raw results into rows for the writer; changes nothing of the run."""

    def __init__(self, cfg: Any, workdir: Any, parts: assembly.Parts, writer: Writer, meter: Meter):
        self.cfg, self.workdir, self.parts = cfg, workdir, parts
        self.writer, self.meter = writer, meter
        self.scorers = [
            Scorer(
                evaluator,
                parts.model,
                parallel.whole_placer(parts.mesh),
                parallel.replicated(parts.mesh),
            )
            for evaluator in parts.evaluators
        ]
        self.rows: tuple[int, list[Row]] = (-1, [])
        self.examples: list[dict[str, Any]] = []  # of the same evaluation
        tokenizer = parts.task.info.tokenizer
        is_text = not (parts.task.info.labels or parts.task.info.num_outputs)
        is_text &= getattr(
            parts.objective, "per_token", True
        )  # its loss, that is: not one of pairs
        self.token_bytes = tokenizer.token_bytes() if tokenizer and is_text else None
        self.sampler = Sampler(cfg, parts)
        self.profiling = False

    def due(self, done: int) -> set[str]:
        """What is to be done after `done` steps; everything after the last."""
        if done == self.cfg.num_steps:
            return set(BOUNDARIES)
        every = {what: self.cfg[key] for what, key in BOUNDARIES.items()}
        return {what for what, steps in every.items() if steps and done % steps == 0}

    def step_done(
        self, step: int, metrics: dict[str, Any], batch: Batch, wait_seconds: float
    ) -> None:
        """Wait for a step's metrics, check them, and write a row every `log_every` steps.

        Raises:
          FloatingPointError: the step was not finite and step.on_nonfinite is "stop".
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.meter.tick()
        done = step + 1
        if not values.pop("finite", 1.0):
            self._nonfinite(step, values, batch)
        if done % self.cfg.log_every == 0 or done == self.cfg.num_steps:
            row = values | self.meter.window(done, wait_seconds) | _fill(batch)
            num_bytes = self._bytes_per_token(batch)
            if "loss" in row and num_bytes:
                row["bits_per_byte"] = row["loss"] / math.log(2) / num_bytes
            self.writer.train(done, row)

    def _bytes_per_token(self, batch: Batch) -> float:
        """UTF-8 bytes that a weighed target of this batch stands for; 0 where that is unknown or it is a class."""
        if self.token_bytes is None or not {"targets", "weights"} <= batch.keys():
            return 0.0
        weights = batch["weights"]
        total = (self.token_bytes[batch["targets"]] * weights).sum()
        return float(total / max(1.0, weights.sum()))

    def _nonfinite(self, step: int, values: dict[str, float], batch: Batch) -> None:
        path = self.workdir / f"nonfinite_step_{step}.npz"
        shown = ", ".join(f"{name}={value}" for name, value in values.items())
        where = f"step {step} (batch {step} of seed {self.cfg.seed}) is not finite: {shown}"
        if self.parts.on_nonfinite == "skip":
            self.writer.log(f"skipped    {where}; parameters are as before it")
            return
        with path.open("wb") as file:
            np.savez(file, **{name: np.asarray(value) for name, value in batch.items()})
        raise FloatingPointError(
            f"{where}. Its batch is in {path}. Start again in another --workdir with a lower optim.learning_rate, where "
            "the step has one, or with step.on_nonfinite=skip to leave such batches out"
        )

    def show(self, due: set[str], state: TrainState, done: int) -> None:
        """The scores and samples that are due."""
        if "eval" in due:
            self.evaluate(state, done)
        if "sample" in due:
            self.sample(state, done)

    def evaluate(self, state: TrainState, done: int) -> None:
        """Every evaluator over the validation split, if the data has one."""
        if "val" not in self.parts.task.info.splits:
            return
        params, weights = assembly.evaluation_params(self.parts, state)
        rows, self.examples = self._scored(params, "val")
        self.rows = (done, rows)
        self.writer.eval(done, rows, weights)

    def _scored(self, params: PyTree, split: str) -> tuple[list[Row], list[dict[str, Any]]]:
        """Scores, and the examples in which something was predicted, of several evaluators with the name of theirs."""
        rows, examples, written = [], [], {}
        for name, scorer in zip(self.cfg.evaluators, self.scorers, strict=True):
            data = self.parts.task.eval(split, self.parts.micro_batch_size)
            scores = scorer(params, data, written)
            rows += scores.rows
            by = {"evaluator": name} if len(self.scorers) > 1 else {}
            examples += [one | by for one in scores.examples if "prediction" in one]
        return each_once(rows), examples

    def metric(self, done: int, name: str) -> float | None:
        """An evaluation value of this very step, for keep-best: lower is better, so an accuracy is negated."""
        step, rows = self.rows
        if step != done:
            return None
        values = {row.name: -row.value if row.higher_is_better else row.value for row in rows}
        if values and name not in values:
            raise ValueError(
                f'checkpoint.best_metric="{name}" is no score of this run: {", ".join(values)}'
            )
        return values.get(name)

    def final_scores(self, state: TrainState, done: int) -> dict[str, Any]:
        """`val_*` entries of the summary, see `_summary`; evaluates unless that was just done, and writes its predictions."""
        if self.rows[0] != done:
            self.evaluate(state, done)
        self._write_predictions("val", self.examples)
        scores: dict[str, Any] = {"val_loss": None, "val_bits_per_byte": None}
        scores["val_weights"] = "ema" if state.ema else "raw"
        return scores | _summary("val", self.rows[1])

    def test_scores(
        self, state: TrainState, done: int, checkpoints: Checkpointer
    ) -> dict[str, Any]:
        """`test_*` entries of the summary, of data with such a split: scored once, by the weights that validation chose.

        Those are the best checkpoint's, or the last ones where none was saved with a metric. The names without a split are
        then of these scores, no longer of validation's.
        """
        if "test" not in self.parts.task.info.splits:
            return {}
        params, weights = assembly.evaluation_params(self.parts, state)
        step = done
        if checkpoints.best_step() is not None:
            tree = "ema" if state.ema else "params"
            target = {tree: getattr(self.parts.abstract_state, tree)}
            restored, _, step = checkpoints.restore_best(target, partial=True)
            params = assembly.whole(self.parts, state, restored[tree])
        rows, examples = self._scored(params, "test")
        self.writer.eval(step, rows, weights, "test")
        self._write_predictions("test", examples)
        return {"test_step": step} | _summary("test", rows)

    def _write_predictions(self, split: str, examples: list[dict[str, Any]]) -> None:
        if examples:
            self.writer.predictions(split, with_texts(examples, self.parts.task, split))

    def sample(self, state: TrainState, done: int) -> None:
        """What the model writes or answers so far; nothing for models or data without text."""
        text = self.sampler(assembly.evaluation_params(self.parts, state)[0], done)
        if text:
            self.writer.samples(done, text)

    def profile(self, window: tuple[int, int] | None, step: int) -> None:
        """Start or stop a jax.profiler trace in workdir/profile."""
        if window and step == window[0]:
            jax.profiler.start_trace(str(self.workdir / "profile"))
            self.profiling = True
        if self.profiling and step == window[1]:
            self.end_profile()

    def end_profile(self) -> None:
        """Write the trace, if one is running."""
        if self.profiling:
            jax.profiler.stop_trace()
            self.profiling = False
            self.writer.log(
                f"profile    {self.workdir / 'profile'}: open it with TensorBoard or Perfetto"
            )


def _summary(split: str, rows: list[Row]) -> dict[str, Any]:
    """Scores and their errors under the split's name and under their own, and how they were computed."""
    scores: dict[str, Any] = {}
    for prefix in (f"{split}_", ""):
        for row in rows:
            scores |= {f"{prefix}{row.name}": row.value, f"{prefix}{row.name}_stderr": row.stderr}
    return scores | {"signatures": {row.name: row.signature for row in rows}}


def _fill(batch: Batch) -> dict[str, float]:
    """The share of positions that hold a token and no filling, where the data says which."""
    found = [batch[name] for name in SEGMENTS if name in batch]
    if not found:
        return {}
    return {"fill": sum(int((ids > 0).sum()) for ids in found) / sum(ids.size for ids in found)}
