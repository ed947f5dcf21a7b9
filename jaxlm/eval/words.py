"""Words of any script, by one rule without dictionaries: for scores whose definition leaves the tokens open."""

from __future__ import annotations

import functools
import string
import unicodedata
from collections.abc import Sequence

_SINGLE = ("CJK", "HIRAGANA", "KATAKANA")


def words(text: str) -> list[str]:
    """The words of a text as they stand in it: runs of letters, marks and digits, each Chinese or Japanese character by itself.

    Signatures call it "tok=words".
    """
    found, run = [], ""
    for character in text:
        kind = _kind(character)
        if kind == "letter":
            run += character
            continue
        if run:
            found.append(run)
            run = ""
        if kind == "single":
            found.append(character)
    return [*found, run] if run else found


@functools.lru_cache(maxsize=1 << 14)
def _kind(character: str) -> str:
    """A "letter" of a word, a "single" that is a word, or "" for what separates."""
    if unicodedata.category(character)[0] not in "LMN":
        return ""
    return "single" if is_single(character) else "letter"


@functools.lru_cache(maxsize=1 << 14)
def is_single(character: str) -> bool:
    """A Chinese character or a Japanese letter: what is written without spaces between words."""
    is_letter = unicodedata.category(character)[0] == "L"
    return is_letter and unicodedata.name(character, "").startswith(_SINGLE)


@functools.lru_cache(maxsize=1 << 14)
def is_punctuation(character: str) -> bool:
    """ASCII's 32, as string.punctuation has them, and Unicode's category P."""
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def ngrams(tokens: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """All runs of `order` tokens."""
    return list(zip(*(tokens[place:] for place in range(order)), strict=False))
