"""Honest speed: time of training steps alone, with compiling, evaluation and sampling kept apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from jaxlm.decode import timing
from jaxlm.train.plan import Plan


class Meter:
    """Counts steps and the seconds they took. `tick` is called when a step's result is on the host.

    Host code compiles its pieces when it first needs them: that is left out, and found in `compile_seconds`.
    """

    def __init__(
        self,
        plan: Plan,
        num_steps: int,
        seconds_before: float = 0.0,
        compile_seconds: float = 0.0,
    ):
        self.tokens_per_step, self.flops_per_token = plan.tokens_per_step, plan.flops_per_token
        self.peak_flops, self.num_steps = plan.peak.flops, num_steps
        self.train_seconds = seconds_before  # of earlier processes of this run
        self.compile_seconds = compile_seconds  # of this one, for training
        self._mark, self._compiled = time.perf_counter(), timing.compile_seconds()
        self._window_seconds, self._window_steps, self._wait_mark = 0.0, 0, 0.0

    def tick(self) -> None:
        """One more step is done; everything since the last tick or pause counts as its time."""
        self._count()
        self._window_steps += 1

    def _count(self) -> None:
        """What has passed since the mark, as time of training or of compiling."""
        mark, compiled = self._mark, self._compiled
        self._set_mark()
        seconds = self._mark - mark - (self._compiled - compiled)
        self.compile_seconds += self._compiled - compiled
        self.train_seconds += seconds
        self._window_seconds += seconds

    def _set_mark(self) -> None:
        self._mark, self._compiled = time.perf_counter(), timing.compile_seconds()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training time."""
        self._count()
        yield
        self._set_mark()

    def window(self, done: int, wait_seconds: float) -> dict[str, float]:
        """Figures since the last call: seconds a step, share of waiting for data, tokens/s, MFU, ETA in seconds.

        `done` steps are behind; `wait_seconds` is the total wait so far. `mfu` is left out where the peak is unknown, or no FLOPs are counted.
        """
        seconds = max(self._window_seconds, 1e-9)
        steps = max(self._window_steps, 1)
        rate = steps * self.tokens_per_step / seconds
        row = {
            "step_seconds": seconds / steps,
            "data_wait": (wait_seconds - self._wait_mark) / seconds,
            "tokens_per_second": rate,
            "eta_seconds": (self.num_steps - done) * seconds / steps,
        }
        if self.peak_flops and self.flops_per_token:
            row["mfu"] = rate * self.flops_per_token / self.peak_flops
        self._window_seconds, self._window_steps, self._wait_mark = 0.0, 0, wait_seconds
        return row

    def totals(self, num_steps: int) -> dict[str, float | None]:
        """Of the whole run: tokens seen, FLOPs by the model's formula, training seconds, tokens/s and MFU (None: unknown); of this process, compiling."""
        tokens = num_steps * self.tokens_per_step
        rate = tokens / self.train_seconds if self.train_seconds else None
        known = rate is not None and self.peak_flops and self.flops_per_token
        return {
            "tokens_seen": tokens,
            "train_flops": tokens * self.flops_per_token,
            "train_seconds": self.train_seconds,
            "compile_seconds": self.compile_seconds,
            "tokens_per_second": rate,
            "mfu": rate * self.flops_per_token / self.peak_flops if known else None,
        }
