"""What all metrics share: a score with its error from per-example statistics, and the rows of a split put together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxlm.core.types import Batch
from jaxlm.eval import Row, bootstrap
from jaxlm.eval import finish as finishes
from jaxlm.eval.finish import FINISH

__all__ = ["FINISH", "collect", "input_text", "make_row", "ratio", "unknown_ids", "version"]


def make_row(
    name: str,
    statistics: Any,
    *,
    unit: str,
    finish: str,
    signature: str,
    higher_is_better: bool = False,
    value: float | None = None,
) -> Row:
    """A score and its standard error.

    The error is over examples: of ratios by the formula of Cochran 1977 (Sampling Techniques, section 6.4), of
    macro_f1 by linearising its ratios, of all else by bootstrap (eval/bootstrap.py).

    Args:
      name, unit, signature, higher_is_better: see Row.
      statistics: of each example, float [N, K].
      finish: from their sum to the score, a name of eval/finish.py.
      value: what the library that defines the score says; it must be the same.

    Raises:
      ValueError: no such finish, or no example.
    """
    statistics_NK = np.asarray(statistics, np.float64)
    if not len(statistics_NK):
        raise ValueError(f"{name}: there is no example to score")
    found = float(finishes.named(finish)(statistics_NK.sum(0)))
    assert value is None or math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-6), (
        f"{name}: {found} by its statistics, but {value} by the library that defines it"
    )
    found = found if value is None else float(value)
    by_formula = _ERRORS.get(finish)
    error = by_formula(statistics_NK) if by_formula else bootstrap.stderr(statistics_NK, finish)
    return Row(name, found, unit, error, signature, higher_is_better, finish, statistics_NK)


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """sum(numerators) / sum(denominators) and its standard error over units; nan for a single unit."""
    value = numerators.sum() / denominators.sum()
    count = len(numerators)
    if count < 2:
        return float(value), math.nan
    residual = numerators - value * denominators
    variance = (residual**2).sum() / (count - 1) / count / denominators.mean() ** 2
    return float(value), math.sqrt(variance)


def _ratio_error(statistics_NK: np.ndarray) -> float:
    above, below = statistics_NK.T
    return ratio(above, below)[1] if below.sum() else math.nan


def _exp_ratio_error(statistics_NK: np.ndarray) -> float:
    return float(finishes.exp_ratio(statistics_NK.sum(0))) * _ratio_error(statistics_NK)


def _macro_f1_error(statistics_NK: np.ndarray) -> float:
    """d F1_c = (2 d hits_c - F1_c d size_c) / size_c, where size is predicted + true."""
    count = len(statistics_NK)
    if count < 2:
        return math.nan
    hits_NC, predicted_NC, true_NC = np.split(statistics_NK, 3, axis=1)
    sizes_NC = predicted_NC + true_NC
    sizes_C = sizes_NC.sum(0)
    seen = sizes_C > 0
    sizes_C = np.where(seen, sizes_C, 1.0)
    f1_C = 2 * hits_NC.sum(0) / sizes_C
    residuals = (hits_NC @ (2 / sizes_C) - sizes_NC @ (f1_C / sizes_C)) / max(seen.sum(), 1)
    return math.sqrt((residuals**2).sum() * count / (count - 1))


_ERRORS: dict[str, Callable[[np.ndarray], float]] = {
    "ratio": _ratio_error,
    "rate": _ratio_error,
    "exp_ratio": _exp_ratio_error,
    "macro_f1": _macro_f1_error,
}


def collect(
    predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch], names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """What was predicted for every row that has a weighed target, in the data's order.

    Args:
      predict: gives an evaluator's `outputs`.
      data: batches of a split; filling rows weigh 0.
      names: further entries of the batches, those that are there.

    Returns:
      All outputs, targets, weights (float64), id (its number, where a batch has none) and `names`, each [N, ...].

    Raises:
      ValueError: no target to score.
    """
    parts: dict[str, list[np.ndarray]] = {}
    seen = 0
    for batch in data:
        weights = np.asarray(batch["weights"], np.float64)
        own = {"targets": batch["targets"], "weights": weights}
        own["id"] = batch["id"] if "id" in batch else np.arange(seen, seen + len(weights))
        own |= {name: batch[name] for name in names if name in batch}
        used = weights.sum(1) > 0
        seen += len(weights)
        for name, values in (own | dict(predict(batch))).items():
            parts.setdefault(name, []).append(np.asarray(values)[used])
    if not parts or not sum(map(len, parts["weights"])):
        raise ValueError("evaluation: the split holds no target to score")
    return {name: np.concatenate(values) for name, values in parts.items()}


def input_text(tokenizer: Any, arrays: dict[str, np.ndarray], row: int) -> str:
    """What a model was given in one row of `collect`, without filling and special tokens; "" where that is unknown."""
    if tokenizer is None or "tokens" not in arrays:
        return ""
    ids = arrays["tokens"][row]
    if "segment_ids" in arrays:
        ids = ids[arrays["segment_ids"][row] > 0]
    special = set(tokenizer.special_ids().values())
    return tokenizer.decode([id_ for id_ in ids.tolist() if id_ not in special])


def unknown_ids(tokenizer: Any) -> list[int]:
    """What characters that a tokenizer does not know are read as: they are easy to predict and cost no bits."""
    return [id_ for name, id_ in tokenizer.special_ids().items() if "unk" in name.lower()]


def version(package: str) -> str:
    """package=1.2.3, for a signature."""
    from importlib.metadata import version as installed

    return f"{package}={installed(package)}"


def each_once(rows: list[Row]) -> list[Row]:
    """One row a name, of the rows of several evaluators: an accuracy that two of them found is there once.

    Raises:
      ValueError: two evaluators call different scores alike.
    """
    found: dict[str, Row] = {}
    for row in rows:
        other = found.setdefault(row.name, row)
        if not np.isclose(other.value, row.value, rtol=1e-6, equal_nan=True):
            raise ValueError(
                f"evaluators: two of them give a {row.name}, {other.value:.6g} and {row.value:.6g}: name one"
            )
    return list(found.values())
