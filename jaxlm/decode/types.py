"""What every way of decoding is given and gives back: tokens only, no text and no tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxlm.core.types import PyTree


class Written(NamedTuple):
    """One continuation of one prompt."""

    tokens: list[int]  # without the prompt and without the token that ended it
    finish: str  # "end": an end token; "stop": the watcher said so; "length"
    score: float  # nats: the model's own log-probability of the tokens, end included; of a beam, its score


class Constraint(Protocol):
    """What one row may write."""

    finished: bool  # nothing may follow

    def mask(self) -> np.ndarray:
        """The tokens that may come next, bool [V]; end tokens where the text may end here."""

    def accept(self, token: int) -> None:
        """A token was written."""


@dataclasses.dataclass(frozen=True)
class Request:
    """Prompts and the bounds of what is written after them.

    Attributes:
      prompts: token ids, at least one each; of an encoder-decoder its start symbol.
      max_tokens: how many to write after each, at most.
      max_len: positions that the model can hold.
      end_ids: tokens that end a text.
      seeds: one a prompt; what a row draws is a function of its seed and of how much it has written.
      inputs: what else `init_cache` takes, an entry a row.
      prefix: prompts are read in both directions, as a prefix language model was trained to.
      allowed: one constraint a prompt, used up by the call; None: any token.
      watch: called with a row's number and its tokens so far; True ends the row.
      on_tokens: called with a row's number and its new tokens, as they come.

    Raises:
      ValueError: an empty prompt, or a number out of range.
    """

    prompts: Sequence[Sequence[int]]
    max_tokens: int
    max_len: int
    end_ids: tuple[int, ...] = ()
    seeds: Sequence[int] = ()
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefix: bool = False
    allowed: Sequence[Constraint] | None = None
    watch: Callable[[int, list[int]], bool] | None = None
    on_tokens: Callable[[int, list[int]], None] | None = None

    def __post_init__(self):
        if not self.prompts or any(len(prompt) == 0 for prompt in self.prompts):
            raise ValueError("prompts: each needs at least one token")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} must be at least 1")
        if self.max_len < 2:
            raise ValueError(f"max_len={self.max_len} must be at least 2")
        for name in ("seeds", "allowed"):
            values = getattr(self, name)
            if values and len(values) != len(self.prompts):
                raise ValueError(f"{name}: {len(values)} for {len(self.prompts)} prompts")


class Method(Protocol):
    """Settings of one way of decoding: a frozen dataclass that checks itself."""

    def write(self, model: Any, params: PyTree, request: Request) -> list[list[Written]]:
        """The continuations of each prompt, best first."""
