"""Rows of a prompt and its answer, as data have them for training, taken apart again so that a model answers itself, and back.

The prompt is what stands before a row's first weighed target, the answer its weighed targets, of which the last ends it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxlm.decode.types import Request, Written


def prompts(tokens_BT: np.ndarray, weights_BT: np.ndarray) -> list[list[int]]:
    """The ids of each row's prompt, at least one."""
    ends_B = (weights_BT > 0).argmax(axis=1) + 1
    return [row[:end].tolist() for row, end in zip(tokens_BT, ends_B, strict=True)]


def end_of(targets_BT: np.ndarray, weights_BT: np.ndarray) -> int:
    """The token that ends an answer: every row's last weighed target.

    Raises:
      ValueError: rows end with different ones, so none of them says that an answer is done.
    """
    lasts_B = weights_BT.shape[1] - 1 - (weights_BT > 0)[:, ::-1].argmax(axis=1)
    found = np.unique(np.take_along_axis(targets_BT, lasts_B[:, None], axis=1))
    if len(found) > 1:
        raise ValueError(
            f"data.kind gives answers that end with different tokens ({', '.join(map(str, found[:4]))}, ...): a model that "
            "writes them itself needs one that says when it is done"
        )
    return int(found[0])


def answers(targets_BT: np.ndarray, weights_BT: np.ndarray) -> list[list[int]]:
    """The ids of each row's answer, without what ends it."""
    rows = zip(targets_BT, weights_BT > 0, strict=True)
    return [row[chosen][:-1].tolist() for row, chosen in rows]


def completed(
    prompts: Sequence[Sequence[int]], written: Sequence[Written], end_id: int, length: int
) -> dict[str, np.ndarray]:
    """What was written behind prompts, as rows of the data's form; tokens have the last one too, for a reward model.

    Returns:
      tokens, targets int32 [B, T]; weights float32 [B, T], 1 at the completions' targets.
    """
    shape = len(prompts), length
    tokens, targets = (np.zeros(shape, np.int32) for _ in range(2))
    weights = np.zeros(shape, np.float32)
    for row, (prompt, one) in enumerate(zip(prompts, written, strict=True)):
        ids = [*prompt, *one.tokens, *([end_id] if one.finish == "end" else ())]
        tokens[row, : len(ids)], targets[row, : len(ids) - 1] = ids, ids[1:]
        weights[row, len(prompt) - 1 : len(ids) - 1] = 1.0
    return {"tokens": tokens, "targets": targets, "weights": weights}


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
