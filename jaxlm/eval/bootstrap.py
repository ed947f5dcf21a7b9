"""Resampling of examples: standard errors, intervals, and whether one model is better than another on the same data.

A resample draws as many examples as there are, with replacement; its score is the same function of the sum of their
statistics (eval/finish.py), so that a thousand of them are one matrix product.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6 and 13; Koehn, "Statistical
Significance Tests for Machine Translation Evaluation" (2004), for pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxlm.eval import finish as finishes

RESAMPLES = 1000
LEVEL = 0.05  # of a verdict, and outside an interval
_CELLS = 1 << 22  # draws that are held at once


class Difference(NamedTuple):
    """How the first of two systems differs from the second on the same examples."""

    first: float
    second: float
    difference: float  # first - second
    low: float  # 95 % interval of the difference
    high: float
    p: float  # two-sided: how often chance alone would turn the sign, twice
    verdict: str
    better: str  # the better one's name; "" where that is not settled
    resamples: int


def stderr(
    statistics_NK: np.ndarray, finish: str, seed: int = 0, resamples: int = RESAMPLES
) -> float:
    """The standard error of a score: the standard deviation of its resamples.

    Args:
      statistics_NK: of each example; their order plays no part.
      finish: from their sum to the score, a name of eval/finish.py.
      seed: of the draws.
      resamples: how many.

    Returns:
      The standard error; nan for fewer than two examples.

    Raises:
      ValueError: no such finish.
    """
    statistics_NK = np.asarray(statistics_NK, np.float64)
    if len(statistics_NK) < 2:
        return math.nan
    order = np.lexsort(statistics_NK.T)
    (values,) = _scores([statistics_NK[order]], finish, seed, resamples)
    values = values[np.isfinite(values)]
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def interval(
    statistics_NK: np.ndarray, finish: str, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95 % percentile interval of a score; see `stderr`."""
    statistics_NK = np.asarray(statistics_NK, np.float64)
    if len(statistics_NK) < 2:
        return math.nan, math.nan
    order = np.lexsort(statistics_NK.T)
    (values,) = _scores([statistics_NK[order]], finish, seed, resamples)
    return _ends(values)


def paired(
    first_NK: np.ndarray,
    second_NK: np.ndarray,
    finish: str,
    *,
    higher_is_better: bool = True,
    names: tuple[str, str] = ("the first", "the second"),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Whether two systems differ: both are scored on the same resamples of the same examples.

    The interval is that of percentiles; p is twice the share of resamples in which the difference has not the sign that it
    has in most, one counted for the data themselves, so that p < 0.05 exactly where the interval leaves 0 out.

    Args:
      first_NK, second_NK: statistics of the two systems, of the same examples in the same order.
      finish: from their sum to the score, a name of eval/finish.py.
      higher_is_better: which of the two a difference favours.
      names: what the verdict calls the systems.
      seed: of the draws.
      resamples: how many.

    Returns:
      See Difference.

    Raises:
      ValueError: not the same examples, or no such finish.
    """
    both = [np.asarray(values, np.float64) for values in (first_NK, second_NK)]
    if both[0].shape != both[1].shape:
        raise ValueError(
            f"statistics {both[0].shape} and {both[1].shape}: a paired comparison needs both systems' scores of the "
            "same examples, in the same order"
        )
    if not len(both[0]):
        raise ValueError("statistics of no example: there is nothing to compare")
    finished = finishes.named(finish)
    first, second = (float(finished(values.sum(0))) for values in both)
    difference = first - second
    if len(both[0]) < 2:
        verdict = "one example: nothing can be said of others"
        return Difference(
            first, second, difference, math.nan, math.nan, math.nan, verdict, "", resamples
        )
    drawn = np.subtract(*_scores(both, finish, seed, resamples))
    low, high = _ends(drawn)
    p = _p(drawn)
    better = ""
    if p < LEVEL:
        better = names[0] if (low > 0) == higher_is_better else names[1]
    verdict = f"{better} is better (p = {p:.3g})" if better else f"no difference (p = {p:.3g})"
    return Difference(first, second, difference, low, high, p, verdict, better, resamples)


def _scores(systems: list[np.ndarray], finish: str, seed: int, resamples: int) -> list[np.ndarray]:
    """The score of every system on each resample, [resamples] each; all of them see the same draws."""
    if resamples < 2:
        raise ValueError(f"resamples={resamples} must be at least 2")
    finished = finishes.named(finish)
    parts = [
        [finished(weights_RN @ statistics_NK) for statistics_NK in systems]
        for weights_RN in _weights(len(systems[0]), seed, resamples)
    ]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _weights(count: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each example is drawn in each resample, float64 [R, N], a few resamples at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // count)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        places = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        drawn = np.bincount(places.ravel(), minlength=rows * count)
        yield drawn.reshape(rows, count).astype(np.float64)


def _outside(resamples: int) -> int:
    """The most resamples on one side of 0 for which p is still below LEVEL; -1 where none are too many."""
    return math.ceil(LEVEL / 2 * (resamples + 1)) - 2


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The interval that leaves out LEVEL; without limit where there are too few resamples for one."""
    values = np.sort(values[np.isfinite(values)])
    place = _outside(len(values))
    if place < 0:
        return -math.inf, math.inf
    return float(values[place]), float(values[-1 - place])


def _p(differences: np.ndarray) -> float:
    differences = differences[np.isfinite(differences)]
    fewer = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * float(fewer + 1) / (len(differences) + 1))
