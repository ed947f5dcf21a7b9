"""Which texts a vocabulary can spell: all of them where it has every byte, else what its tokens make together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

BYTES = frozenset(bytes([byte]) for byte in range(256))


class Texts:
    """Texts to choose from, and the tokens with which one of them can be written to its end.

    Args:
      texts: at least one.
      first: the bytes of each token at the beginning of a text; b"" adds nothing.
      later: the same further on.
    """

    def __init__(self, texts: Iterable[str], first: Sequence[bytes], later: Sequence[bytes]):
        self.texts = frozenset(text.encode("utf-8") for text in texts)
        longest = max(map(len, self.texts))
        self._spellings = (first, later)
        self._tokens = tuple(_by_spelling(one, longest) for one in self._spellings)
        self._ends = {text: self._can_end(text) for text in self.texts}

    def can_write(self, text: bytes) -> bool:
        """Whether there are tokens for all of a text."""
        return bool(self._steps(text, 0))

    def next_tokens(self, done: bytes) -> list[int]:
        """Tokens after which one of the texts can still be finished."""
        tokens = self._tokens[bool(done)]
        steps = {
            text[len(done) : end]
            for text in self.texts
            if text.startswith(done)
            for end in self._steps(text, len(done))
        }
        return [token for step in steps for token in tokens[step]]

    def spelling(self, done: bytes, token: int) -> bytes:
        """What a token adds."""
        return self._spellings[bool(done)][token]

    def _steps(self, text: bytes, place: int) -> list[int]:
        """Where the next token may end."""
        tokens, good = self._tokens[place > 0], self._ends[text]
        return [
            end
            for end in range(place + 1, len(text) + 1)
            if good[end] and text[place:end] in tokens
        ]

    def _can_end(self, text: bytes) -> list[bool]:
        """For each place behind the first, whether tokens lead from there to the end."""
        later, good = self._tokens[1], [False] * len(text) + [True]
        for place in range(len(text) - 1, 0, -1):
            ends = range(place + 1, len(text) + 1)
            good[place] = any(good[end] and text[place:end] in later for end in ends)
        return good


def _by_spelling(spellings: Sequence[bytes], longest: int) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for token, one in enumerate(spellings):
        if 0 < len(one) <= longest:
            found.setdefault(one, []).append(token)
    return found


def usable(
    first: Sequence[bytes], later: Sequence[bytes]
) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Without tokens that break a character, where it may be that nothing can complete it."""
    if _has_all_bytes(first, later):
        return first, later
    return tuple(
        [b"" if _text(one) is None else one for one in spellings] for spellings in (first, later)
    )


def pattern(first: Sequence[bytes], later: Sequence[bytes]) -> str | None:
    """A regular expression for every text that `usable` tokens can make; None where that is all texts."""
    first_texts = {text for one in first if (text := _text(one))}
    if _has_all_bytes(first, later):
        missing = {chr(byte) for byte in range(128)} - first_texts  # a space, which is dropped
        if not missing:
            return None
        starts = {text for text in first_texts if text[0] in missing}
        others = f"[^{''.join(map(_escaped, sorted(missing)))}]"
        choice = f"({others}|{_alternatives(starts)})" if starts else others
        return f"({choice}(?s:.)*)?"
    later_texts = {text for one in later if (text := _text(one))}
    starts, parts = _smallest(first_texts, later_texts), _smallest(later_texts, later_texts)
    if not starts:
        return "()"
    return (
        f"({_alternatives(starts)}({_alternatives(parts)})*)?" if parts else _alternatives(starts)
    )


def _has_all_bytes(first: Sequence[bytes], later: Sequence[bytes]) -> bool:
    """Every text can be gone on with; at the beginning, ASCII aside."""
    return BYTES <= set(later) and {one for one in BYTES if one >= b"\x80"} <= set(first)


def _smallest(texts: set[str], later: set[str]) -> set[str]:
    """Those that aren't one of `texts` and then some of `later`."""
    return {text for text in texts if not _is_made(text, texts, later)}


def _is_made(text: str, texts: set[str], later: set[str]) -> bool:
    made = {end for end in range(1, len(text)) if text[:end] in texts}
    for place in range(1, len(text)):
        if place in made:
            ends = range(place + 1, len(text) + 1)
            made |= {end for end in ends if text[place:end] in later}
    return len(text) in made


def _alternatives(texts: set[str]) -> str:
    """One of these; texts that differ in the last character only are a class."""
    groups = defaultdict(list)
    for text in sorted(texts):
        groups[text[:-1]].append(text[-1])
    classes = (
        "".join(map(_escaped, start)) + f"[{''.join(map(_escaped, ends))}]"
        for start, ends in groups.items()
    )
    return f"({'|'.join(classes)})"


def _escaped(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"


def _text(spelling: bytes) -> str | None:
    try:
        return spelling.decode("utf-8")
    except UnicodeDecodeError:
        return None
