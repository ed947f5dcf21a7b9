"""What a run shows while it goes: metric rows, evaluations, samples, profiles, and the stop on a non-finite step."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxlm.core.types import Batch, TrainState
from jaxlm.decode import sampling
from jaxlm.eval import Row
from jaxlm.eval.predict import Scorer
from jaxlm.train import assembly, parallel
from jaxlm.train.meter import Meter
from jaxlm.train.writers import Writer

DEFAULT_CONTEXT = 1024  # tokens that a sample may look back on, for data without a window length
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
            for evaluator in (parts.evaluators if "val" in parts.task.info.splits else ())
        ]
        self.rows: tuple[int, list[Row]] = (-1, [])
        tokenizer = parts.task.info.tokenizer
        self.token_bytes = None if tokenizer is None else tokenizer.token_bytes()
        self.seq_len = cfg.data.seq_len if "seq_len" in cfg.data else DEFAULT_CONTEXT
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
            row = values | self.meter.window(done, wait_seconds)
            num_bytes = self._bytes_per_token(batch)
            if "loss" in row and num_bytes:
                row["bits_per_byte"] = row["loss"] / math.log(2) / num_bytes
            self.writer.train(done, row)

    def _bytes_per_token(self, batch: Batch) -> float:
        """UTF-8 bytes that a weighed target of this batch stands for; 0 where that is unknown."""
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
            f"{where}. Its batch is in {path}. Start again in another --workdir with a lower "
            "optim.learning_rate, or with step.on_nonfinite=skip to leave such batches out"
        )

    def evaluate(self, state: TrainState, done: int) -> None:
        """Every evaluator over the validation split, if the data has one."""
        if not self.scorers:
            return
        params, weights = assembly.evaluation_params(state)
        rows = []
        for scorer in self.scorers:
            rows += scorer(params, self.parts.task.eval("val", self.parts.micro_batch_size))
        self.rows = (done, rows)
        self.writer.eval(done, rows, weights)

    def metric(self, done: int, name: str) -> float | None:
        """An evaluation value of this very step, for keep-best."""
        step, rows = self.rows
        if step != done:
            return None
        values = {row.name: row.value for row in rows}
        if values and name not in values:
            raise ValueError(
                f'checkpoint.best_metric="{name}" is no score of this run: {", ".join(values)}'
            )
        return values.get(name)

    def final_scores(self, state: TrainState, done: int) -> dict[str, Any]:
        """`val_*` entries of the summary; evaluates unless that was just done."""
        if self.rows[0] != done:
            self.evaluate(state, done)
        scores: dict[str, Any] = {"val_loss": None, "val_bits_per_byte": None}
        scores["val_weights"] = assembly.evaluation_params(state)[1]
        for row in self.rows[1]:
            scores |= {f"val_{row.name}": row.value, f"val_{row.name}_stderr": row.stderr}
        return scores

    def sample(self, state: TrainState, done: int) -> None:
        """A text written by the model so far; nothing for models or data without text."""
        tokenizer = self.parts.task.info.tokenizer
        if (
            tokenizer is None
            or not hasattr(self.parts.model, "extend")
            or not self.cfg.sample_tokens
        ):
            return
        prompt = self.cfg.sample_prompt or "\n"
        tokens = sampling.sample(
            self.parts.model,
            assembly.evaluation_params(state)[0],
            [tokenizer.encode(prompt)],
            max_tokens=self.cfg.sample_tokens,
            max_len=self.seq_len,
            temperature=0.8,
            seed=self.cfg.seed + done,
            eos_id=tokenizer.eos_id,
        )
        self.writer.samples(done, prompt + tokenizer.decode(tokens[0]))

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
