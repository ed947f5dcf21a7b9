"""Where the time of writing goes: compiling, the first token and the rest, measured apart.

`with measured() as timing:` around any number of calls; methods of decoding call `first_token` when they have read the first
token of their rows. Outside of it nothing is kept.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Iterator

import jax

_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_clock: contextvars.ContextVar[Timing | None] = contextvars.ContextVar("clock", default=None)
_marks: contextvars.ContextVar[list[float] | None] = contextvars.ContextVar("marks", default=None)
_compiled = {"seconds": 0.0, "programs": 0}
_heard_of: list[tuple[float, float]] = []  # when each began, and its seconds; none within another
_listening = []


@dataclasses.dataclass
class Acceptance:
    """How often the draft was right, over all calls that it was given to."""

    rounds: int = 0  # readings of a row's drafts by the large model
    drafted: int = 0  # tokens
    accepted: int = 0

    @property
    def rate(self) -> float:
        """Of the drafted tokens."""
        return self.accepted / self.drafted if self.drafted else 0.0

    def __str__(self) -> str:
        return f"{self.accepted} of {self.drafted} drafted tokens accepted ({self.rate:.0%}), {self.rounds} rounds"


@dataclasses.dataclass
class Timing:
    """Seconds, compiling left out of all but its own.

    Attributes:
      compile_seconds: tracing, lowering and compiling, or reading compiled programs from the disk.
      compiles: programs that were compiled.
      first_token_seconds: from the start of the first batch to its first token: its prompts were read. None of a
        search, which knows its first token at its end.
      decode_seconds: from the first token of a batch to its last, over all batches; of a search, all of it.
      tokens: how many were written, over all rows.
      decoded: those in `decode_seconds`.
    """

    compile_seconds: float = 0.0
    compiles: int = 0
    first_token_seconds: float | None = None
    decode_seconds: float = 0.0
    tokens: int = 0
    decoded: int = 0
    acceptance: Acceptance = dataclasses.field(default_factory=Acceptance)

    @property
    def tokens_per_second(self) -> float:
        """Of all rows together, after their first tokens; 0 where there were no more."""
        return self.decoded / self.decode_seconds if self.decoded else 0.0

    def __str__(self) -> str:
        parts = [f"compile {self.compile_seconds:.2f} s ({_counted(self.compiles, 'program')})"]
        if self.first_token_seconds is not None:
            parts.append(f"first token {self.first_token_seconds:.3f} s")
        if self.decoded:
            parts.append(f"{self.tokens_per_second:.1f} tokens/s")
        if self.acceptance.rounds:
            parts.append(str(self.acceptance))
        return f"{', '.join(parts)} ({_counted(self.tokens, 'token')})"


@contextlib.contextmanager
def measured() -> Iterator[Timing]:
    """Collect the time of all writing inside."""
    _listen()
    timing = Timing()
    token = _clock.set(timing)
    before = dict(_compiled)
    try:
        yield timing
    finally:
        _clock.reset(token)
        timing.compile_seconds = _compiled["seconds"] - before["seconds"]
        timing.compiles = _compiled["programs"] - before["programs"]


@contextlib.contextmanager
def batch() -> Iterator[list[int]]:
    """One batch's writing; the numbers of tokens of its rows are put into the list given."""
    timing, counts = _clock.get(), []
    marks = [now()]
    token = _marks.set(marks)
    try:
        yield counts
    finally:
        _marks.reset(token)
    if timing is None:
        return
    start, first = marks[0], marks[-1]
    told = len(marks) > 1
    if told and not timing.tokens:
        timing.first_token_seconds = first - start
    timing.decode_seconds += now() - first
    timing.tokens += sum(counts)
    timing.decoded += sum(max(0, count - told) for count in counts)


def first_token() -> None:
    """The first token of each of a batch's rows has been read by the host."""
    marks = _marks.get()
    if marks is not None and len(marks) == 1:
        marks.append(now())


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def drafted(rounds: int, tokens: int, accepted: int) -> None:
    """Drafts were read: so many rows, drafted tokens, accepted ones."""
    if (timing := _clock.get()) is not None:
        timing.acceptance.rounds += rounds
        timing.acceptance.drafted += tokens
        timing.acceptance.accepted += accepted


def compile_seconds() -> float:
    """Spent on compiling by this process since it was first asked."""
    _listen()
    return _compiled["seconds"]


def now() -> float:
    """Seconds, those of compiling left out."""
    return time.perf_counter() - compile_seconds()


def _listen() -> None:
    """JAX tells of compiling what has once asked; there is no way back, so once."""
    if not _listening:
        _listening.append(True)
        jax.monitoring.register_event_duration_secs_listener(_heard)


def _heard(event: str, duration: float, **_) -> None:
    """One is done. Programs are traced inside of others, which are told of later: their seconds count once."""
    if event not in _COMPILING:
        return
    start, within = time.perf_counter() - duration, 0.0
    while _heard_of and _heard_of[-1][0] >= start:
        within += _heard_of.pop()[1]
    _heard_of.append((start, duration))
    _compiled["seconds"] += duration - within
    _compiled["programs"] += event == _COMPILING[-1]
