"""Short answers against accepted ones: exact match and token F1, as SQuAD defines them.

Source: Rajpurkar et al., "SQuAD" (2016), arXiv:1606.05250, and for empty answers "Know What You Don't Know" (2018),
arXiv:1806.03822; their evaluation script. Of English text in ASCII the scores are that script's; beyond it the same rule is
carried on: Unicode's punctuation is dropped too, and a Chinese or Japanese character is a token.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jaxlm.eval import Row
from jaxlm.eval import words as texts
from jaxlm.eval.generation import Writes, check_texts
from jaxlm.eval.metric import make_row

ARTICLES = ("a", "an", "the")


class Answers(Writes):
    """Texts as they were written against the lines of the data."""

    name: ClassVar[str] = "answers"
    main: ClassVar[str] = "f1"

    def rows(self, predictions: list[str], references: list[str]) -> list[Row]:
        """See `rows`."""
        return rows(predictions, references)


def rows(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    articles: tuple[str, ...] = ARTICLES,
) -> list[Row]:
    """Mean scores; of several accepted answers the best one counts.

    Args:
      predictions: one text each.
      references: an accepted answer or several for each; none: the question has no answer, and only nothing is right.
      articles: words that count for nothing.

    Returns:
      Rows `exact_match` and `f1`, fractions.

    Raises:
      ValueError: no example, or not as many references.
    """
    check_texts(predictions, references, needed=False)
    found = []
    for text, right in zip(predictions, references, strict=True):
        answers = [right] if isinstance(right, str) else list(right) or [""]
        tokens = normalised(text, articles)
        wanted = [normalised(answer, articles) for answer in answers]
        exact = max(float(" ".join(tokens) == " ".join(one)) for one in wanted)
        found.append((exact, max(token_f1(tokens, one) for one in wanted)))
    about = f"SQuAD|lower case, no punctuation, without {' '.join(articles) or 'no words'}|tok=spaces, CJK characters"
    return [
        make_row(
            name,
            np.stack([values, np.ones_like(values)], 1),
            unit="fraction",
            finish="ratio",
            signature=f"{about}|best of the accepted answers",
            higher_is_better=True,
        )
        for name, values in zip(("exact_match", "f1"), np.array(found).T, strict=True)
    ]


def normalised(text: str, articles: tuple[str, ...] = ARTICLES) -> list[str]:
    """Lower case, without punctuation and articles, cut at white space and around Chinese and Japanese characters."""
    bare = "".join(one for one in text.lower() if not texts.is_punctuation(one))
    apart = "".join(f" {one} " if texts.is_single(one) else one for one in bare)
    return [token for token in apart.split() if token not in articles]


def token_f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over tokens, each as often as it is there; 1 if both have none."""
    if not prediction or not answer:
        return float(list(prediction) == list(answer))
    same = sum((collections.Counter(prediction) & collections.Counter(answer)).values())
    return 2 * same / (len(prediction) + len(answer))
