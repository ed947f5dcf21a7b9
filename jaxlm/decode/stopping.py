"""From tokens to a text as they come: whole characters only, up to the first stop string.

For any tokenizer, through the bytes that its tokens stand for (`Tokenizer.spellings`). Which tokens are written is not
decided here.
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Iterable, Sequence

from jaxlm.core.types import Tokenizer


@functools.lru_cache(maxsize=8)
def spellings(tokenizer: Tokenizer, begins: bool) -> Sequence[bytes]:
    """`tokenizer.spellings(begins)`, made once."""
    return tokenizer.spellings(begins)


def text_of(tokenizer: Tokenizer, tokens: Iterable[int], begins: bool = True) -> str:
    """What was written, special tokens and ids beyond the vocabulary left out.

    Args:
      begins: whether the text begins here, as an answer does and as `decode` takes it; else it goes on behind a
        prompt, and a vocabulary that drops the space before a text's first word keeps it.
    """
    stream = TextStream(tokenizer, begins=begins)
    return stream.push(tokens) + stream.finish()


class TextStream:
    """The text of one row, a piece at a time.

    All that `push` and `finish` return, joined, is `text_of` of all tokens, cut at the first stop string.

    Args:
      stop: strings that end the text and don't belong to it; what may be the beginning of one is held back.
      begins: see `text_of`.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str] = (), begins: bool = True):
        self._tokenizer, self._stop = tokenizer, checked_stop(stop)
        self._spellings = spellings(tokenizer, False)
        self._head: list[int] | None = [] if begins else None  # tokens before the first byte
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, tokens: Iterable[int]) -> str:
        """What is certain of the text now."""
        new = b"".join(map(self._spelling, tokens))
        return self._passed(self._bytes.decode(new), whole=False)

    def finish(self) -> str:
        """The rest, when no more tokens come; half a character reads as U+FFFD."""
        return self._passed(self._bytes.decode(b"", final=True), whole=True)

    def _spelling(self, token: int) -> bytes:
        if not 0 <= token < len(self._spellings):
            return b""
        later = self._spellings[token]
        if self._head is None or not later:
            return later
        self._head.append(token)
        found = spellings(self._tokenizer, True)[token]
        if len(self._head) > 1 and _is_text(later):  # what came before left nothing to be seen
            found = self._tokenizer.decode(self._head).encode("utf-8")
        if found:
            self._head = None
        return found

    def _passed(self, new: str, whole: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        if (found := _first(text, self._stop)) is not None:
            self.stopped, self._held = True, ""
            return text[:found]
        kept = 0 if whole else _beginning(text, self._stop)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


class StopStrings:
    """Stop strings for the rows of one or more batches.

    Of several, the one that is complete first ends a text, so it does not matter how the text was cut into tokens.

    Raises:
      ValueError: a stop string is empty, or none.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str], begins: bool = True):
        self._stop = checked_stop(stop)
        self._new = functools.partial(TextStream, tokenizer, self._stop, begins)
        self._rows: dict[int, tuple[list[int], TextStream]] = {}

    def watch(self, row: int, tokens: Sequence[int]) -> bool:
        """Whether a row has written a stop string; each call decodes only what is new in it."""
        if not self._stop:
            return False
        seen, stream = self._rows.get(row, ([], None))
        if stream is None or list(tokens[: len(seen)]) != seen:  # another text
            seen, stream = [], self._new()
        new = list(tokens[len(seen) :])
        stream.push(new)
        seen += new
        self._rows[row] = seen, stream
        return stream.stopped

    def cut(self, text: str) -> str:
        """The text before the first stop string; all of it where there is none."""
        return text[: _first(text, self._stop)]


def checked_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Stop strings as a tuple.

    Raises:
      ValueError: one is empty, or no string.
    """
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    for one in stop:
        if not isinstance(one, str) or not one:
            raise ValueError(f"stop={one!r} must be a string with at least one character")
    return stop


def _first(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the stop string begins that ends first, of those the longest; None without one."""
    found = ((text.find(one), len(one)) for one in stop)
    ends = [(place + length, place) for place, length in found if place >= 0]
    return min(ends)[1] if ends else None


def _beginning(text: str, stop: tuple[str, ...]) -> int:
    """How many characters at the end may be the beginning of a stop string."""
    longest = min(len(text), max(map(len, stop), default=1) - 1)
    for length in range(longest, 0, -1):
        if any(one.startswith(text[-length:]) for one in stop):
            return length
    return 0


def _is_text(spelling: bytes) -> bool:
    try:
        spelling.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
