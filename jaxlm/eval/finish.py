"""From the sum of all examples' statistics to a score: what makes error bars and comparisons alike for all metrics.

Every function takes sums [..., K] and gives values [...], so that many resamples are finished at once. What a
statistic is, the module of each metric says; letters here: C classes, M bins, O orders of n-grams.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxlm import registry

Finish = Callable[[np.ndarray], np.ndarray]

LARGEST_LOSS = 700.0
"""Nats; exp of more is infinite in float64."""


def divide(numerators: np.ndarray, denominators: np.ndarray, otherwise: float) -> np.ndarray:
    """The quotient, and `otherwise` where nothing is to be divided by."""
    denominators = np.asarray(denominators, np.float64)
    some = denominators != 0
    return np.where(some, numerators / np.where(some, denominators, 1.0), otherwise)


def ratio(sums: np.ndarray) -> np.ndarray:
    """Of two: the first by the second; nan where that is 0."""
    return divide(sums[..., 0], sums[..., 1], np.nan)


def rate(sums: np.ndarray) -> np.ndarray:
    """Of two: the first by the second; 0 where that is 0, as scikit-learn's zero_division=0."""
    return divide(sums[..., 0], sums[..., 1], 0.0)


def exp_ratio(sums: np.ndarray) -> np.ndarray:
    """Of two, nats and tokens: the exponential of their ratio."""
    return np.exp(np.minimum(ratio(sums), LARGEST_LOSS))


def mean_ratio(sums: np.ndarray) -> np.ndarray:
    """Of [numerators, denominators], K of each: the mean of those ratios that there are."""
    above, below = np.split(sums, 2, axis=-1)
    ratios = divide(above, below, 0.0)
    return divide(ratios.sum(-1), (below != 0).sum(-1), np.nan)


def f1(sums: np.ndarray) -> np.ndarray:
    """Of three, hits, predicted and true: 2 hits / (predicted + true); 0 where there are none."""
    return divide(2 * sums[..., 0], sums[..., 1] + sums[..., 2], 0.0)


def _by_class(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, predicted and true, each [..., C], of sums [..., 3 C]."""
    hits, predicted, true = np.split(sums, 3, axis=-1)
    return hits, predicted, true


def _mean_of_seen(values: np.ndarray, sums: np.ndarray) -> np.ndarray:
    _, predicted, true = _by_class(sums)
    seen = predicted + true > 0
    return divide((values * seen).sum(-1), seen.sum(-1), 0.0)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Of 3 C, every class's hits, predicted, true: the mean F1 of those predicted or true somewhere."""
    hits, predicted, true = _by_class(sums)
    return _mean_of_seen(divide(2 * hits, predicted + true, 0.0), sums)


def macro_precision(sums: np.ndarray) -> np.ndarray:
    """As macro_f1, of hits / predicted; 0 for a class that is never predicted."""
    hits, predicted, _ = _by_class(sums)
    return _mean_of_seen(divide(hits, predicted, 0.0), sums)


def macro_recall(sums: np.ndarray) -> np.ndarray:
    """As macro_f1, of hits / true; 0 for a class that is never true."""
    hits, _, true = _by_class(sums)
    return _mean_of_seen(divide(hits, true, 0.0), sums)


def mcc(sums: np.ndarray) -> np.ndarray:
    """Of 3 C as macro_f1: the correlation of predicted and true classes; 0 where one of them never varies.

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient" (2004), eq. 8.
    """
    hits, predicted, true = _by_class(sums)
    size = true.sum(-1)
    both = hits.sum(-1) * size - (predicted * true).sum(-1)
    own = (size**2 - (predicted**2).sum(-1)) * (size**2 - (true**2).sum(-1))
    return divide(both, np.sqrt(np.maximum(own, 0.0)), 0.0)


def pearson(sums: np.ndarray) -> np.ndarray:
    """Of six, examples, x, y, their squares and x y: the correlation of x and y; 0 where one of them never varies."""
    count, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
    both = xy - divide(x * y, count, 0.0)
    own = (xx - divide(x**2, count, 0.0)) * (yy - divide(y**2, count, 0.0))
    return divide(both, np.sqrt(np.maximum(own, 0.0)), 0.0)


def ece(sums: np.ndarray) -> np.ndarray:
    """Of 3 M, every bin's answers, their confidences and hits: the expected calibration error.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), arXiv:1706.04599, eq. 3.
    """
    counts, confidences, hits = _by_class(sums)
    return divide(np.abs(confidences - hits).sum(-1), counts.sum(-1), np.nan)


def bleu(sums: np.ndarray, effective_order: bool = False) -> np.ndarray:
    """Of ten, sacrebleu's: lengths of hypothesis and reference, matches and n-grams of orders 1 to 4; 0 to 100.

    Args:
      sums: [..., 10].
      effective_order: leave out orders of which the hypothesis has no n-gram, as for single sentences.

    Source: Papineni et al., "BLEU" (2002), with the exponential smoothing of NIST's mteval, as sacrebleu's default
    (Post 2018, arXiv:1804.08771).
    """
    hypothesis, reference = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2:6], sums[..., 6:10]
    shortness = 1 - divide(reference, hypothesis, np.inf)
    penalty = np.where(hypothesis < reference, np.exp(np.minimum(shortness, 0.0)), 1.0)
    there = np.cumprod(totals > 0, axis=-1).astype(bool)
    missed = there & (matches == 0)
    smoothed = np.where(missed, 2.0 ** -np.cumsum(missed, axis=-1), matches)
    logs = np.log(np.where(there, 100 * divide(smoothed, totals, 1.0), 1.0))
    orders = there.sum(-1) if effective_order else 4
    value = penalty * np.exp(divide(logs.sum(-1), orders, 0.0))
    scored = matches.any(-1) & (there.all(-1) | effective_order)
    return np.where(scored, value, 0.0)


def chrf(sums: np.ndarray) -> np.ndarray:
    """Of 3 O, sacrebleu's: every order's character n-grams of hypothesis and reference and their matches; 0 to 100.

    Source: Popovic, "chrF" (2015), beta 2, with sacrebleu's effective order.
    """
    grams = sums.reshape(*sums.shape[:-1], -1, 3)
    hypothesis, reference, matches = (grams[..., place] for place in range(3))
    there = (hypothesis > 0) & (reference > 0)
    precision = divide((divide(matches, hypothesis, 0.0) * there).sum(-1), there.sum(-1), 0.0)
    recall = divide((divide(matches, reference, 0.0) * there).sum(-1), there.sum(-1), 0.0)
    return 100 * divide(5 * precision * recall, 4 * precision + recall, 0.0)


def ter(sums: np.ndarray) -> np.ndarray:
    """Of two, sacrebleu's edits and mean reference length: edits per 100 words; 100 where there is only the hypothesis.

    Source: Snover et al., "A Study of Translation Edit Rate" (2006).
    """
    edits, words = sums[..., 0], sums[..., 1]
    return 100 * divide(edits, words, np.where(edits > 0, 1.0, 0.0))


FINISH: dict[str, Finish] = {
    "ratio": ratio,
    "rate": rate,
    "mean_ratio": mean_ratio,
    "exp_ratio": exp_ratio,
    "f1": f1,
    "macro_f1": macro_f1,
    "macro_precision": macro_precision,
    "macro_recall": macro_recall,
    "mcc": mcc,
    "pearson": pearson,
    "ece": ece,
    "bleu": bleu,
    "chrf": chrf,
    "ter": ter,
}


def named(name: str) -> Finish:
    """The function that `Row.finish` names: of FINISH, or a dotted path "your_module:function".

    Raises:
      ValueError: neither; the nearest name is given.
    """
    if name in FINISH:
        return FINISH[name]
    if ":" in name:
        return registry.load_object(name)
    raise ValueError(
        f'finish="{name}" is not known{registry.nearest(name, FINISH)}; accepted: '
        f'{", ".join(sorted(FINISH))}, or "your_module:function"'
    )
