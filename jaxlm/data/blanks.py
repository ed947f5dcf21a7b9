"""GLM's blanks (Du et al. 2022, arXiv:2103.10360): where they are in a text, and what fills them.

Pure functions of ids and a key (shuffle.py), as corruption.py, whose lengths they take.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxlm.data import corruption, shuffle

_LENGTHS, _GAPS, _ORDER, _LONG, _CUT = range(31, 36)


class Blanks(NamedTuple):
    """A text with blanks, and what fills them, one blank behind the other."""

    source: np.ndarray  # int32 [S]: the text, [MASK] for each blank, <eos>
    tokens: np.ndarray  # int32 [T]: of each blank START_ID and its tokens
    targets: np.ndarray  # int32 [T]: its tokens and <eos>
    positions: np.ndarray  # int32 [T]: the place of its [MASK] in the source
    block_positions: np.ndarray  # int32 [T]: 1, 2, ... in each blank
    places: np.ndarray  # int64 [T]: where in the text a target stood; <eos>: the blank's last


def blank_mask(lengths: corruption.SpanLengths, key: np.ndarray) -> np.ndarray:
    """Which tokens are in blanks, bool [window]; no two blanks touch each other.

    Blanks have at least one token, and what they have beyond it is spread over them one by one: a length is 1 +
    Poisson(mean_span - 1), given that all of them together are `num_noise`. All ways to place them are equally likely.

    Source: Du et al., 2022, arXiv:2103.10360, section 2.1, which draws lengths from Poisson(3) until 15 % of
    the text is hidden; with their sum given, all examples have the same sizes.
    """
    count, kept = lengths.num_spans, lengths.window - lengths.num_noise
    more = corruption.random_numbers(key, _LENGTHS, lengths.num_noise - count)
    owners = shuffle.random_below(more, np.full(len(more), count))
    sizes = 1 + np.bincount(owners, minlength=count)
    gaps = corruption.segments(kept + 2, count + 1, corruption.random_numbers(key, _GAPS, kept + 2))
    gaps[[0, -1]] -= 1  # a text may begin and end with a blank
    spans = np.zeros(2 * count + 1, np.int64)
    spans[::2], spans[1::2] = gaps, sizes
    return np.repeat(np.arange(len(spans)) % 2 == 1, spans)


def blank_order(count: int, key: np.ndarray) -> np.ndarray:
    """A random order of so many blanks, int64 [count]."""
    return np.argsort(corruption.random_numbers(key, _ORDER, count), kind="stable")


def cut_blanks(
    ids_T: np.ndarray, hidden_T: np.ndarray, order: np.ndarray, *, mask_id: int, eos_id: int
) -> Blanks:
    """A text with each hidden span as a blank.

    Args:
      ids_T: int32 [T].
      hidden_T: bool [T].
      order: the numbers of the blanks in the order in which they are filled.
      mask_id: [MASK].
      eos_id: ends the source and every blank.

    Source: Du et al., 2022, arXiv:2103.10360, figure 2; block positions begin with the start symbol, as there.
    """
    first = hidden_T & ~np.concatenate([[False], hidden_T[:-1]])
    left = first[first | ~hidden_T]  # of the tokens that are left and the blanks: which are blanks
    source = np.where(first, mask_id, ids_T)[first | ~hidden_T]
    number = np.cumsum(first)[hidden_T] - 1
    sizes = np.bincount(number)[order] + 1
    ends = np.cumsum(sizes)
    starts = ends - sizes
    inside = np.ones(ends[-1], bool)
    inside[ends - 1] = False
    places = np.zeros(ends[-1], np.int64)
    places[inside] = np.flatnonzero(hidden_T)[np.argsort(np.argsort(order)[number], kind="stable")]
    places[ends - 1] = places[ends - 2]
    targets = np.where(inside, ids_T[places], eos_id).astype(np.int32)
    tokens = corruption.shifted_right(targets)
    tokens[starts] = corruption.START_ID
    return Blanks(
        np.append(source, eos_id).astype(np.int32),
        tokens,
        targets,
        np.repeat(np.flatnonzero(left)[order], sizes).astype(np.int32),
        (1 + np.arange(len(tokens)) - np.repeat(starts, sizes)).astype(np.int32),
        places,
    )


def is_long(share: float, key: np.ndarray) -> bool:
    """Whether an example is one of the `share` that get one long blank."""
    draw = shuffle.random_below(corruption.random_numbers(key, _LONG, 1), np.array([10**6]))
    return bool(draw[0] < share * 10**6)


def long_blank(window: int, longest: int, source_len: int, key: np.ndarray) -> tuple[int, int]:
    """Where a long blank begins and ends in a text of `window` tokens; what follows it is left out.

    Its length is uniform in the upper half of 1 to `longest`, its beginning uniform where it fits, behind 1 to `source_len`
    tokens.

    Source: Du et al., 2022, arXiv:2103.10360, section 2.2, document level: one blank of 50 to 100 % of the text. Here
    it is of as many places as short blanks take (`longest`), so that all examples have the same sizes.
    """
    draw = corruption.random_numbers(key, _CUT, 2)
    longest = min(longest, window - 1)
    least = -(-longest // 2)
    size = least + int(shuffle.random_below(draw[:1], np.array([longest - least + 1]))[0])
    latest = min(window - size, source_len)
    start = 1 + int(shuffle.random_below(draw[1:], np.array([latest]))[0])
    return start, start + size
