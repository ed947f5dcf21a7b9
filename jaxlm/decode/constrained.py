"""What a row may write: one of several texts, what a regular expression matches, or JSON of a schema.

`build` gives constraints (`decode.types.Constraint`) for any tokenizer, through the bytes that its tokens stand for. Texts
to choose from are followed here, the other two by the llguidance library. Not for drawing tokens (sampling.py).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxlm import registry
from jaxlm.core.types import Tokenizer
from jaxlm.decode import writable
from jaxlm.decode.stopping import spellings
from jaxlm.decode.types import Constraint

KINDS = ("choices", "regex", "json_schema")
WHITESPACE = r"\n? {0,12}"
"""Between the parts of a JSON text: a line break and indentation, so that blanks can't go on for ever."""
EXACT = '%llguidance {"no_forcing": true}\n'
"""Any tokens that spell an allowed text, not only those that the tokenizer would have chosen."""


def build(
    constraint: Mapping[str, Any],
    tokenizer: Tokenizer,
    end_ids: Sequence[int] = (),
    *,
    begins: bool = True,
    size: int | None = None,
) -> Callable[[], Constraint]:
    """Compile a constraint once; each call of what this returns gives one for another row.

    Args:
      constraint: {"choices": [text, ...]}; {"regex": text}, which must match the whole text, with re.ASCII's meaning of \\d, \\w
        and \\s; or {"json_schema": a schema or its text}. A schema's own "x-guidance" is llguidance's: `whitespace_pattern` and more.
      tokenizer: any.
      end_ids: allowed wherever the text may end.
      begins: whether the text begins here (`stopping.text_of`).
      size: length of the masks; None: the tokenizer's number of ids, or what an end token beyond them needs.

    Raises:
      ValueError: malformed, more than the library can do, or nothing that the tokenizer can write satisfies it. A constraint's
        `mask` raises it where a vocabulary without all 256 bytes has nothing that can follow inside a JSON text.
    """
    if not isinstance(constraint, Mapping) or len(constraint) != 1:
        raise ValueError(f"constraint={constraint!r} must have one key, of {', '.join(KINDS)}")
    ((kind, value),) = constraint.items()
    if kind not in KINDS:
        near = registry.nearest(str(kind), KINDS)
        raise ValueError(f'constraint "{kind}" is not known{near}; accepted: {", ".join(KINDS)}')
    size = max([tokenizer.vocab_size - 1, *end_ids]) + 1 if size is None else size
    shared = (tuple(end_ids), size)
    if kind == "choices":
        return functools.partial(Choices, _choices(value, tokenizer, begins), *shared)
    words = _words(tokenizer, begins)
    grammar = _regex(value, words) if kind == "regex" else _json(value)
    matcher = _matcher(kind, grammar, words)
    Guided(matcher, words, *shared).mask()  # raises where nothing can be written
    return lambda: Guided(matcher.deep_copy(), words, *shared)


class _Followed:
    """A text that is followed token by token, and what may come next in it."""

    def __init__(self, end_ids: tuple[int, ...], size: int):
        self._end_ids, self._size, self._ended = end_ids, size, False

    def mask(self) -> np.ndarray:
        """The tokens that may come next, bool [size]."""
        mask = np.zeros(self._size, bool)
        if not self._ended:
            mask[self._next_tokens()] = True
            mask[list(self._end_ids)] = self._may_end()
        return mask

    def accept(self, token: int) -> None:
        """A token was written."""
        if not self.mask()[token]:
            raise ValueError(f"token {token} is not allowed here")
        self._ended = token in self._end_ids
        if not self._ended:
            self._write(token)

    @property
    def finished(self) -> bool:
        """Whether nothing may follow."""
        return self._ended or not len(self._next_tokens())


class Choices(_Followed):
    """One of several texts, whose spellings are followed byte by byte."""

    def __init__(self, texts: writable.Texts, end_ids: tuple[int, ...], size: int):
        super().__init__(end_ids, size)
        self._texts, self._done = texts, b""

    def _next_tokens(self) -> Sequence[int]:
        return self._texts.next_tokens(self._done)

    def _may_end(self) -> bool:
        return self._done in self._texts.texts

    def _write(self, token: int) -> None:
        self._done += self._texts.spelling(self._done, token)


class Guided(_Followed):
    """What a grammar of llguidance allows."""

    def __init__(self, matcher: Any, words: _Words, end_ids: tuple[int, ...], size: int):
        super().__init__(end_ids, size)
        self._matcher, self._words = matcher, words
        self._written: list[int] = []
        self._allowed = None

    def _may_end(self) -> bool:
        return self._matcher.is_accepting()

    def _write(self, token: int) -> None:
        self._matcher.consume_token(self._words.number(token, not self._written))
        self._check()
        self._written.append(token)
        self._allowed = None

    def _next_tokens(self) -> np.ndarray:
        """Ids that may follow, the ends of texts aside."""
        if self._allowed is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            allowed = self._words.tokens(bits, not self._written)
            if not len(allowed) and not self._matcher.is_accepting():
                self._check()
                where = (
                    f"may follow {self._words.text(self._written)!r}"
                    if self._written
                    else "fits it"
                )
                raise ValueError(f"constraint: {self._words.name} can write nothing that {where}")
            self._allowed = allowed
        return self._allowed

    def _check(self) -> None:
        if self._matcher.is_error() and "NoExtension" not in self._matcher.get_error():
            raise ValueError(f"constraint: {_one_line(self._matcher.get_error())}")


class _Words:
    """A vocabulary as llguidance takes it.

    Where a token is spelt otherwise at the beginning of a text, that spelling is another word behind the others.
    """

    def __init__(self, tokenizer: Tokenizer, begins: bool):
        self.name, self.size = tokenizer.name, tokenizer.vocab_size
        self.first, self.later = writable.usable(
            spellings(tokenizer, begins), spellings(tokenizer, False)
        )
        self._offset = 0 if self.first == self.later else self.size
        self.vocabulary = _library([*self.later, *(self.first if self._offset else ())])

    def number(self, token: int, first: bool) -> int:
        """The word of a token."""
        return token + self._offset * first

    def tokens(self, bits: np.ndarray, first: bool) -> np.ndarray:
        """The ids of the tokens whose bit is set."""
        start = self.number(0, first)
        mask = np.unpackbits(bits, bitorder="little")[start : start + self.size]
        return np.flatnonzero(mask)

    def text(self, tokens: Sequence[int]) -> str:
        """For messages."""
        parts = [(self.later if place else self.first)[one] for place, one in enumerate(tokens)]
        return b"".join(parts).decode("utf-8", "replace")


_words = functools.lru_cache(maxsize=8)(_Words)


def _library(spellings: list[bytes]) -> Any:
    llguidance = registry.need("llguidance", "constrain")

    class Vocabulary:
        tokens = [*spellings, b"\xff<end>"]  # one of its own: ours need not be a single one
        eos_token_id, bos_token_id, special_token_ids = len(spellings), None, ()

        def __call__(self, text: bytes) -> list[int]:
            raise NotImplementedError  # EXACT: it need not know how a text is cut

    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary()))


def _choices(value: Any, tokenizer: Tokenizer, begins: bool) -> writable.Texts:
    texts = [value] if isinstance(value, str) else list(value)
    if not texts or any(not isinstance(text, str) or not text for text in texts):
        raise ValueError(
            f"constraint choices={value!r} must be one text or more, none of them empty"
        )
    found = writable.Texts(texts, spellings(tokenizer, begins), spellings(tokenizer, False))
    for text in texts:
        if not found.can_write(text.encode("utf-8")):
            raise ValueError(f"constraint: {tokenizer.name} can't write the choice {text!r}")
    return found


def _regex(value: Any, words: _Words) -> str:
    if not isinstance(value, str):
        raise ValueError(f"constraint regex={value!r} must be a text")
    library = registry.need("llguidance", "constrain")
    terminal = f"/{library.regex_to_lark(value, 'dws')}/"
    can_be_written = writable.pattern(words.first, words.later)
    if can_be_written is not None:
        terminal += f" & /{can_be_written}/"
    return f"{EXACT}start: TEXT\nTEXT: {terminal}"


def _json(value: Any) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"constraint json_schema is not JSON: {error}") from error
    if not isinstance(value, dict | bool):
        raise ValueError(f"constraint json_schema={value!r} must be an object, true or false")
    if isinstance(value, dict):
        value = {"x-guidance": {"whitespace_pattern": WHITESPACE}} | value
    try:
        return f"{EXACT}start: %json {json.dumps(value)}"
    except TypeError as error:
        raise ValueError(f"constraint json_schema is no JSON: {error}") from error


def _matcher(kind: str, grammar: str, words: _Words) -> Any:
    library = registry.need("llguidance", "constrain")
    compiled = library.LLMatcher.grammar_from_lark(grammar)
    matcher = library.LLMatcher(words.vocabulary, compiled, log_level=0)
    if matcher.is_error():
        raise ValueError(f"constraint {kind}: {_one_line(matcher.get_error())}")
    return matcher


def _one_line(message: str) -> str:
    """What the library says, without where in a grammar that is not the user's."""
    if found := re.search(r"^error: (.*)$", message, re.MULTILINE):
        return found[1]
    first = message.split("\n")[0]
    return re.sub(r"^at \d+\(\d+\): |failed to compile JSON schema: ", "", first)
