"""Honest speed: time of training steps alone, with compiling, evaluation and sampling kept apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from jaxlm.train.plan import Plan


class Meter:
    """Counts steps and the seconds they took. `tick` is called when a step's result is on the host."""

    def __init__(self, plan: Plan, num_steps: int, seconds_before: float = 0.0):
        self.tokens_per_step, self.flops_per_token = plan.tokens_per_step, plan.flops_per_token
        self.peak_flops, self.num_steps = plan.peak.flops, num_steps
        self.train_seconds = seconds_before  # of earlier processes of this run
        self._mark = time.perf_counter()
        self._window_seconds, self._window_steps, self._wait_mark = 0.0, 0, 0.0

    def tick(self) -> None:
        """One more step is done; everything since the last tick or pause counts as its time."""
        now = time.perf_counter()
        self._window_seconds += now - self._mark
        self.train_seconds += now - self._mark
        self._mark = now
        self._window_steps += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training time."""
        self.train_seconds += time.perf_counter() - self._mark
        self._window_seconds += time.perf_counter() - self._mark
        yield
        self._mark = time.perf_counter()

    def window(self, done: int, wait_seconds: float) -> dict[str, float]:
        """Figures since the last call: seconds a step, share of waiting for data, tokens/s, MFU, ETA in seconds.

        `done` steps are behind; `wait_seconds` is the total wait so far. `mfu` is left out where the peak is unknown.
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
        if self.peak_flops:
            row["mfu"] = rate * self.flops_per_token / self.peak_flops
        self._window_seconds, self._window_steps, self._wait_mark = 0.0, 0, wait_seconds
        return row

    def totals(self, num_steps: int) -> dict[str, float | None]:
        """Of the whole run: tokens seen, training seconds, tokens/s and MFU (None: unknown)."""
        tokens = num_steps * self.tokens_per_step
        rate = tokens / self.train_seconds if self.train_seconds else None
        known = rate is not None and self.peak_flops
        return {
            "tokens_seen": tokens,
            "train_seconds": self.train_seconds,
            "tokens_per_second": rate,
            "mfu": rate * self.flops_per_token / self.peak_flops if known else None,
        }
