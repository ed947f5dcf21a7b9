"""Where in a ranked list the one right thing stands: recall, mean reciprocal rank and NDCG at given depths.

Sources: Voorhees, "The TREC-8 Question Answering Track Report" (1999), for reciprocal ranks; Järvelin and Kekäläinen,
"Cumulated gain-based evaluation of IR techniques" (2002), with gains of 0 and 1 and log2(1 + rank).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxlm.eval import Row
from jaxlm.eval.metric import make_row

DEPTHS = (1, 5, 20)
NDCG_DEPTH = 10


def rows(ranks_N: np.ndarray, signature: str, prefix: str = "") -> list[Row]:
    """Means over queries, each of which has one right answer.

    Args:
      ranks_N: its rank, from 1; 0 where it was not found.
      signature: what was ranked, and how.
      prefix: of the names.

    Returns:
      Rows `recall@k`, how often it is among the first k; `mrr`, one by its rank; `ndcg@10`, one by log2(1 + rank) down to
      that rank. What was not found counts 0.

    Raises:
      ValueError: no query.
    """
    ranks_N = np.asarray(ranks_N)
    if not len(ranks_N):
        raise ValueError("a ranking is scored for at least one query")
    found = {f"recall@{depth}": (ranks_N > 0) & (ranks_N <= depth) for depth in DEPTHS}
    found["mrr"] = reciprocal(ranks_N)
    gains_N = 1 / np.log2(1.0 + np.maximum(ranks_N, 1))
    found[f"ndcg@{NDCG_DEPTH}"] = np.where((ranks_N > 0) & (ranks_N <= NDCG_DEPTH), gains_N, 0.0)
    return [
        make_row(
            prefix + name,
            np.stack([values, np.ones(len(values))], 1),
            unit="fraction",
            finish="ratio",
            signature=f"{signature}|queries={len(values)}",
            higher_is_better=True,
        )
        for name, values in found.items()
    ]


def reciprocal(ranks_N: np.ndarray) -> np.ndarray:
    """One by each rank, float64 [N]; 0 for 0."""
    return np.where(ranks_N > 0, 1.0 / np.maximum(ranks_N, 1), 0.0)


def selves(queries: Sequence[str], numbers: Mapping[str, int], right_N: np.ndarray) -> np.ndarray:
    """The number of each query's own text among the candidates, -1 where it is none or what is right, int [N]."""
    found_N = np.array([numbers.get(text, -1) for text in queries])
    return np.where(found_N == right_N, -1, found_N)


def left_out(selves_N: np.ndarray) -> str:
    """What a signature says of queries that are candidates themselves: nothing where there are none."""
    count = int((selves_N >= 0).sum())
    return f"|own text left out of {count} queries" if count else ""


def without(found_NK: np.ndarray, selves_N: np.ndarray) -> np.ndarray:
    """Rankings without each query itself; -1 stands behind the last one."""
    own_NK = (found_NK == selves_N[:, None]) & (selves_N >= 0)[:, None]
    order_NK = np.argsort(own_NK, axis=1, kind="stable")
    return np.take_along_axis(np.where(own_NK, -1, found_NK), order_NK, axis=1)


def ranks(found_NK: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """The rank of what is right in each row of a ranking, from 1; 0 where it is not there."""
    hits_NK = found_NK == right_N[:, None]
    return np.where(hits_NK.any(1), hits_NK.argmax(1) + 1, 0)
