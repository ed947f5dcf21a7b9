"""Sums made up as they are asked for: arithmetic:add2, prompts with answers, in two parts that share no operand.

What is done with them is for the tasks; rows of files are in records.py.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxlm.data import shuffle

SCHEME = "arithmetic"
PARTS = ("train", "held_out")
OPERATIONS = {"add": ("+", operator.add), "sub": ("-", operator.sub), "mul": ("*", operator.mul)}
HELD_OUT = 0.2  # of the operands
_MOST = {"train": 10_000, "held_out": 1_000}  # sums
_NAME = re.compile(rf"({'|'.join(OPERATIONS)})([1-6])(?:@({'|'.join(PARTS)}))?")
_OPERANDS, _SUMS = 1, 2  # purposes of keys


class Rows:
    """The sums of one part as {"prompt": "47+38=", "answer": "85"}, each pair of operands at most once.

    Operands are the whole numbers of so many digits (of one, 0 to 9). A fifth of them is held out: sums of two of these are the
    held-out part, sums of two others are for training.
    """

    def __init__(self, where: str, operation: str, digits: int, part: str):
        self._where, self._name = where, [operation, digits, part]
        self._sign, self._function = OPERATIONS[operation]
        low = 10 ** (digits - 1) if digits > 1 else 0
        count = 10**digits - low
        key = shuffle.make_key(_OPERANDS, digits)
        numbers = low + shuffle.permute(np.arange(count), count, key)
        held = max(1, round(HELD_OUT * count))
        self._numbers = np.sort(numbers[:held] if part == "held_out" else numbers[held:])
        self._size = min(len(self._numbers) ** 2, _MOST[part])
        self._key = shuffle.make_key(_SUMS, digits, PARTS.index(part))

    def scan(self) -> tuple[list[Any], int]:
        """What determines the sums, as JSON values; their number."""
        return [SCHEME, 1, *self._name], self._size

    def __iter__(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Every sum, with what messages call it."""
        count = len(self._numbers)
        chosen = shuffle.permute(np.arange(self._size), count * count, self._key)
        for number, pair in enumerate(chosen.tolist(), 1):
            left, right = (int(self._numbers[place]) for place in divmod(pair, count))
            prompt = f"{left}{self._sign}{right}="
            answer = str(self._function(left, right))
            yield f"{self._where} sum {number}", {"prompt": prompt, "answer": answer}


def open_rows(option: str, path: str, part: str = "") -> Rows:
    """The sums that arithmetic:NAME[@PART] names: add2 are sums of two-digit numbers, sub and mul likewise.

    Args:
      option: the config's key, for messages.
      path: scheme and name.
      part: where the path names none; "": it must.

    Raises:
      ValueError: no such sums.
    """
    found = _NAME.fullmatch(path.removeprefix(f"{SCHEME}:"))
    if found is None:
        raise ValueError(
            f"{option}={path} is not known: expected {SCHEME}: and {', '.join(OPERATIONS)} with a number of digits from 1 to "
            f"6, as in {SCHEME}:add2, then @train or @held_out or neither"
        )
    operation, digits, named = found.groups()
    if not (named or part):
        raise ValueError(f"{option}={path} names no part: add it, as in {path}@held_out")
    return Rows(f"{option}={path}", operation, int(digits), named or part)
