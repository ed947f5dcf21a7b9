"""Translations against references: BLEU, chrF and TER, all sacrebleu's, with its signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxlm import registry
from jaxlm.eval import Row
from jaxlm.eval.generation import Writes, check_texts, streams
from jaxlm.eval.metric import make_row

References = Sequence[str | Sequence[str]]
"""What is right for each example: a text, or several that are all accepted."""


class Translation(Writes):
    """Texts as they were written against the lines of the data, both untouched: sacrebleu tokenises them itself."""

    name: ClassVar[str] = "translation"
    tokenize: ClassVar[str] = "13a"
    main: ClassVar[str] = "chrf"

    def rows(self, predictions: list[str], references: list[str]) -> list[Row]:
        """See `rows`."""
        return rows(predictions, references, tokenize=self.tokenize)


class ChineseTranslation(Translation):
    """As Translation, into Chinese: evaluators=("jaxlm.eval.translation:ChineseTranslation",)."""

    tokenize: ClassVar[str] = "zh"


def rows(predictions: Sequence[str], references: References, *, tokenize: str = "13a") -> list[Row]:
    """Corpus scores of texts that were not tokenised.

    Args:
      predictions: one text each; an empty one matches nothing.
      references: see References; an empty text is a reference of no words.
      tokenize: sacrebleu's tokenizer for BLEU: "13a" for text with spaces, "zh" for Chinese, "char", "intl", ... With "zh"
        TER counts every Chinese character as a word (asian support, normalised).

    Returns:
      Rows `bleu` and `chrf` (0 to 100) and `ter` (edits per 100 words; lower is better).

    Raises:
      ValueError: no example, not as many references, or a tokenizer that sacrebleu doesn't know.
    """
    metrics = registry.need("sacrebleu.metrics", "eval")
    check_texts(predictions, references)
    accepted = metrics.BLEU.TOKENIZERS
    if tokenize not in accepted:
        raise ValueError(f'tokenize="{tokenize}" is not one of {", ".join(map(str, accepted))}')
    chinese = {"normalized": True, "asian_support": True} if tokenize == "zh" else {}
    return [
        _row("bleu", metrics.BLEU(tokenize=tokenize, force=True), predictions, references),
        _row("chrf", metrics.CHRF(), predictions, references),
        _row("ter", metrics.TER(**chinese), predictions, references),
    ]


def _row(name: str, metric: Any, predictions: Sequence[str], references: References) -> Row:
    """What `metric.corpus_score` says, from its own statistics of each example."""
    statistics = metric._extract_corpus_statistics(list(predictions), streams(references))
    value = metric._aggregate_and_compute([list(line) for line in statistics]).score
    return make_row(
        name,
        np.array(statistics, np.float64),
        unit="edits/100 words" if name == "ter" else "of 100",
        finish=name,
        signature=f"sacrebleu|{name.upper() if name != 'chrf' else 'chrF2'}|{metric.get_signature()}",
        higher_is_better=name != "ter",
        value=value,
    )
