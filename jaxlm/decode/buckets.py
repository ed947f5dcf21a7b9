"""Shapes that programs are compiled for: lengths and rows rounded up to powers of two, so that there are few.

A process that writes with one model and one method compiles, for contexts of up to `max_len` (64 or more, rounded up to a
power of two as B is) and up to B rows, at most

    (1 + log2 B) * (1 + log2(max_len / 16)) * (1 + log2(max_len / 64))

programs that read a prompt, (1 + log2 B) * (1 + log2(max_len / 64)) that write on, and small ones for each number of rows.
Numbers of tokens, what the rows hold and the values of most settings are arguments of a program. Part of it are which
settings of sampling are on, num_beams, num_groups, num_draft, and top_k of contrastive search.
"""

from __future__ import annotations

MIN_WIDTH = 16
MIN_SLOTS = 64


def up(number: int, least: int = 1) -> int:
    """The power of two at or above it, at least `least`."""
    return max(least, 1 << (number - 1).bit_length())


def width(length: int, limit: int) -> int:
    """Columns for a context of so many tokens, where a model holds `limit` positions."""
    return min(up(length, MIN_WIDTH), limit)


def slots(length: int, limit: int) -> int:
    """Positions of a cache that is to hold so many tokens; never fewer than `width` says."""
    return min(up(length, MIN_SLOTS), limit)


def rows(number: int) -> int:
    """Rows of a batch; those beyond its own are filling."""
    return up(number)
