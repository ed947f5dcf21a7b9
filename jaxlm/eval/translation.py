"""Translations against references: BLEU, chrF and TER, all sacrebleu's, with its signatures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxlm import registry
from jaxlm.eval import Row
from jaxlm.eval.generation import Writes, accepted, check_texts, streams
from jaxlm.eval.metric import make_row

References = Sequence[str | Sequence[str]]
"""What is right for each example: a text, or several that are all accepted."""

_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SPACELESS = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff]")
"""Thai, Lao, Tibetan, Burmese, Khmer and Japanese kana."""


class Translation(Writes):
    """Texts by beam search against the lines of the data, both untouched: sacrebleu tokenises them itself.

    Four beams and alpha 0.6 as in Vaswani et al. 2017 (arXiv:1706.03762, section 6.1), where alpha is the power of the length
    itself, not of (5 + length) / 6 as in Wu et al. 2016.
    """

    name: ClassVar[str] = "translation"
    main: ClassVar[str] = "chrf"
    writes: ClassVar[Mapping[str, Any]] = {"method": "beam", "num_beams": 4, "length_penalty": 0.6}

    def rows(self, predictions: list[str], references: list[str]) -> list[Row]:
        """See `rows`."""
        return rows(predictions, references)


def rows(predictions: Sequence[str], references: References, *, tokenize: str = "") -> list[Row]:
    """Corpus scores of texts that were not tokenised.

    Args:
      predictions: one text each; an empty one matches nothing.
      references: see References; an empty text is a reference of no words.
      tokenize: sacrebleu's tokenizer for BLEU: "13a" for text with spaces, "zh" for Chinese, "char", "intl", ... With "zh"
        TER counts every Chinese character as a word (asian support, normalised). "": by the references' script, see
        `tokenizer_of`. The signature names it.

    Returns:
      Rows `bleu` and `chrf` (0 to 100) and `ter` (edits per 100 words; lower is better).

    Raises:
      ValueError: no example, not as many references, or a tokenizer that sacrebleu doesn't know.
    """
    metrics = registry.need("sacrebleu.metrics", "eval")
    check_texts(predictions, references)
    tokenize = tokenize or tokenizer_of(references)
    known = metrics.BLEU.TOKENIZERS
    if tokenize not in known:
        raise ValueError(f'tokenize="{tokenize}" is not one of {", ".join(map(str, known))}')
    chinese = {"normalized": True, "asian_support": True} if tokenize == "zh" else {}
    return [
        _row("bleu", metrics.BLEU(tokenize=tokenize, force=True), predictions, references),
        _row("chrf", metrics.CHRF(), predictions, references),
        _row("ter", metrics.TER(**chinese), predictions, references),
    ]


def tokenizer_of(references: References) -> str:
    """sacrebleu's tokenizer for a script: "13a" finds no words where there are no spaces, and would score 0 in silence.

    Args:
      references: of all examples.

    Returns:
      "char" where most examples have a letter of Thai, Lao, Tibetan, Burmese, Khmer or kana; "zh" where most have a
      Chinese one; else "13a".
    """
    texts = ["".join(accepted(right)) for right in references]

    def most(letter: re.Pattern[str]) -> bool:
        return 2 * sum(letter.search(text) is not None for text in texts) > len(texts)

    return "char" if most(_SPACELESS) else "zh" if most(_CHINESE) else "13a"


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
