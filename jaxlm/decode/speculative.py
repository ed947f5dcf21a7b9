"""Exact speculative decoding: a small model drafts tokens, the large one reads them all at once.

Source: Leviathan et al. 2023, arXiv:2211.17192, algorithm 1; Chen et al. 2023, arXiv:2302.01318, algorithm 2. The
tokens are distributed exactly as those that the large model draws alone; greedily they are the same. Other settings
than temperature 0 draw other tokens than sampling with the same seeds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxlm.core.types import Array, PyTree
from jaxlm.decode import prefill, speculative_round, timing
from jaxlm.decode.cache import put_rows
from jaxlm.decode.checks import refuse_constraints
from jaxlm.decode.processors import History
from jaxlm.decode.rows import Rows
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.speculative_round import Pair, Where
from jaxlm.decode.types import Request, Written

MAX_DRAFT = 16
"""A cache must be able to forget so many tokens: rings under a window have slots for 32 more than they need."""


@dataclasses.dataclass(frozen=True)
class Speculative(Sampling):
    """The settings of sampling, which both models draw by, and how many tokens are drafted.

    Attributes:
      num_draft: tokens that the draft model writes for each reading of the large one; close to the end of the
        context fewer.

    Raises:
      ValueError: a number out of range.
    """

    num_draft: int = 4

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.num_draft <= MAX_DRAFT:
            raise ValueError(f"num_draft={self.num_draft} must be from 1 to {MAX_DRAFT}")

    def write(
        self,
        model: Any,
        params: PyTree,
        request: Request,
        *,
        draft: tuple[Any, PyTree],
    ) -> list[list[Written]]:
        """One continuation of each prompt; contexts that are full are read again as sampling does.

        Args:
          model: whose distribution is drawn from.
          params: its parameters.
          request: its `max_len` is what both models can hold.
          draft: a model of the same vocabulary and its parameters.

        Raises:
          ValueError: a model that cannot rewind its cache, another vocabulary, or constraints.
        """
        refuse_constraints(request, "speculative decoding")
        pair = Pair(model, draft[0])
        for name, one in pair._asdict().items():
            if not hasattr(one, "rewind"):
                raise ValueError(
                    f"speculative decoding forgets drafted tokens, and the {name}, a {type(one).__name__}, "
                    "cannot rewind its cache: write without a draft"
                )
        loop = _Loop(self, pair, Pair(params, draft[1]), request)
        return [[one] for one in loop.run()]


class _Loop:
    """The host's loop between compiled programs."""

    def __init__(self, settings: Speculative, models: Pair, params: Pair, request: Request):
        self.num_draft, self.values = settings.num_draft, settings.values()
        self.models, self.params, self.request = models, params, request
        self.contexts = prefill.of_request(request, extra=settings.num_draft)
        self.rows = Rows(request, self.contexts)

    def run(self) -> list[Written]:
        rows = self.rows
        logits_BV, caches = self._prefill(self.contexts)
        self.history = _history(rows, logits_BV.shape[1], self.values)
        self._first(rows.going(), np.arange(rows.size, dtype=np.int32), logits_BV)
        timing.first_token()
        while rows.going():
            if full := rows.full():
                caches = self._read_again(caches, full)
            else:
                caches = self._round(caches)
        return rows.written()

    def _prefill(self, contexts: prefill.Contexts) -> tuple[Array, Pair]:
        """The model's logits behind each context, and both caches."""
        read = [
            prefill.prefill(model, params, contexts, self.request.prefix)
            for model, params in zip(self.models, self.params, strict=True)
        ]
        (logits_BV, cache), (others_BV, draft_cache) = read
        if logits_BV.shape != others_BV.shape:
            raise ValueError(
                f"draft: its vocabulary has {others_BV.shape[1]} tokens, the model's {logits_BV.shape[1]}; they "
                "must be the same"
            )
        return logits_BV, Pair(cache, draft_cache)

    def _first(self, going: list[int], rows_R: np.ndarray, logits_RV: Array) -> None:
        """A token behind contexts that were just read: those of rows `rows_R`, of which the first are going on."""
        rows = self.rows
        where = self._where(np.zeros(rows.size, np.int32))
        token_R, logp_R, self.history = speculative_round.first(
            logits_RV, rows_R, where, self.history, self.values
        )
        for row, token, logp in zip(going, np.asarray(token_R), np.asarray(logp_R), strict=False):
            rows.take(row, [token], [logp])

    def _where(self, drafts_B: np.ndarray) -> Where:
        rows = self.rows
        return Where(rows.held_B, drafts_B, ~rows.done_B(), rows.seeds_B(), rows.written_B())

    def _round(self, caches: Pair) -> Pair:
        """Draft, read, keep."""
        rows = self.rows
        left_B = self.request.max_len - 2 - rows.held_B  # as if each token were written by itself
        going_B = ~rows.done_B()
        drafts_B = np.where(going_B, np.clip(left_B, 0, self.num_draft), 0).astype(np.int32)
        last_BT = np.zeros((rows.size, 2), np.int32)
        for row in rows.going():
            last_BT[row] = [self.request.prompts[row][-1], *rows.tokens[row][-2:]][-2:]
        where = self._where(drafts_B)
        tokens_BT, logps_BT, counts_B, caches, self.history = speculative_round.run(
            self.models,
            self.num_draft,
            self.params,
            caches,
            last_BT,
            where,
            self.history,
            self.values,
        )
        tokens_BT, logps_BT, counts_B = map(np.asarray, (tokens_BT, logps_BT, counts_B))
        for row in rows.going():
            count = counts_B[row]
            rows.take(row, tokens_BT[row, :count], logps_BT[row, :count])
        rows.held_B += counts_B
        accepted = int((counts_B - going_B).sum())
        timing.drafted(int(going_B.sum()), int(drafts_B.sum()), accepted)
        return caches

    def _read_again(self, caches: Pair, full: list[int]) -> Pair:
        """Full contexts begin anew with their second half, and write a token."""
        rows, request = self.rows, self.request
        inputs = prefill.inputs_of(request, full)
        tails = [rows.tail(row) for row in full]
        contexts = prefill.fill(tails, inputs, self.contexts.slots, request.max_len)
        logits_RV, fresh = self._prefill(contexts)
        rows_R = np.full(len(contexts.lengths_B), rows.size, np.int32)
        rows_R[: len(full)] = full
        caches = _put_rows(caches, rows_R, fresh)
        self._first(full, rows_R, logits_RV)
        rows.held_B[full] = contexts.lengths_B[: len(full)]
        return caches


def _history(rows: Rows, vocab_size: int, values: dict[str, Array]) -> History:
    """What the penalties that are on have to know of the prompts."""
    seen = counts = None
    if "repetition_penalty" in values:
        seen = np.zeros((rows.size, vocab_size), bool)
        for row, prompt in enumerate(rows.request.prompts):
            seen[row, list(prompt)] = True
    if not {"presence_penalty", "frequency_penalty"}.isdisjoint(values):
        counts = np.zeros((rows.size, vocab_size), np.int32)
    return History(seen, counts)


_put_rows = jax.jit(put_rows, donate_argnums=0)
