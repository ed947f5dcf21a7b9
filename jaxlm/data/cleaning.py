"""Words of a text for methods that count them: BM25, and classical baselines.

Not for what a model reads (tokenizers.py), nor for scores, whose words their definitions say.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import unicodedata
from collections.abc import Callable
from typing import Any

from jaxlm.data import cache
from jaxlm.registry import nearest, need

ANY, CHINESE = "any", "chinese"
STEMMED = (
    "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese",
    "russian", "spanish", "swedish", "turkish",
)  # fmt: skip
"""What snowballstemmer has a stemmer for, and bm25s a list of stop words."""
LANGUAGES = (ANY, CHINESE, *STEMMED)
_RUN = re.compile(r"[^\W_]+")


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """How a text becomes words: in NFKC and lower case, without punctuation.

    Stop words are bm25s's lists (Lucene's for English, NLTK's for most others), stems snowballstemmer's, Chinese words
    jieba's. A language is named, never guessed.

    Attributes:
      language: of LANGUAGES; any: words of any script as they are, of Chinese and Japanese each character.
      stop_words: drop those of the language.
      stems: words of the languages in STEMMED become their stems.
    """

    language: str
    stop_words: bool = True
    stems: bool = True

    def __post_init__(self):
        if self.language not in LANGUAGES:
            raise ValueError(
                f'language="{self.language}" is not known{nearest(self.language, LANGUAGES)}; '
                f"accepted: {', '.join(LANGUAGES)}"
            )

    def words(self, text: str) -> list[str]:
        """The words of a text, in order.

        Raises:
          ValueError: a library is missing.
        """
        text = unicodedata.normalize("NFKC", text).lower()
        found = _RUN.findall(text) if self.language in STEMMED else _cut(self.language)(text)
        if self.stop_words and self.language != ANY:
            stop_words = _stop_words(self.language)
            found = [word for word in found if word not in stop_words]
        if self.stems and self.language in STEMMED:
            stem = _stemmer(self.language)
            found = [stem(word) for word in found]
        return found


def _cut(language: str) -> Callable[[str], list[str]]:
    return _chinese_words if language == CHINESE else _words_of_any_script


def _words_of_any_script(text: str) -> list[str]:
    """Runs of letters, marks and digits; what is written without spaces, character by character."""
    kept = []
    for one in text:
        if unicodedata.category(one)[0] not in "LMN":
            kept.append(" ")
        else:
            kept.append(f" {one} " if is_spaceless(one) else one)
    return "".join(kept).split()


@functools.lru_cache(maxsize=1 << 14)
def is_spaceless(character: str) -> bool:
    """Whether it is of a script that has no spaces between words, Chinese or Japanese."""
    return unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))


def _chinese_words(text: str) -> list[str]:
    """jieba's words that have a letter or digit."""
    return [word for word in _jieba().cut(text) if _RUN.search(word)]


@functools.cache
def _jieba() -> Any:
    """A segmenter; its dictionary is read once and kept in our cache, not in a folder that everybody writes to."""
    jieba = need("jieba", "retrieval")
    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    folder = cache.root() / "jieba"
    folder.mkdir(parents=True, exist_ok=True)
    segmenter.tmp_dir = str(folder)
    return segmenter


@functools.cache
def _stop_words(language: str) -> frozenset[str]:
    lists = need("bm25s.stopwords", "retrieval")
    name = "EN" if language == "english" else language.upper()
    return frozenset(getattr(lists, f"STOPWORDS_{name}"))


@functools.cache
def _stemmer(language: str) -> Callable[[str], str]:
    stemmer = need("snowballstemmer", "retrieval").stemmer(language)
    return functools.lru_cache(maxsize=1 << 16)(stemmer.stemWord)
