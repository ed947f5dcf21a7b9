"""How varied texts are, and how much they repeat themselves; there is no right answer here.

None of these depends on one text alone but the repetition, so only that has an error bar.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np

from jaxlm import registry
from jaxlm.eval import Row
from jaxlm.eval import words as texts_of
from jaxlm.eval.finish import bleu
from jaxlm.eval.metric import make_row

DISTINCT = (1, 2, 3)
REPEATED = (2, 3, 4)
_ABOUT = "tok=words"


def rows(texts: Sequence[str], *, tokenize: str = "13a") -> list[Row]:
    """Scores of a set of texts, as words of any script (eval/words.py), case kept.

    `distinct_n`: different n-grams of all texts, divided by their words (Li et al. 2016, "A Diversity-Promoting Objective
    Function", arXiv:1510.03055, section 5). `self_bleu`: the mean BLEU-4 of each text against all others (Zhu et al. 2018,
    "Texygen", arXiv:1802.01886), by sacrebleu's tokenizer and smoothing in place of theirs. `repetition_n`: the mean over
    texts of 1 - different / all n-grams (Welleck et al. 2020, arXiv:1908.04319, seq-rep-n; Su et al. 2022,
    arXiv:2202.06417, rep-n); texts without an n-gram are left out.

    Args:
      texts: at least one; empty ones have no words. Of one text, or none with words, what can't be said is nan.
      tokenize: sacrebleu's tokenizer of self_bleu: "zh" for Chinese.

    Raises:
      ValueError: no text, or a tokenizer that sacrebleu doesn't know.
    """
    if not len(texts):
        raise ValueError("0 texts: expected at least one")
    split = [texts_of.words(text) for text in texts]
    found = [distinct(split, order) for order in DISTINCT]
    found.append(self_bleu(texts, tokenize))
    return found + [repetition(split, order) for order in REPEATED]


def distinct(split: Sequence[Sequence[str]], order: int) -> Row:
    """Of texts as lists of words."""
    size = sum(map(len, split))
    different = {gram for tokens in split for gram in texts_of.ngrams(tokens, order)}
    value = len(different) / size if size else math.nan
    signature = f"{_ABOUT}|different {order}-grams / words|texts={len(split)}|words={size}"
    return Row(f"distinct_{order}", value, "fraction", math.nan, signature, True)


def repetition(split: Sequence[Sequence[str]], order: int) -> Row:
    """Of texts as lists of words."""
    shares = np.zeros((len(split), 2))
    for row, tokens in enumerate(split):
        grams = texts_of.ngrams(tokens, order)
        if grams:
            shares[row] = 1 - len(set(grams)) / len(grams), 1
    signature = (
        f"{_ABOUT}|1 - different / all {order}-grams|mean over {int(shares[:, 1].sum())} texts"
    )
    return make_row(
        f"repetition_{order}", shares, unit="fraction", finish="ratio", signature=signature
    )


def self_bleu(texts: Sequence[str], tokenize: str = "13a") -> Row:
    """Of texts as they are; n-grams are counted once, so that the time grows with the number of texts, not its square.

    A text's references are all others: an n-gram counts as often as in the one that has most of it, and the reference
    length is the closest one (the shorter of two), as sacrebleu's sentence_score with all of them.
    """
    metrics = registry.need("sacrebleu.metrics", "eval")
    if tokenize not in metrics.BLEU.TOKENIZERS:
        raise ValueError(
            f'tokenize="{tokenize}" is not one of {", ".join(map(str, metrics.BLEU.TOKENIZERS))}'
        )
    metric = metrics.BLEU(tokenize=tokenize, effective_order=True, force=True)
    split = [metric._preprocess_segment(text).split() for text in texts]
    counts = [
        collections.Counter(
            gram for order in range(1, 5) for gram in texts_of.ngrams(tokens, order)
        )
        for tokens in split
    ]
    most = _two_most(counts)
    lengths = np.array([len(tokens) for tokens in split])
    statistics = np.zeros((len(texts), 10))
    for row, own in enumerate(counts if len(texts) > 1 else ()):
        others = np.delete(lengths, row)
        closest = min(others, key=lambda size: (abs(size - lengths[row]), size))
        statistics[row, :2] = lengths[row], closest
        for gram, count in own.items():
            first, holder, second = most[gram]
            elsewhere = second if holder == row else first
            statistics[row, 1 + len(gram)] += min(count, elsewhere)
            statistics[row, 5 + len(gram)] += count
    value = float(bleu(statistics, effective_order=True).mean()) if len(texts) > 1 else math.nan
    signature = f"sacrebleu|mean sentence BLEU against all others|texts={len(texts)}|eff:yes|tok:{tokenize}|smooth:exp"
    return Row("self_bleu", value, "of 100", math.nan, signature)


def _two_most(counts: Sequence[collections.Counter]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Of each n-gram the most that a text has, which text that is, and the most that another one has."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for row, own in enumerate(counts):
        for gram, count in own.items():
            first, holder, second = found.get(gram, (0, -1, 0))
            if count > first:
                found[gram] = (count, row, first)
            else:
                found[gram] = (first, holder, max(second, count))
    return found
