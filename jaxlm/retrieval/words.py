"""Passages by the words that they share with a question: BM25, computed by bm25s.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009); Lucene's variant, k1 1.5 and b 0.75, as in
Lù, "BM25S" (2024), arXiv:2407.03618.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.cleaning import Cleaning
from jaxlm.registry import need

_CLEANING = "cleaning.json"


class BM25:
    """An index of words.

    Args:
      cleaning: from texts to words, of passages and questions alike.
      scorer: bm25s's object.
    """

    def __init__(self, cleaning: Cleaning, scorer: Any):
        self.cleaning, self._scorer = cleaning, scorer

    @classmethod
    def build(cls, texts: Sequence[str], cleaning: Cleaning) -> BM25:
        """Count the words of texts.

        Raises:
          ValueError: bm25s or a library for the language is missing, or no text has a word.
        """
        scorer = _library().BM25()
        words = [cleaning.words(text) for text in texts]
        if not any(words):
            raise ValueError(f"no passage has a word (language {cleaning.language})")
        scorer.index(words, show_progress=False)
        return cls(cleaning, scorer)

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        self._scorer.save(str(folder), show_progress=False)
        settings = json.dumps(dataclasses.asdict(self.cleaning))
        (folder / _CLEANING).write_text(settings, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> BM25:
        """What `save` wrote.

        Raises:
          ValueError: bm25s is missing.
        """
        settings = json.loads((folder / _CLEANING).read_text(encoding="utf-8"))
        scorer = _library().BM25.load(str(folder), show_progress=False)
        return cls(Cleaning(**settings), scorer)

    def rank(self, questions: Sequence[str], depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers int64 [N, K] and scores float32 [N, K] of the best texts; -1 and 0 where no more share a word.

        Of equal scores the earlier text is first.
        """
        found = [self._rank(question, depth) for question in questions]
        numbers = np.full((len(found), depth), -1, np.int64)
        scores = np.zeros((len(found), depth), np.float32)
        for row, (own, values) in enumerate(found):
            numbers[row, : len(own)], scores[row, : len(own)] = own, values
        return numbers, scores

    def _rank(self, question: str, depth: int) -> tuple[np.ndarray, np.ndarray]:
        known = [word for word in self.cleaning.words(question) if word in self._scorer.vocab_dict]
        if not known:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        scores = self._scorer.get_scores(known)
        own = np.flatnonzero(scores > 0)
        if len(own) > depth:
            least = np.partition(scores[own], len(own) - depth)[len(own) - depth]
            own = own[scores[own] >= least]
        own = own[np.argsort(-scores[own], kind="stable")][:depth]
        return own, scores[own]


def _library() -> Any:
    library = need("bm25s", "retrieval")
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return library
