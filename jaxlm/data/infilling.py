"""What a model reads where a gap in a text is to be filled, by how it was trained.

Not for training examples (corruption.py, blanks.py), nor for filling one gap after the other (decode/infilling.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxlm.core.types import Tokenizer
from jaxlm.data import special_tokens
from jaxlm.data.prompts import Begun

_MARKS = (".", "a", "\n")  # what a text is encoded behind, one of them without growing together


@dataclasses.dataclass(frozen=True)
class FimGaps:
    """For fill-in-the-middle: what stands behind a gap, what stands before it, and then the gap (data/tasks/fim.py)."""

    tokenizer: Tokenizer
    max_len: int  # positions of text and filling together
    several = False  # gaps in a text

    def read(self, parts: Sequence[str], max_tokens: int) -> Begun | list[int]:
        """Token ids. Of a longer text than fits, what is next to the gap is read, on both sides alike.

        Args:
          parts: the text before a gap and the text behind it.
          max_tokens: how long the filling may be.

        Raises:
          ValueError: so long that no text fits beside it.
        """
        longest = self.max_len - 1 - len(special_tokens.FIM)
        _check(max_tokens, longest - 1)
        pre, suf, mid = (special_tokens.token_id(self.tokenizer, n) for n in special_tokens.FIM)
        before, after = encoded_around(self.tokenizer, parts)
        before, after = nearest(before, after, longest - max_tokens)
        return _begun(parts[0], [pre, suf, *after, mid, *before])


@dataclasses.dataclass(frozen=True)
class MaskGaps:
    """For GLM: a source in which [MASK] stands for each gap; the first one is filled (data/tasks/blanks.py)."""

    tokenizer: Tokenizer
    max_len: int  # positions of the text, and of the filling
    mask_id: int
    several = True

    def read(self, parts: Sequence[str], max_tokens: int) -> Begun | list[int]:
        """As FimGaps.read; parts behind the first two stand behind further gaps."""
        _check(max_tokens, self.max_len)
        before, *others = encoded_around(self.tokenizer, parts)
        after = [i for part in others for i in (self.mask_id, *part)][1:]
        before, after = nearest(before, after, self.max_len - 2)
        return _begun(parts[0], [*before, self.mask_id, *after, self.tokenizer.eos_id])


def gaps_of(model: Any, tokenizer: Tokenizer, max_len: int) -> FimGaps | MaskGaps:
    """How this model is asked to fill a gap.

    Args:
      max_len: positions that were trained.

    Raises:
      ValueError: it was not trained to.
    """
    mask_id = getattr(model.config, "mask_id", -1)
    if mask_id >= 0:
        return MaskGaps(tokenizer, max_len, mask_id)
    named = tokenizer.special_ids()
    if (
        hasattr(model, "extend")
        and model.direction == "causal"
        and named.keys() >= set(special_tokens.FIM)
    ):
        return FimGaps(tokenizer, max_len)
    raise ValueError(
        f"this {type(model).__name__} was not trained to fill gaps in a text: a GPT on "
        'data.kind="fim_text" fills one, model.kind="glm" on data.kind="blank_text" any number'
    )


def _check(max_tokens: int, most: int) -> None:
    if not 1 <= max_tokens <= most:
        raise ValueError(
            f"max_tokens={max_tokens} must be in 1..{most}: a filling and the text around it share the "
            "positions that the model has"
        )


def encoded_around(tokenizer: Tokenizer, parts: Sequence[str]) -> list[list[int]]:
    """The ids of each part of a text, all but the first as they are behind other text.

    A vocabulary that marks where words begin would take a part's beginning for a word's.
    """
    first, *others = parts
    return [tokenizer.encode(first).tolist(), *[_behind(tokenizer, part) for part in others]]


def _behind(tokenizer: Tokenizer, text: str) -> list[int]:
    for mark in _MARKS:
        head = tokenizer.encode(mark).tolist()
        both = tokenizer.encode(mark + text).tolist()
        if both[: len(head)] == head:
            return both[len(head) :]
    return tokenizer.encode(text).tolist()


def nearest(before: list[int], after: list[int], room: int) -> tuple[list[int], list[int]]:
    """The end of one and the beginning of the other, `room` ids at most; half each where both are long."""
    num_after = min(len(after), max(room // 2, room - len(before)))
    num_before = min(len(before), room - num_after)
    return before[len(before) - num_before :], after[:num_after]


def _begun(before: str, ids: list[int]) -> Begun | list[int]:
    return Begun(ids) if before else ids
