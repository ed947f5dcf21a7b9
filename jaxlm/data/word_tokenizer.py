"""Words as tokens: "words:N" are the N most frequent words of a corpus, and <unk> for the others.

For vectors of words and whatever counts words. Not for models that write: case, spaces and punctuation are not kept, so a
text can't be given back, and the bytes of a token are those of its word alone.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data.cleaning import ANY, CHINESE, Cleaning, is_spaceless
from jaxlm.data.subword_tokenizers import checked, sha256, write
from jaxlm.registry import nearest

PREFIX = "words:"
UNK, EOS = "<unk>", "<eos>"
_ASCII_RUN = re.compile(r"[^\W_]+")
_ACCEPTED = "words:N[,min_count=M][,language=NAME], such as words:30000,min_count=5"


class Named(NamedTuple):
    """What a name such as "words:30000,min_count=5,language=chinese" says."""

    size: int  # at most so many words
    min_count: int = 1  # of rarer ones none
    language: str = ""  # of cleaning.LANGUAGES: where a word ends; "": not named, any


def is_named(name: str) -> bool:
    """Whether `data.tokenizer` is one of words."""
    return name.startswith(PREFIX)


def parse(name: str) -> Named:
    """The parts of a name.

    Raises:
      ValueError: they are not those; what is accepted is named.
    """
    size, *options = name.removeprefix(PREFIX).split(",")
    found: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in ("min_count", "language"):
            near = nearest(key, ("min_count", "language"))
            raise ValueError(
                f'data.tokenizer={name} has no option "{key}"{near}; accepted: {_ACCEPTED}'
            )
        found[key] = value
    counts = {"size": size, "min_count": found.get("min_count", "1")}
    for key, value in counts.items():
        if not value.isdigit() or int(value) < 1:
            what = "N" if key == "size" else key
            raise ValueError(
                f"data.tokenizer={name}: {what}={value} must be a whole number from 1; accepted: {_ACCEPTED}"
            )
    language = found.get("language", "")
    if "language" in found:
        Cleaning(language, stop_words=False, stems=False)  # checks the name
    return Named(int(size), int(counts["min_count"]), language)


def with_language(name: str, text: str) -> str:
    """The name, with the language of a text that has no spaces between words: jieba's words of Chinese, characters of Japanese.

    A name that has one is left as it is.
    """
    letters = [one for one in text if one.isalpha()]
    if parse(name).language or sum(map(is_spaceless, letters)) <= len(letters) / 2:
        return name
    num_chinese = sum(unicodedata.name(one, "").startswith("CJK") for one in letters)
    return f"{name},language={CHINESE if num_chinese > len(letters) / 2 else ANY}"


def split(text: str, language: str = ANY) -> list[str]:
    """The words of a text, in NFKC and lower case: `cleaning.Cleaning.words` with nothing left out, faster for ASCII."""
    cleaning = Cleaning(language, stop_words=False, stems=False)
    if language != ANY:
        return cleaning.words(text)
    found = []
    for line in unicodedata.normalize("NFKC", text).lower().splitlines():
        found += _ASCII_RUN.findall(line) if line.isascii() else cleaning.words(line)
    return found


def most_frequent(name: str, texts: Iterable[str]) -> list[str]:
    """The words that `name` asks for, the most frequent first, equally frequent ones by their spelling.

    Raises:
      ValueError: no word is that frequent, or there is none at all; or no language is named, and most words are single
        characters of a script without spaces.
    """
    asked = parse(name)
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(split(text, asked.language or ANY))
    _check_script(name, counts)
    kept = sorted((-count, word) for word, count in counts.items() if count >= asked.min_count)
    if not kept:
        most = f"the most frequent one stands {max(counts.values())} times" if counts else "none"
        raise ValueError(
            f"data.tokenizer={name}: the training part of data.path has no word of min_count={asked.min_count} "
            f"({len(counts)} different words, {most})"
        )
    return [word for _, word in kept[: asked.size]]


def _check_script(name: str, counts: collections.Counter[str]) -> None:
    single = sum(number for word, number in counts.items() if len(word) == 1 and is_spaceless(word))
    if not parse(name).language and single > counts.total() / 2:
        raise ValueError(
            f"data.tokenizer={name}: most words of data.path are single characters of a script without spaces; name where "
            f"words end: {name},language={CHINESE} (jieba's words), or {name},language={ANY} (each character is one)"
        )


class WordTokenizer:
    """Words of one corpus, the most frequent first, then <unk> and <eos>."""

    def __init__(self, name: str, words: Sequence[str]):
        self.name, self.words = name, list(words)
        self.language = parse(name).language or ANY
        self.vocab_size = len(self.words) + 2
        self.unk_id, self.eos_id = len(self.words), len(self.words) + 1
        self.digest = sha256(
            b"jaxlm words 1", self.language.encode(), "\n".join(self.words).encode("utf-8")
        )
        self._ids = {word: number for number, word in enumerate(self.words)}

    def encode(self, text: str) -> np.ndarray:
        ids, unk = self._ids, self.unk_id
        return np.array([ids.get(word, unk) for word in split(text, self.language)], np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The words with a space between them; not the text that they came from."""
        pieces = [*self.words, UNK, EOS]
        return " ".join(pieces[i] for i in checked(ids, self))

    def token_bytes(self) -> np.ndarray:
        """Of the words themselves: what stood between them is in no token."""
        return np.array([len(word.encode("utf-8")) for word in self.words] + [0, 0], np.int32)

    def special_ids(self) -> dict[str, int]:
        return {UNK: self.unk_id, EOS: self.eos_id}

    def pieces(self) -> list[str]:
        return [f" {word}" for word in self.words] + ["", ""]

    def spellings(self, begins: bool) -> Sequence[bytes]:
        before = "" if begins else " "
        return [f"{before}{word}".encode() for word in self.words] + [b"", b""]

    def save(self, directory: Any) -> None:
        write(directory, self, {"kind": "words", "name": self.name, "words": self.words})
