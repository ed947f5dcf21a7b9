"""What the tools share that compare runs: each run finished once, and differences with their intervals."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """After so many seconds (0: never) the run in progress is saved and left, with exit code 143, as at SIGTERM."""
    if seconds:
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def finish(workdir: Path, configured: Callable[[], Any]) -> Path:
    """The folder of the run that a config says: what is finished is not run again, what was stopped goes on."""
    import jaxlm

    if not (workdir / "summary.json").exists():
        jaxlm.run(configured(), workdir)
    return workdir


def summary(workdir: Path) -> dict[str, Any]:
    """A finished run's."""
    return json.loads((workdir / "summary.json").read_text())


def hits(workdir: Path) -> np.ndarray:
    """Of each scored example, in order, whether the answer is right: of the test part where there is one."""
    names = [workdir / f"predictions_{split}.jsonl" for split in ("test", "val")]
    with next(path for path in names if path.exists()).open(encoding="utf-8") as file:
        return np.array([json.loads(line)["score"] for line in file], np.float64)


def each(scores_SN: np.ndarray) -> str:
    """The mean score of every seed."""
    return ", ".join(f"{one:.4f}" for one in scores_SN.mean(1))


def difference(names: tuple[str, str], first_SN: np.ndarray, second_SN: np.ndarray) -> str:
    """A sentence: the difference of two ways with its 95 % intervals.

    Args:
      names: what the ways are called.
      first_SN, second_SN: each example's score (N) under each seed (S).

    Returns:
      With the interval of other examples, by paired bootstrap over each one's mean over seeds, and of other seeds, by Student's t.
    """
    from jaxlm.eval import bootstrap

    ones = np.ones(first_SN.shape[1])
    pair = [np.stack([scores.mean(0), ones], 1) for scores in (first_SN, second_SN)]
    found = bootstrap.paired(*pair, "ratio", names=names)
    return (
        f"{len(ones)} examples. {names[0]} - {names[1]}: {found.difference:+.4f}, 95 % over examples {found.low:+.4f} to "
        f"{found.high:+.4f} ({found.verdict}){_over_seeds(first_SN, second_SN)}"
    )


def _over_seeds(first_SN: np.ndarray, second_SN: np.ndarray) -> str:
    differences = (first_SN.mean(1) - second_SN.mean(1)).tolist()
    if len(differences) < 2:
        return ""
    from scipy import stats

    mean, error = statistics.mean(differences), statistics.stdev(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * error / math.sqrt(len(differences))
    return f"; over {len(differences)} seeds {mean - half:+.4f} to {mean + half:+.4f}"
