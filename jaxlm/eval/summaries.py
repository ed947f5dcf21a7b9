"""Summaries against references: ROUGE (rouge_score's) and METEOR (nltk's), means over examples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxlm import registry
from jaxlm.eval import Row
from jaxlm.eval import words as texts
from jaxlm.eval.generation import Writes, accepted, check_texts
from jaxlm.eval.metric import make_row, version

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TOKENIZERS = ("rouge_score", "words")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[。！？])(?=\S)")


class Summaries(Writes):
    """Texts as they were written against the lines of the data; sentences end at . ! ? and their Chinese forms."""

    name: ClassVar[str] = "summaries"
    tokenize: ClassVar[str] = "rouge_score"
    main: ClassVar[str] = "rougeL"

    def rows(self, predictions: list[str], references: list[str]) -> list[Row]:
        """See `rows`."""
        return rows(predictions, references, tokenize=self.tokenize, split_sentences=True)


class AnyScriptSummaries(Summaries):
    """As Summaries, in letters beyond a to z: evaluators=("jaxlm.eval.summaries:AnyScriptSummaries",)."""

    tokenize: ClassVar[str] = "words"


def rows(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    tokenize: str = "rouge_score",
    split_sentences: bool = False,
    synonyms: bool = False,
) -> list[Row]:
    """Mean scores; of several references the best one counts, as in rouge_score and nltk.

    Args:
      predictions: one text each; an empty one scores 0.
      references: a text or several for each; an empty one scores 0.
      tokenize: "rouge_score": that library's own, Porter-stemmed runs of a to z and 0 to 9, which drops all other letters
        (the signature counts the references that have some); "words": of any script (eval/words.py), not stemmed.
        METEOR reads nltk's wordpunct tokens, or "words".
      split_sentences: for rougeLsum, whose sentences are lines: texts of one line are cut after . ! ? first.
      synonyms: METEOR's third stage, which needs nltk's WordNet data on this machine.

    Returns:
      Rows `rouge1`, `rouge2`, `rougeL`, `rougeLsum` (F measures) and `meteor`, fractions.

    Raises:
      ValueError: no example, not as many references, another tokenizer, or no WordNet where it was asked for.
    """
    check_texts(predictions, references)
    if tokenize not in TOKENIZERS:
        raise ValueError(f'tokenize="{tokenize}" is not one of {", ".join(TOKENIZERS)}')
    found = _rouge(predictions, references, tokenize, split_sentences)
    return [*found, _meteor(predictions, references, tokenize, synonyms)]


class _Words:
    """The tokenizer that rouge_score takes in place of its own."""

    def tokenize(self, text: str) -> list[str]:
        return texts.words(text.casefold())


def _rouge(
    predictions: Sequence[str], references: Sequence[Any], tokenize: str, split_sentences: bool
) -> list[Row]:
    library = registry.need("rouge_score.rouge_scorer", "eval")
    own = _Words() if tokenize == "words" else None
    scorer = library.RougeScorer(KINDS, use_stemmer=True, tokenizer=own)
    cut = lines if split_sentences else str
    scores = [
        scorer.score_multi([cut(reference) for reference in accepted(right)], cut(text))
        for text, right in zip(predictions, references, strict=True)
    ]
    about = f"{version('rouge_score')}|F measure|mean over examples|"
    about += "tok=words|stemmer=no" if own else f"tok=a-z 0-9|stemmer=Porter{_dropped(references)}"
    rows = []
    for kind in KINDS:
        values = np.array([score[kind].fmeasure for score in scores], np.float64)
        signature = about
        if kind == "rougeLsum":
            signature += "|sentences=lines" + (", else cut after .!?" if split_sentences else "")
        rows.append(_mean(kind, values, signature))
    return rows


def lines(text: str) -> str:
    """A text of one line with a line for each sentence; one of several lines as it is."""
    return text if "\n" in text.strip() else _SENTENCE_END.sub("\n", text)


def _dropped(references: Sequence[Any]) -> str:
    """How many examples hold letters that rouge_score's tokenizer drops."""
    count = sum(
        any(one.isalnum() and not one.isascii() for text in accepted(right) for one in text)
        for right in references
    )
    return f"|letters beyond a-z dropped in {count} of {len(references)}" if count else ""


class _NoSynonyms:
    """In place of WordNet: the third stage of METEOR finds nothing that the first two have not."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _meteor(
    predictions: Sequence[str], references: Sequence[Any], tokenize: str, synonyms: bool
) -> Row:
    library = registry.need("nltk.translate.meteor_score", "eval")
    from nltk.tokenize import wordpunct_tokenize

    split = texts.words if tokenize == "words" else wordpunct_tokenize
    wordnet = _wordnet() if synonyms else _NoSynonyms()
    values = np.array(
        [
            library.meteor_score(
                [split(reference) for reference in accepted(right)], split(text), wordnet=wordnet
            )
            for text, right in zip(predictions, references, strict=True)
        ],
        np.float64,
    )
    stages = "exact, Porter stem" + (", WordNet synonyms" if synonyms else "")
    about = f"{version('nltk')}|stages={stages}|alpha=0.9|beta=3|gamma=0.5|lower case|"
    about += f"tok={'words' if tokenize == 'words' else 'wordpunct'}|mean over examples"
    return _mean("meteor", values, about)


def _wordnet() -> Any:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise ValueError(
            "synonyms=True: METEOR's third stage reads WordNet, which is not on this machine: "
            "python -m nltk.downloader wordnet"
        ) from error
    return wordnet


def _mean(name: str, values: np.ndarray, signature: str) -> Row:
    return make_row(
        name,
        np.stack([values, np.ones_like(values)], 1),
        unit="fraction",
        finish="ratio",
        signature=signature,
        higher_is_better=True,
    )
