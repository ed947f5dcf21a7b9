"""What is hidden from a model of whole texts: BERT's masks, T5's spans, the cut of a prefix, a gap.

Pure functions of ids and a key (shuffle.py), vectorised inside an example. Which text they are
given, and when, is for the tasks. GLM's blanks are in blanks.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlm.data import shuffle

START_ID = 0
"""What a decoder's input begins with: T5's <pad>, whatever id 0 is in another vocabulary."""
_CHOOSE, _KIND, _RANDOM, _NOISE, _KEPT, _PREFIX = range(11, 17)
_CUTS, _ORDER, _LENGTH = 21, 22, 23


class Words(NamedTuple):
    """Where words begin: at an id that `starts` one, or behind an id that `breaks` one off."""

    starts_V: np.ndarray
    breaks_V: np.ndarray


class SpanLengths(NamedTuple):
    """Sizes of a span-corrupted example; sentinels and one end symbol each are counted."""

    window: int  # tokens of text
    source: int
    targets: int
    num_noise: int  # tokens hidden
    num_spans: int


def random_numbers(key: np.ndarray, purpose: int, count: int) -> np.ndarray:
    """Uint64 [count], a function of (key, purpose); key is uint64 [1]."""
    start = shuffle.mix64(key ^ np.uint64(purpose))
    return shuffle.mix64(start + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def word_table(pieces: Sequence[str]) -> Words:
    """Where words begin, from what every id reads as (`Tokenizer.pieces`).

    A word is a run of letters and digits, with the space before it; any other character is a word
    of its own. Bytes of a character that is spread over several ids count as letters.
    """

    def is_letter(character: str) -> bool:
        return character.isalnum() or character == "\ufffd"

    starts = [not piece or not is_letter(piece[0]) for piece in pieces]
    breaks = [not piece or not is_letter(piece[-1]) and piece != " " for piece in pieces]
    return Words(np.array(starts), np.array(breaks))


def word_numbers(ids_T: np.ndarray, words: Words) -> np.ndarray:
    """The number of the word that each token belongs to, from 0, int64 [T]."""
    begins = words.starts_V[ids_T]
    begins[1:] |= words.breaks_V[ids_T[:-1]]
    return np.cumsum(begins) - begins[0]


def mask_tokens(
    ids_T: np.ndarray,
    key: np.ndarray,
    *,
    mask_id: int,
    special_V: np.ndarray,
    allowed_T: np.ndarray | None = None,
    rate: float = 0.15,
    words: Words | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide some tokens: 80 % of them behind [MASK], 10 % behind a random token, 10 % left as is.

    Args:
      ids_T: int32 [T].
      key: uint64 [1].
      mask_id: [MASK].
      special_V: bool [V]; special tokens are never chosen, nor put in place of others.
      allowed_T: bool [T], places that may be chosen; None: all.
      rate: share of the tokens that are chosen: round(rate * candidates), at least one.
      words: choose whole words, in random order, passing over one that would exceed the share.

    Returns:
      The corrupted ids, int32 [T], and bool [T], true at the chosen places.

    Source: Devlin et al., BERT, 2019, arXiv:1810.04805, section 3.1 and its code's
    create_masked_lm_predictions; a random token is never a special one here.
    """
    size = len(ids_T)
    candidates = ~special_V[ids_T]
    if allowed_T is not None:
        candidates &= allowed_T
    places = np.flatnonzero(candidates)
    chosen = np.zeros(size, bool)
    if not len(places):
        return ids_T.copy(), chosen
    count = max(1, int(rate * len(places) + 0.5))
    if words is None:
        order = np.argsort(random_numbers(key, _CHOOSE, size)[places], kind="stable")
        chosen[places[order[:count]]] = True
    else:
        _choose_words(chosen, word_numbers(ids_T, words), places, count, key)
    kind = shuffle.random_below(random_numbers(key, _KIND, size), np.full(size, 10))
    ordinary = np.flatnonzero(~special_V).astype(ids_T.dtype)
    other = shuffle.random_below(random_numbers(key, _RANDOM, size), np.full(size, len(ordinary)))
    corrupted = ids_T.copy()
    corrupted[chosen & (kind < 8)] = mask_id
    randomly = chosen & (kind == 8)
    corrupted[randomly] = ordinary[other[randomly]]
    return corrupted, chosen


def _choose_words(
    chosen: np.ndarray, numbers: np.ndarray, places: np.ndarray, count: int, key: np.ndarray
) -> None:
    """Mark whole words, at most `count` tokens of them, but at least one word."""
    words, sizes = np.unique(numbers[places], return_counts=True)
    order = np.argsort(random_numbers(key, _CHOOSE, len(words)), kind="stable")
    taken: list[int] = []
    left = count
    for word in order.tolist():
        if sizes[word] <= left:
            taken.append(word)
            left -= sizes[word]
        if not left:
            break
    taken = taken or [int(np.argmin(sizes))]
    chosen[places[np.isin(numbers[places], words[taken])]] = True


def span_lengths(source_len: int, density: float = 0.15, mean_span: float = 3.0) -> SpanLengths:
    """The longest text whose corrupted form fits the source, and the lengths that come of it.

    Args:
      source_len: tokens of the source at most; they are reached unless density is extreme.
      density: share of the text that is hidden.
      mean_span: tokens of a hidden span, on average.

    Raises:
      ValueError: no text is short enough.

    Source: random_spans_helper of the t5 library (Raffel et al., 2020, arXiv:1910.10683, section
    3.1.4): 512 gives 568 tokens of text and 114 of targets. It only looks for longer texts than the
    source, so its lengths can exceed what was asked for; these don't.
    """
    fitting = None
    window = 2
    while True:
        num_noise = min(max(round(window * density), 1), window - 1)
        num_spans = min(max(round(num_noise / mean_span), 1), num_noise, window - num_noise)
        lengths = SpanLengths(
            window, window - num_noise + num_spans + 1, num_noise + num_spans + 1, num_noise,
            num_spans,
        )  # fmt: skip
        if lengths.source > source_len:
            break
        fitting = lengths
        window += 1
    if fitting is None:
        raise ValueError(f"data.seq_len={source_len} is too short for a corrupted span: at least 3")
    return fitting


def noise_mask(lengths: SpanLengths, key: np.ndarray) -> np.ndarray:
    """Which tokens are hidden, bool [window]: kept and hidden spans take turns, a kept one first.

    Source: random_spans_noise_mask of the t5 library: all ways to cut the hidden tokens, and the
    kept ones, into `num_spans` spans of at least one token are equally likely.
    """
    noise = segments(
        lengths.num_noise, lengths.num_spans, random_numbers(key, _NOISE, lengths.window)
    )
    kept = segments(
        lengths.window - lengths.num_noise, lengths.num_spans,
        random_numbers(key, _KEPT, lengths.window),
    )  # fmt: skip
    spans = np.stack([kept, noise], 1).reshape(-1)
    return np.repeat(np.arange(len(spans)) % 2 == 1, spans)


def segments(total: int, count: int, numbers: np.ndarray) -> np.ndarray:
    """`count` lengths of at least 1 that sum to `total`."""
    cuts = np.sort(np.argsort(numbers[: total - 1], kind="stable")[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt_spans(
    ids_T: np.ndarray, hidden_T: np.ndarray, sentinels: np.ndarray, eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Source and targets: each hidden span is a sentinel in one, and behind it in the other.

    Args:
      ids_T: int32 [T].
      hidden_T: bool [T].
      sentinels: the ids that stand for the first, second, ... hidden span.
      eos_id: ends both.

    Source: Raffel et al., 2020, arXiv:1910.10683, figure 2; as in the t5 library no last sentinel
    follows the targets, since the text ends with a hidden span.
    """
    first = hidden_T & ~np.concatenate([[False], hidden_T[:-1]])
    marks = np.zeros_like(ids_T)
    marks[first] = sentinels[: first.sum()]
    source = np.where(first, marks, ids_T)[first | ~hidden_T]
    pairs = np.stack([marks, ids_T], 1)
    targets = pairs[np.stack([first, hidden_T], 1)]
    return np.append(source, eos_id).astype(np.int32), np.append(targets, eos_id).astype(np.int32)


def prefix_length(size: int, key: np.ndarray) -> int:
    """How many of `size` tokens are the prefix: uniform in 1 to size, so that a target is left."""
    return 1 + int(shuffle.random_below(random_numbers(key, _PREFIX, 1), np.array([size]))[0])


def fim_order(key: np.ndarray, fim_rate: float, spm_rate: float) -> str:
    """How a text is told: "plain", or for a share of `fim_rate` "spm" (a share of them) or "psm"."""
    fim, spm = (random_numbers(key, _ORDER, 2) / 2.0**64).tolist()
    if fim >= fim_rate:
        return "plain"
    return "spm" if spm < spm_rate else "psm"


def fim_length(longest: int, key: np.ndarray) -> int:
    """How many of a window's tokens are rearranged: uniform in 1 to `longest`."""
    number = random_numbers(key, _LENGTH, 1)
    return 1 + int(shuffle.random_below(number, np.array([longest]))[0])


def fill_in_the_middle(
    ids_T: np.ndarray, key: np.ndarray, order: str, sentinels: Sequence[int], eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """A text cut in three, its middle moved to the end, where a left-to-right model knows all else.

    Both cuts are uniform over the places before, between and behind the tokens: parts may be empty.

    Args:
      ids_T: int32 [T].
      key: uint64 [1].
      order: "psm": PRE prefix SUF suffix MID middle eos; "spm": PRE SUF suffix MID prefix middle eos.
      sentinels: the ids PRE, SUF and MID.
      eos_id: ends the middle.

    Returns:
      int32 [T + 4], and bool [T + 4], true for the middle and the eos that ends it.

    Source: Bavarian et al., Efficient Training of Language Models to Fill in the Middle, 2022,
    arXiv:2207.14255, sections 3 and 3.1; "spm" is variant 2 of appendix D, which they train with.
    Cuts are between tokens here, theirs between characters.
    """
    size = len(ids_T)
    places = shuffle.random_below(random_numbers(key, _CUTS, 2), np.full(2, size + 1))
    first, second = sorted(places.tolist())
    prefix, middle, suffix = ids_T[:first], ids_T[first:second], ids_T[second:]
    pre, suf, mid = sentinels
    parts = {
        "psm": ([pre], prefix, [suf], suffix, [mid]),
        "spm": ([pre, suf], suffix, [mid], prefix),
    }[order]
    moved = np.concatenate([*parts, middle, [eos_id]]).astype(np.int32)
    return moved, np.arange(size + 4) >= size + 3 - len(middle)


def shifted_right(targets_T: np.ndarray) -> np.ndarray:
    """A decoder's input: the targets behind START_ID, without the last."""
    return np.concatenate([[START_ID], targets_T[:-1]]).astype(np.int32)
