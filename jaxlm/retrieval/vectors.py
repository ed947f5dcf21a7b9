"""Passages by vectors of a sentence encoder, found by faiss (Douze et al., "The Faiss library", 2024, arXiv:2401.08281).

The encoder itself is whoever calls: see Encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxlm.registry import need

_FILE = "vectors.faiss"


class Encoder(Protocol):
    """What makes vectors: `api.encoder(path)` gives one of a model."""

    path: str
    digest: str  # of everything that a vector depends on

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Float32 [N, D]; a product of two is their similarity."""


class Dense:
    """An index of vectors, by the product of a question's and a passage's."""

    def __init__(self, index: Any):
        self._index = index

    @classmethod
    def build(cls, vectors_ND: np.ndarray, kind: str = "Flat") -> Dense:
        """Index vectors.

        Args:
          vectors_ND: float32.
          kind: as faiss's index_factory spells it. Flat compares with all of them, exactly; "HNSW32" or "IVF256,Flat"
            find most of the nearest ones among millions sooner.

        Raises:
          ValueError: faiss is missing, or knows no such kind, or can't train it on so few vectors.
        """
        faiss = need("faiss", "retrieval")
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        try:
            index = faiss.index_factory(vectors_ND.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors_ND)
            index.add(vectors_ND)
        except RuntimeError as error:
            what = str(error).rpartition(": ")[2]
            raise ValueError(f"--vector_index {kind}: faiss can't make it ({what})") from error
        return cls(index)

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        need("faiss", "retrieval").write_index(self._index, str(folder / _FILE))

    @classmethod
    def load(cls, folder: Path) -> Dense:
        """What `save` wrote.

        Raises:
          ValueError: faiss is missing.
        """
        return cls(need("faiss", "retrieval").read_index(str(folder / _FILE)))

    def rank(self, vectors_ND: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers int64 [N, K] and scores float32 [N, K] of the nearest ones; -1 where there are no more."""
        vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
        scores_NK, numbers_NK = self._index.search(vectors_ND, depth)
        return numbers_NK, np.where(numbers_NK < 0, np.float32(0), scores_NK)


def fused(
    rankings: Sequence[np.ndarray], depth: int, damping: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """One ranking of several, by the sum of 1 / (damping + rank) over them (reciprocal rank fusion).

    Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion" (2009), whose constant is 60.

    Args:
      rankings: numbers int64 [N, K] of each, best first, -1 for none.
      depth: of the result.

    Returns:
      Numbers and scores as `Dense.rank`; of equal scores the one that is first in the first ranking.
    """
    count = len(rankings[0])
    numbers, scores = np.full((count, depth), -1, np.int64), np.zeros((count, depth), np.float32)
    for row in range(count):
        sums: dict[int, float] = {}
        for ranking in rankings:
            for rank, number in enumerate(ranking[row].tolist(), 1):
                if number >= 0:
                    sums[number] = sums.get(number, 0.0) + 1 / (damping + rank)
        best = sorted(sums, key=lambda number: -sums[number])[:depth]
        numbers[row, : len(best)] = best
        scores[row, : len(best)] = [sums[number] for number in best]
    return numbers, scores
