"""Ctrl-C and SIGTERM end a run after the step in flight, with a checkpoint; a second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

ASK_EVERY = 8  # steps between two questions


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """A context in which SIGTERM raises SystemExit, so that a process which waits for another can stop that one first."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopSignal:
    """A context in which `requested` turns true when SIGINT or SIGTERM comes."""

    def __init__(self):
        self.requested = False
        self._number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.requested, self._number = True, number
        signal.signal(number, self._before[number])

    def agreed(self, step: int) -> bool:
        """Whether to stop after `step`, the same on every process; several ask each other now and then."""
        if jax.process_count() == 1:
            return self.requested
        if step % ASK_EVERY:
            return False
        asked = multihost_utils.process_allgather(np.asarray(self.requested))
        self._number = self._number or signal.SIGTERM
        return bool(np.any(asked))

    def leave(
        self, log: Callable[[str], None], workdir: Any, step: int, num_steps: int
    ) -> NoReturn:
        """Say how to go on, and end the process with the status that shells expect of this signal."""
        name = signal.Signals(self._number).name
        log(
            f"stopped    by {name} at step {step} of {num_steps}, saved in {workdir}: the same command goes on"
        )
        raise SystemExit(128 + self._number)
