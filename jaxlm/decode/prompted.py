"""Rows of a prompt and its answer, as data have them for training, taken apart again so that a model answers itself.

The prompt is what stands before a row's first weighed target, the answer its weighed targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxlm.decode.types import Request


def prompts(tokens_BT: np.ndarray, weights_BT: np.ndarray) -> list[list[int]]:
    """The ids of each row's prompt, at least one."""
    ends_B = (weights_BT > 0).argmax(axis=1) + 1
    return [row[:end].tolist() for row, end in zip(tokens_BT, ends_B, strict=True)]


def answers(
    targets_BT: np.ndarray, weights_BT: np.ndarray, end_ids: Sequence[int]
) -> list[list[int]]:
    """The ids of each row's answer, without what ends it."""
    ends = np.isin(targets_BT, end_ids)
    rows = zip(targets_BT, (weights_BT > 0) & ~ends, strict=True)
    return [row[chosen].tolist() for row, chosen in rows]


def request(
    prompts: Sequence[Sequence[int]],
    length: int,
    *,
    end_ids: tuple[int, ...],
    seeds: Sequence[int],
    max_tokens: int = 0,
) -> Request:
    """What is asked of a way of decoding: each prompt's answer, at most as long as a row of `length` positions has room.

    Args:
      max_tokens: of an answer; 0: as the row has room.
    """
    rooms = [min(length - len(prompt), max_tokens or length) for prompt in prompts]
    longest = max(rooms)

    def full(row: int, tokens: list[int]) -> bool:
        return len(tokens) >= rooms[row]

    return Request(
        prompts=prompts,
        max_tokens=longest,
        max_len=length,
        end_ids=end_ids,
        seeds=seeds,
        watch=None if min(rooms) == longest else full,
    )
