"""Questions and the passages that answer them, or wishes and items: how well a sentence encoder finds them, beside BM25."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlm.data.cleaning import Cleaning
from jaxlm.eval import Scores, ranking
from jaxlm.eval.metric import version
from jaxlm.eval.suites import Found, data
from jaxlm.retrieval.vectors import Dense, fused
from jaxlm.retrieval.words import BM25

CANDIDATES = ("all", "scored")
METHODS = ("dense", "bm25", "hybrid", "popularity")


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """For each question its passage, ranked among the different passages of the data (itself, where it is one and not the
    right one, aside); the held-out lines ask.

    Four rankings: `dense` by the model's vectors, `bm25` by words, `hybrid` by both (reciprocal rank fusion), and `popularity`,
    the same for all questions: by how often a passage is the right one in the training part.

    Attributes:
      data: lines with both texts: bundled:NAME (its last part asks) or a file (all of its lines do).
      examples: a file with the lines that popularity is counted in, and that are candidates too; "": the training part
        of bundled data.
      question_column: a text, or a list of texts (a history of items).
      passage_column: a text.
      language: whose words BM25 counts (data/cleaning.py).
      candidates: "all" lines' passages, or those of the "scored" ones only.
      limit: score the first so many questions only; 0: all.
      depth: what lies behind this rank is not found.
    """

    data: str = "bundled:glosses"
    examples: str = ""
    question_column: str = "question"
    passage_column: str = "answer"
    language: str = "english"
    candidates: str = "all"
    limit: int = 0
    depth: int = 100

    def __post_init__(self):
        if self.candidates not in CANDIDATES:
            raise ValueError(
                f"--candidates {self.candidates}: accepted are {', '.join(CANDIDATES)}"
            )
        for name, least in (("limit", 0), ("depth", 20)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {least}")

    def run(self, lm: Any) -> Found:
        """The rows of `ranking.rows` under the name of each ranking; of each question what was found first.

        Raises:
          ValueError: data of another form, or a model that is no sentence encoder.
        """
        lines = data.lines(self.data, self.examples)
        scored = lines.scored[: self.limit or None]
        questions = [self._question(record) for record in scored]
        right = [self._passage(record) for record in scored]
        known = lines.scored + lines.examples if self.candidates == "all" else scored
        passages = list(dict.fromkeys(map(self._passage, known)))
        number = {text: place for place, text in enumerate(passages)}
        own_N = np.array([number[text] for text in right])
        selves_N = ranking.selves(questions, number, own_N)
        rankings = self._rankings(lm, questions, passages, lines.examples, selves_N)
        about = f"candidates={len(passages)}{ranking.left_out(selves_N)}|ranks to {self.depth}"
        rows, tables = [], {}
        for name in METHODS:
            signature = f"{self._signature(name)}|{about}"
            ranks_N = ranking.ranks(rankings[name], own_N)
            found = ranking.rows(ranks_N, signature, f"{name}_")
            rows += found
            scores = {row.name.removeprefix(f"{name}_"): row.value for row in found}
            tables.setdefault("rankings", []).append({"ranking": name} | scores)
        score_N = ranking.reciprocal(ranking.ranks(rankings["dense"], own_N))
        examples = [
            {
                "input": question,
                "prediction": passages[rankings["dense"][row, 0]],
                "reference": right[row],
                "score": float(score_N[row]),
            }
            for row, question in enumerate(questions)
        ]
        return Found(Scores(rows, examples, tables), lines.digests)

    def _rankings(
        self,
        lm: Any,
        questions: Sequence[str],
        passages: Sequence[str],
        training: Sequence[Mapping[str, Any]],
        selves_N: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Numbers of passages, int64 [N, K], by method; none for its own question (`ranking.selves`)."""
        depth = min(self.depth, len(passages))
        words = BM25.build(passages, Cleaning(self.language))
        dense, _ = Dense.build(lm.embed(passages)).rank(lm.embed(questions), depth)
        bm25, _ = words.rank(questions, depth)
        counts = collections.Counter(map(self._passage, training))
        counted = np.array([counts[text] for text in passages])
        popular = np.argsort(-counted, kind="stable")[:depth]
        found = {
            "dense": dense,
            "bm25": bm25,
            "hybrid": fused([dense, bm25], depth)[0],
            "popularity": np.tile(popular, (len(questions), 1)),
        }
        return {name: ranking.without(one_NK, selves_N) for name, one_NK in found.items()}

    def _signature(self, method: str) -> str:
        words = f"{version('bm25s')}|words of {self.language}, {version('snowballstemmer')}"
        return {
            "dense": f"cosine|{version('faiss-cpu')} Flat",
            "bm25": words,
            "hybrid": f"reciprocal rank fusion of dense and bm25|{words}",
            "popularity": "by count in the training part",
        }[method]

    def _question(self, record: Mapping[str, Any]) -> str:
        value = data.column(record, self.question_column, (str, list), self.data)
        return value if isinstance(value, str) else "\n".join(map(str, value))

    def _passage(self, record: Mapping[str, Any]) -> str:
        return data.column(record, self.passage_column, str, self.data)
