"""Shapes that programs are compiled for: lengths and rows rounded up to powers of two, so that there are few.

A process that writes with one model and one method compiles, for contexts of up to `max_len` and up to B rows, at most

    (1 + log2 B) * (1 + log2(max_len / 16)) * (1 + log2(max_len / 64))

programs that read a prompt and (1 + log2 B) * (1 + log2(max_len / 64)) that write on: values of settings, numbers of tokens and
what the rows hold are arguments of a program, not part of it.
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
