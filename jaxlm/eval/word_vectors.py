"""What vectors of words know: the nearest words, analogies, and how well their cosines agree with what people say."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core import word_losses
from jaxlm.eval import Row, regression
from jaxlm.eval.metric import make_row

_ROWS = 256  # questions whose similarities are held at once
_RANKS = (100, 200, 400, 800)  # of words to show: frequent, but no longer "the" and "of"


class Vectors:
    """Words with their vectors, compared by cosine.

    Args:
      words: different ones, the most frequent first.
      vectors_VD: float.
      compose: the vector [D] of a word that is not among them, or None where it has none (fastText's n-grams).
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors_VD: np.ndarray,
        compose: Callable[[str], np.ndarray | None] = lambda word: None,
    ):
        self.words, self.vectors_VD = list(words), np.asarray(vectors_VD, np.float32)
        self.places = {word: number for number, word in enumerate(self.words)}
        self._compose = compose
        self.unit_VD = unit(self.vectors_VD)

    @classmethod
    def of_tables(
        cls,
        words: Sequence[str],
        tables: Mapping[str, np.ndarray],
        pieces: Callable[[str], np.ndarray] | None = None,
    ) -> Vectors:
        """Those of a model's tables: the input vectors; with biases (GloVe) the sum of both tables, as Pennington et al. 2014,
        section 4.2; with character n-grams the mean of a word's own and theirs, so that every word has one.

        Args:
          words: what the first rows of the tables are of.
          tables: by path, as core/word_losses.py names them.
          pieces: rows of the table of n-grams that a word has; None: there is no such table.
        """
        own_VD = tables[word_losses.INPUT][: len(words)]
        if word_losses.OUTPUT_BIAS in tables:
            own_VD = own_VD + tables[word_losses.OUTPUT][: len(words)]
        if pieces is None:
            return cls(words, own_VD)
        buckets = tables[word_losses.SUBWORDS]

        def compose(word: str) -> np.ndarray | None:
            ids = pieces(word)
            return buckets[ids].mean(0) if len(ids) else None

        found = [pieces(word) for word in words]
        sums_VD = [own_D + buckets[ids].sum(0) for own_D, ids in zip(own_VD, found, strict=True)]
        sizes_V1 = np.array([[1 + len(ids)] for ids in found])
        return cls(words, np.stack(sums_VD) / sizes_V1, compose)

    def __contains__(self, word: str) -> bool:
        return word in self.places or self._compose(word) is not None

    def vector(self, word: str) -> np.ndarray:
        """float32 [D].

        Raises:
          ValueError: it has none; the nearest word by its spelling is named.
        """
        if word in self.places:
            return self.vectors_VD[self.places[word]]
        made = self._compose(word)
        if made is None:
            raise ValueError(
                f'"{word}" is not among the {len(self.words)} words{_nearest_spelling(word, self.words)}'
            )
        return np.asarray(made, np.float32)

    def neighbours(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """The k nearest words and their cosines, nearest first; the word itself is none."""
        return self._nearest(unit(self.vector(word)[None]), [[word]], k)[0]

    def analogy(self, plus: str, minus: str, other: str, k: int = 10) -> list[tuple[str, float]]:
        """The words nearest to plus - minus + other, of vectors of length 1 (3CosAdd); none of the three is an answer.

        "king", "man", "woman" asks for what is to woman as king is to man.

        Source: Mikolov, Yih and Zweig 2013, "Linguistic Regularities in Continuous Space Word Representations".
        """
        return self._nearest(self._offsets([(plus, minus, other)]), [[plus, minus, other]], k)[0]

    def similarity(self, one: str, other: str) -> float:
        """Their cosine."""
        return float(unit(self.vector(one)[None])[0] @ unit(self.vector(other)[None])[0])

    def show(self, words: Sequence[str] = (), k: int = 8) -> str:
        """A line for each word, with what is nearest to it: of these words, or of a few frequent ones."""
        ranks = [rank for rank in _RANKS if rank < len(self.words)] or [0]
        asked = words or [self.words[rank] for rank in ranks]
        near = {
            word: " ".join(other for other, _ in self.neighbours(word, k))
            if word in self
            else f"not among the {len(self.words)} words"
            for word in asked
        }
        return "\n".join(f"{word}: {others}" for word, others in near.items())

    def _offsets(self, triples: Sequence[Sequence[str]]) -> np.ndarray:
        parts = [
            unit(np.stack([self.vector(word) for word in words]))
            for words in zip(*triples, strict=True)
        ]
        return unit(parts[0] - parts[1] + parts[2])

    def _nearest(
        self, queries_ND: np.ndarray, without: Sequence[Sequence[str]], k: int
    ) -> list[list[tuple[str, float]]]:
        if k < 1:
            raise ValueError(f"k={k} must be at least 1")
        cosines_NV = queries_ND @ self.unit_VD.T
        found = []
        for row, words in zip(cosines_NV, without, strict=True):
            row[[self.places[word] for word in words if word in self.places]] = -np.inf
            number = min(k, int((row > -np.inf).sum()))
            best = np.argpartition(-row, number - 1)[:number] if number else np.zeros(0, int)
            best = best[np.argsort(-row[best], kind="stable")]
            found.append([(self.words[place], float(row[place])) for place in best])
        return found

    def answers(self, triples: Sequence[Sequence[str]]) -> list[str]:
        """The first answer to each analogy, see `analogy`."""
        found = []
        for start in range(0, len(triples), _ROWS):
            part = triples[start : start + _ROWS]
            found += [best[0][0] for best in self._nearest(self._offsets(part), part, 1)]
        return found


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Vectors of length 1; those of length 0 stay 0."""
    lengths = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND / np.where(lengths > 0, lengths, 1.0)


def _nearest_spelling(word: str, words: Sequence[str]) -> str:
    alike = [one for one in words if abs(len(one) - len(word)) < 3]
    close = difflib.get_close_matches(word, alike, n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def read_pairs(path: Any) -> list[tuple[str, str, float]]:
    """Two words and how alike they are, a line each, separated by tabs, commas or spaces; # begins a remark.

    Raises:
      ValueError: a line of another form, or none at all.
    """
    found = []
    for where, line in _lines(path):
        fields = (
            line.replace(",", "\t").split("\t") if "\t" in line or "," in line else line.split()
        )
        try:
            first, second, score = fields[:3]
            found.append((first.strip(), second.strip(), float(score)))
        except ValueError:
            raise ValueError(f"{where}: expected two words and a number, not {line!r}") from None
    if len(found) < 2:
        raise ValueError(f"{path} has {len(found)} pairs: a correlation needs two at least")
    return found


def read_analogies(path: Any) -> list[tuple[str, str, str, str]]:
    """a b c d, "a is to b as c is to d", a line each; lines that begin with : or # are headings (questions-words.txt).

    Raises:
      ValueError: a line of another form, or none at all.
    """
    found = []
    for where, line in _lines(path):
        words = line.split()
        if words[0] == ":":
            continue
        if len(words) != 4:
            raise ValueError(f"{where}: expected four words, not {line!r}")
        found.append(tuple(words))
    if not found:
        raise ValueError(f"{path} has no analogies")
    return found


def _lines(path: Any) -> list[tuple[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    kept = [(f"{path} line {number}", line.strip()) for number, line in enumerate(lines, 1)]
    return [(where, line) for where, line in kept if line and not line.startswith("#")]


def similarity_rows(vectors: Vectors, pairs: Sequence[tuple[str, str, float]]) -> list[Row]:
    """Row `spearman`: how far cosines go together with what the pairs say; pairs with unknown words are left out, and counted.

    Raises:
      ValueError: fewer than two pairs are known.
    """
    known = [pair for pair in pairs if pair[0] in vectors and pair[1] in vectors]
    if len(known) < 2:
        raise ValueError(
            f"of {len(pairs)} pairs {len(known)} have vectors: a correlation needs two at least"
        )
    cosines = np.array([vectors.similarity(one, other) for one, other, _ in known])
    scores = np.array([score for *_, score in known])
    about = f"cosine|left out={len(pairs) - len(known)}"
    return [row for row in regression.rows(cosines, scores, about) if row.name == "spearman"]


def analogy_rows(
    vectors: Vectors, questions: Sequence[tuple[str, str, str, str]]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Row `analogies`: how often b - a + c is nearest to d among all words but those three; and each answer.

    Questions with a word that has no vector are left out, and counted; d must be among the words.

    Raises:
      ValueError: none is left.
    """
    known = [
        one for one in questions if one[3] in vectors.places and all(w in vectors for w in one)
    ]
    if not known:
        raise ValueError(f"none of {len(questions)} analogies has all of its words")
    answers = vectors.answers([(b, a, c) for a, b, c, _ in known])
    hits = np.array([answer == one[3] for answer, one in zip(answers, known, strict=True)], float)
    row = make_row(
        "analogies",
        np.stack([hits, np.ones_like(hits)], 1),
        unit="right",
        finish="ratio",
        signature=f"3CosAdd|words={len(vectors.words)}|questions={len(known)}|left out={len(questions) - len(known)}",
        higher_is_better=True,
    )
    examples = [
        {"input": " ".join(one[:3]), "prediction": answer, "reference": one[3], "score": float(hit)}
        for one, answer, hit in zip(known, answers, hits, strict=True)
    ]
    return [row], examples
