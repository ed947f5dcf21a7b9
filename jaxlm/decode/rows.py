"""The host's side of writing token by token: what each row has written, and why it ended."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from jaxlm.decode import prefill
from jaxlm.decode.types import Request, Written


class Rows:
    """Rows that write side by side; those beyond the request's own are filling and never go on.

    What a row does depends on nothing but its own prompt, seed and tokens.
    """

    def __init__(self, request: Request, contexts: prefill.Contexts):
        self.request, self.count = request, len(request.prompts)
        self.size = len(contexts.lengths_B)
        self.held_B = contexts.lengths_B.copy()  # positions in the cache
        self.tokens: list[list[int]] = [[] for _ in range(self.count)]
        self.logps: list[list[float]] = [[] for _ in range(self.count)]
        self.finish = [""] * self.count
        self.last_B = np.zeros(self.size, np.int32)  # the newest token, not in the cache yet
        for row in range(self.count):
            if request.allowed and request.allowed[row].finished:
                self.finish[row] = "end"

    def going(self) -> list[int]:
        """Rows that have not ended."""
        return [row for row in range(self.count) if not self.finish[row]]

    def done_B(self) -> np.ndarray:
        """Bool, filling included."""
        done = np.ones(self.size, bool)
        done[self.going()] = False
        return done

    def written_B(self) -> np.ndarray:
        """How many tokens each row has written."""
        return self._filled([len(tokens) for tokens in self.tokens], np.int32)

    def seeds_B(self) -> np.ndarray:
        """`prefill.seeds_of`, filled up."""
        return self._filled(prefill.seeds_of(self.request).tolist(), np.uint32)

    def _filled(self, values: list[int], dtype: type) -> np.ndarray:
        return np.array(values + [0] * (self.size - self.count), dtype)

    def room(self) -> int:
        """Steps until the first context is full: it holds `max_len` - 1 tokens at most, so that one more has a place."""
        held = max((int(self.held_B[row]) for row in self.going()), default=0)
        return self.request.max_len - 1 - held

    def full(self) -> list[int]:
        """Rows that have to read again before they can go on."""
        limit = self.request.max_len - 1
        return [row for row in self.going() if self.held_B[row] + 1 > limit]

    def tail(self, row: int) -> list[int]:
        """What a row reads again."""
        keep = prefill.kept(self.request.max_len)
        written = self.tokens[row][-keep:]
        before = keep - len(written)
        return [*(self.request.prompts[row][-before:] if before else []), *written]

    def allowed_BV(self, vocab_size: int) -> np.ndarray | None:
        """What the rows' constraints leave; tokens that they do not know are out."""
        if self.request.allowed is None:
            return None
        allowed = np.ones((self.size, vocab_size), bool)
        for row in self.going():
            mask = np.asarray(self.request.allowed[row].mask())[:vocab_size]
            if not mask.any():
                raise ValueError(f"prompts[{row}]: its constraint leaves no token to go on with")
            allowed[row] = np.pad(mask, (0, vocab_size - len(mask)))
        return allowed

    def take(self, row: int, tokens: Iterable[int], logps: Iterable[float]) -> None:
        """Tokens that the model wrote; those behind a row's end are left out."""
        for token, logp in zip(tokens, logps, strict=True):
            if self.finish[row]:
                return
            self._take_one(row, int(token), float(logp))

    def _take_one(self, row: int, token: int, logp: float) -> None:
        request, tokens = self.request, self.tokens[row]
        self.logps[row].append(logp)
        self.last_B[row] = token
        if token in request.end_ids:
            self.finish[row] = "end"
            return
        tokens.append(token)
        if request.allowed:
            request.allowed[row].accept(token)
        if request.watch is not None and request.watch(row, tokens):
            self.finish[row] = "stop"
        elif request.allowed and request.allowed[row].finished:
            self.finish[row] = "end"
        elif len(tokens) >= request.max_tokens:
            self.finish[row] = "length"
        if request.on_tokens is not None:
            request.on_tokens(row, [token])

    def written(self) -> list[Written]:
        """One continuation of each prompt."""
        scores = [math.fsum(logps) for logps in self.logps]
        return [Written(*one) for one in zip(self.tokens, self.finish, scores, strict=True)]
