"""Which characters of a text each of its tokens stands for: spans are marked in characters and learnt in tokens.

No token begins or ends inside what a person sees as one character: a letter with its combining marks, an emoji put
together from several. Source: Unicode Standard Annex 29, "Unicode Text Segmentation", of which Hangul syllables and Indic
conjuncts are left out.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

_JOINER = "\u200d"


def token_offsets(tokenizer: Any, text: str) -> np.ndarray:
    """The first character of each token of `tokenizer.encode(text)`, and the one behind its last, int32 [N, 2].

    Several tokens of one character have the same span; spaces around a token are no part of it.

    Raises:
      ValueError: a tokenizer that can't say it.
    """
    if not hasattr(tokenizer, "offsets"):
        raise ValueError(
            f"data.tokenizer={tokenizer.name} can't say which characters its tokens stand for"
        )
    spans = np.asarray(tokenizer.offsets(text), np.int32).reshape(-1, 2).copy()
    if not text.isascii():
        first, end = _clusters(text)
        spans = np.stack([first[spans[:, 0]], end[np.maximum(spans[:, 1] - 1, 0)]], 1)
    for span in spans:
        while span[0] < span[1] - 1 and text[span[0]].isspace():
            span[0] += 1
        while span[0] < span[1] - 1 and text[span[1] - 1].isspace():
            span[1] -= 1
    return spans


def located(context: str, answer: Any, start: Any, where: str) -> tuple[int, int]:
    """First character of an answer in its context, and the one behind its last.

    Args:
      context: what it stands in.
      answer: its text.
      start: its first character; None: of the first place where that text stands.
      where: what messages call the line.

    Raises:
      ValueError: it does not stand there.
    """
    if not isinstance(answer, str):
        raise ValueError(f"{where}: the answer {answer!r} is no text; set data.answers_column")
    if start is None:
        start = context.find(answer)
        if start < 0:
            raise ValueError(f"{where}: the answer {answer!r} does not stand in its context")
        return start, start + len(answer)
    try:
        start = int(start)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where}: the start {start!r} of an answer is no number; set data.starts_column"
        ) from error
    there = context[max(start, 0) : max(start, 0) + len(answer)]
    if start < 0 or there != answer:
        what = f"there stands {there!r}" if 0 <= start < len(context) else f"it has {len(context)}"
        raise ValueError(
            f"{where}: the answer {answer!r} does not begin at character {start} of its context: {what}"
        )
    return start, start + len(answer)


def token_span(offsets_N2: np.ndarray, answers_A2: np.ndarray, begin: int) -> np.ndarray:
    """Places of the first and last token of the first answer that a window holds whole; of none 0, [CLS].

    Args:
      offsets_N2: characters of the window's tokens.
      answers_A2: characters of the answers.
      begin: place of the window's first token in its row.

    Returns:
      int32 [2].
    """
    for start, end in answers_A2:
        if not len(offsets_N2) or start < offsets_N2[0, 0] or end > offsets_N2[-1, 1]:
            continue
        first = int(np.searchsorted(offsets_N2[:, 1], start, "right"))
        last = int(np.searchsorted(offsets_N2[:, 0], end, "left")) - 1
        if first <= last:  # a character that the tokenizer drops is no token
            return np.array([begin + first, begin + last], np.int32)
    return np.zeros(2, np.int32)


def _clusters(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Of every place of a text, where the character that a person sees there begins and ends, int32 [N + 1] each."""
    begins, flags = np.ones(len(text) + 1, bool), 0
    for place, one in enumerate(text):
        if place and _continues(text[place - 1], one, flags):
            begins[place] = False
        flags = flags + 1 if _is_flag(one) else 0
    places = np.arange(len(text) + 1)
    first = np.maximum.accumulate(np.where(begins, places, 0))
    following = np.where(begins, places, len(text))
    end = np.append(np.minimum.accumulate(following[::-1])[::-1][1:], len(text))
    return first.astype(np.int32), end.astype(np.int32)


def _continues(before: str, one: str, flags: int) -> bool:
    """Whether a character belongs to the one before it; `flags` halves of flags stand right before it."""
    if one == _JOINER or before == _JOINER or unicodedata.category(one)[0] == "M":
        return not before.isspace()
    if "\U0001f3fb" <= one <= "\U0001f3ff":  # a colour of skin
        return True
    return _is_flag(one) and flags % 2 == 1


def _is_flag(one: str) -> bool:
    return "\U0001f1e6" <= one <= "\U0001f1ff"
