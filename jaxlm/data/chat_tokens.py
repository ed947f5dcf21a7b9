"""Text with special tokens in it to ids, where only those count that weren't typed by somebody.

Before a template runs, spelt-out special tokens in messages are put between marks (`Marks.put`); what it gave is then
encoded part by part (`Marks.encode`). The method is that of transformers' `sanitize_control_tokens`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # jax is not needed to read a tokenizer
    from jaxlm.core.types import Tokenizer

PRIVATE = range(0xF0000, 0xFFFFE)
"""Characters that mean nothing (Unicode's private use plane)."""


def unused(text: str, count: int) -> list[str]:
    """Private characters that are not in a text."""
    free = (chr(code) for code in PRIVATE if chr(code) not in text)
    return [next(free) for _ in range(count)]


class Marks:
    """A pair of characters around spelt-out tokens.

    Args:
      tokens: what is to be marked.
      text: all that the marks must not occur in.

    Attributes:
      around: two more such characters.
    """

    def __init__(self, tokens: Sequence[str], text: str):
        self._open, self._close, *self.around = unused(text, 4)
        longest_first = sorted(tokens, key=len, reverse=True)
        self._tokens = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._marked = re.compile(
            f"{self._open}({self._tokens.pattern}){self._close}|[{self._open}{self._close}]"
        )

    def put(self, value: Any) -> Any:
        """Messages with marks in all their texts."""
        if isinstance(value, str):
            return self._tokens.sub(f"{self._open}\\g<0>{self._close}", value)
        if isinstance(value, Mapping):
            return {key: self.put(one) for key, one in value.items()}
        return [self.put(one) for one in value] if isinstance(value, list) else value

    def control_end(self, text: str) -> int | None:
        """Where the first special token of a text ends; None where it has none."""
        found = self._tokens.search(text)
        return None if found is None else found.end()

    def encode(self, encoder: Any, text: str, begins: bool = True) -> list[int]:
        """Ids; a lone mark, which a template's own cutting leaves, is dropped and still parts the text.

        Args:
          encoder: of a tokenizer.
          text: what a template wrote, or a part of it.
          begins: nothing stands before it.
        """
        first, *rest = self._marked.split(text)
        ids = encoder.tokens(first) if begins or not first else _behind(encoder.tokens, first)
        for number, piece in enumerate(rest):
            if piece:  # text and marked token by turns
                ids = ids + (
                    _behind(encoder.tokens, piece) if number % 2 else _spelt(encoder, piece)
                )
        return ids


def _spelt(encoder: Any, name: str) -> list[int]:
    """A token's name as text: by letters, where the vocabulary makes the token itself of them."""
    ids = _behind(encoder.plain, name)
    if (token := encoder.tokens(name))[0] in ids:
        ids = [i for letter in name for i in _behind(encoder.plain, letter)]
    if token[0] in ids:
        raise ValueError(f"messages: {name!r} can't be written as text with this vocabulary")
    return ids


def _behind(encode: Any, piece: str) -> list[int]:
    """Encoded behind a line break: some vocabularies put a space before a text's first word."""
    line = encode("\n")
    ids = encode("\n" + piece)
    return ids[len(line) :] if ids[: len(line)] == line else encode(piece)


@functools.lru_cache(maxsize=8)
def encoder(tokenizer: Tokenizer) -> Any:
    """What encodes the texts of a tokenizer with special tokens in them."""
    data = getattr(tokenizer, "data", None)
    return _Any(tokenizer) if data is None else _Json(data)


class _Json:
    """A tokenizer.json, by the library that it is for."""

    def __init__(self, data: bytes):
        from tokenizers import Tokenizer as Library

        self._library = Library.from_str(data.decode("utf-8"))
        self._library.no_padding()
        self._library.no_truncation()
        self._added = self._library.get_added_tokens_decoder().values()

    def control(self, literals: str) -> list[str]:
        """Special tokens, and other added ones that a template writes itself."""
        return [
            token.content
            for token in self._added
            if token.special or (token.content in literals and not token.content.isspace())
        ]

    def tokens(self, text: str) -> list[int]:
        """Ids; added tokens are read as such."""
        return self._library.encode(text, add_special_tokens=False).ids

    def plain(self, text: str) -> list[int]:
        """Ids of a text in which no added token is seen."""
        library, parts = self._library, [text]
        if library.normalizer is not None:
            text = library.normalizer.normalize_str(text)
            parts = [text]
        if library.pre_tokenizer is not None:
            parts = [part for part, _ in library.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for part in parts for token in library.model.tokenize(part)]


class _Any:
    """A tokenizer that reads no special tokens itself: they are looked for here."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids = tokenizer, tokenizer.special_ids()
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._names = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def control(self, literals: str) -> list[str]:
        """All special tokens."""
        return list(self._ids)

    def tokens(self, text: str) -> list[int]:
        """Ids; special tokens are read as such."""
        parts = [part for part in self._names.split(text) if part]
        ids = ([self._ids[part]] if part in self._ids else self.plain(part) for part in parts)
        return [i for some in ids for i in some]

    def plain(self, text: str) -> list[int]:
        """Ids of a text in which no special token is seen."""
        return self._tokenizer.encode(text).tolist()
