"""Write on token by token: greedily, or drawn from a model's distribution after penalties and cuts.

A prompt is read by one compiled program, up to CHUNK tokens are written by another one, which updates the cache in place; between
them the host looks at what was written. Not for search (beam.py) or texts (texts.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, PyTree
from jaxlm.decode import buckets, prefill, processors, timing
from jaxlm.decode.cache import put_rows
from jaxlm.decode.host import fetch
from jaxlm.decode.processors import History
from jaxlm.decode.rows import Rows
from jaxlm.decode.types import Request, Written

CHUNK = 16
"""Tokens a row between two looks of the host."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of drawing token by token, applied in this order: penalties, temperature, top_k, top_p, min_p.

    Attributes:
      temperature: 0 takes the likeliest token, the first of equals.
      top_k: keep so many tokens; 0: all.
      top_p: keep the fewest tokens that have this probability together; 1: all.
      min_p: keep tokens at least this share as probable as the likeliest; 0: all.
      repetition_penalty: divides logits of tokens of prompt or text; 1: none.
      presence_penalty: taken off the logits of tokens that were written.
      frequency_penalty: likewise, for each time.

    Raises:
      ValueError: a number out of range.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(Sampling):
            value, whole = getattr(self, field.name), field.name == "top_k"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ValueError(f"{field.name}={value!r} must be a {'whole ' * whole}number")
            if not math.isfinite(value):
                raise ValueError(f"{field.name}={value} must be finite")
        for name, wrong, accepted in (
            ("temperature", self.temperature < 0, "0 (greedy) or more"),
            ("top_k", self.top_k < 0, "0 (off) or more"),
            ("top_p", not 0 < self.top_p <= 1, "above 0, at most 1 (off)"),
            ("min_p", not 0 <= self.min_p <= 1, "from 0 (off) to 1"),
            ("repetition_penalty", self.repetition_penalty <= 0, "above 0; 1 is off"),
        ):
            if wrong:
                raise ValueError(f"{name}={getattr(self, name)} must be {accepted}")

    def values(self) -> dict[str, np.ndarray]:
        """A number for each setting that is on: what `processors.process` takes. Greedy without "temperature"."""
        defaults = {field.name: field.default for field in dataclasses.fields(Sampling)}
        off = defaults | {"temperature": 0.0}
        on = {
            name: getattr(self, name)
            for name in processors.ORDER
            if getattr(self, name) != off[name]
        }
        return {
            name: np.asarray(value, np.int32 if name == "top_k" else np.float32)
            for name, value in on.items()
        }

    def write(self, model: Any, params: PyTree, request: Request) -> list[list[Written]]:
        """One continuation of each prompt.

        A context that is full (`max_len` - 1 tokens) has its last `max_len` // 2 read again.
        """
        return [[one] for one in _Loop(self, model, params, request).run()]


@flax.struct.dataclass
class _Draw:
    """What the choice of a row's next token depends on besides its logits."""

    seeds_B: Array
    written_B: Array  # tokens so far
    history: History
    allowed_BV: Array | None

    def rows(self, rows: np.ndarray) -> _Draw:
        """Of some rows; of any number, where one is beyond the last."""
        return jax.tree.map(lambda leaf: leaf[np.minimum(rows, len(leaf) - 1)], self)


class _Loop:
    """The host's loop between compiled programs."""

    def __init__(self, settings: Sampling, model: Any, params: PyTree, request: Request):
        self.model, self.params, self.request = model, params, request
        self.values = settings.values()
        self.contexts = prefill.of_request(request)
        self.rows = Rows(request, self.contexts)
        self.seeds_B = self.rows.seeds_B()

    def run(self) -> list[Written]:
        logits_BV, cache = prefill.prefill(
            self.model, self.params, self.contexts, self.request.prefix
        )
        self.vocab_size = logits_BV.shape[1]
        going = self.rows.going()
        self._take(going, *_pick(logits_BV, self.values, self._draw()))
        timing.first_token()
        while self.rows.going():
            cache = (
                self._read_again(cache, full) if (full := self.rows.full()) else self._steps(cache)
            )
        return self.rows.written()

    def _draw(self) -> _Draw:
        rows = self.rows
        return _Draw(
            self.seeds_B, rows.written_B(), self._history(), rows.allowed_BV(self.vocab_size)
        )

    def _history(self) -> History:
        rows, shape = self.rows, (self.rows.size, self.vocab_size)
        seen = counts = None
        if "repetition_penalty" in self.values:
            seen = np.zeros(shape, bool)
            for row, prompt in enumerate(self.request.prompts):
                seen[row, [*prompt, *rows.tokens[row]]] = True
        if not {"presence_penalty", "frequency_penalty"}.isdisjoint(self.values):
            counts = np.zeros(shape, np.int32)
            for row, tokens in enumerate(rows.tokens):
                np.add.at(counts[row], tokens, 1)
        return History(seen, counts)

    def _steps(self, cache: PyTree) -> PyTree:
        """Up to CHUNK more tokens of every row that is going on."""
        rows = self.rows
        tokens_BN, logps_BN, cache = _write_on(
            self.model,
            self.params,
            cache,
            rows.last_B,
            rows.done_B(),
            self._draw(),
            self.values,
            np.int32(min(self._chunk(), rows.room())),
            np.int32(self.request.max_tokens),
            _end_ids(self.request),
        )
        counts_B = self._take(rows.going(), tokens_BN, logps_BN)
        rows.held_B += counts_B
        return cache

    def _chunk(self) -> int:
        """Where somebody may end a row, no more than it has written: at most half of the work is for nothing."""
        request = self.request
        if request.on_tokens is not None or request.allowed is not None:
            return 1
        if request.watch is not None:
            return min(CHUNK, max(len(self.rows.tokens[row]) for row in self.rows.going()))
        return CHUNK

    def _read_again(self, cache: PyTree, full: list[int]) -> PyTree:
        """Full contexts begin anew with their second half, and write a token."""
        rows, request = self.rows, self.request
        tails, inputs = [rows.tail(row) for row in full], prefill.inputs_of(request, full)
        contexts = prefill.fill(tails, inputs, self.contexts.slots, request.max_len)
        logits_RV, fresh = prefill.prefill(self.model, self.params, contexts, request.prefix)
        rows_R = np.full(len(contexts.lengths_B), rows.size, np.int32)
        rows_R[: len(full)] = full
        cache = _put_rows(cache, rows_R, fresh)
        token_RN, logp_RN = _pick(logits_RV, self.values, self._draw().rows(rows_R))
        self._take(full, token_RN, logp_RN, places=range(len(full)))
        rows.held_B[full] = contexts.lengths_B[: len(full)]
        return cache

    def _take(self, going: list[int], tokens_BN: Array, logps_BN: Array, places=None) -> np.ndarray:
        """Hand on what was written (-1 behind a row's end); how many tokens of each place."""
        tokens_BN, logps_BN = fetch(tokens_BN), fetch(logps_BN)
        counts_B = (tokens_BN >= 0).sum(1).astype(np.int32)
        for row, place in zip(going, going if places is None else places, strict=True):
            count = counts_B[place]
            self.rows.take(row, tokens_BN[place, :count], logps_BN[place, :count])
        return counts_B


def _end_ids(request: Request) -> np.ndarray:
    """Filled up with -1, so that their number makes no other program."""
    ids = list(request.end_ids)
    return np.array(ids + [-1] * (buckets.up(len(ids), 8) - len(ids)), np.int32)


_put_rows = jax.jit(put_rows, donate_argnums=0)


@jax.jit
def _pick(logits_BV: Array, values: Mapping[str, Array], draw: _Draw) -> tuple[Array, Array]:
    """The next token of every row and its log-probability, [B, 1]."""
    token_B, logp_B = _choose(logits_BV, values, draw)
    return token_B[:, None], logp_B[:, None]


def _choose(logits_BV: Array, values: Mapping[str, Array], draw: _Draw) -> tuple[Array, Array]:
    """The next token, int32 [B], and its log-probability under the model's own distribution, float32 [B]."""
    scores_BV = logits_BV
    if draw.allowed_BV is not None:
        scores_BV = jnp.where(draw.allowed_BV, scores_BV, -jnp.inf)
    scores_BV = processors.process(scores_BV, values, draw.history)
    if "temperature" in values:
        scores_BV = scores_BV + jax.vmap(_noise, (0, 0, None))(
            draw.seeds_B, draw.written_B, logits_BV.shape[1]
        )
    token_B = likeliest(scores_BV)
    logps_BV = jax.nn.log_softmax(logits_BV)
    return token_B, jnp.take_along_axis(logps_BV, token_B[:, None], axis=1)[:, 0]


def _noise(seed: Array, index: Array, size: int) -> Array:
    """What makes the likeliest of a row's logits a draw from their softmax (the Gumbel-max trick)."""
    return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), index), (size,))


def likeliest(scores_BV: Array) -> Array:
    """The first of the highest, int32 [B]: as argmax, which takes a CPU far longer."""
    size = scores_BV.shape[1]
    highest_B1 = jnp.max(scores_BV, axis=1, keepdims=True)
    places_BV = jnp.where(scores_BV >= highest_B1, jnp.arange(size, dtype=jnp.int32)[None], size)
    return jnp.minimum(jnp.min(places_BV, axis=1), size - 1)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _write_on(
    model, params, cache, last_B, done_B, draw, values, num_steps, max_tokens, end_ids
) -> tuple[Array, Array, PyTree]:
    """`num_steps` more tokens, fewer where all rows end before.

    Returns:
      Tokens int32 [B, CHUNK], -1 where a row had ended; their log-probabilities, float32 [B, CHUNK]; the cache.
    """
    batch = last_B.shape[0]

    def going(carry) -> Array:
        step, _, _, done_B, *_ = carry
        return (step < num_steps) & ~jnp.all(done_B)

    def write(carry):
        step, cache, last_B, done_B, draw, tokens_BN, logps_BN = carry
        output, cache = model.extend(params, cache, last_B[:, None], (~done_B).astype(jnp.int32))
        token_B, logp_B = _choose(output.logits(jnp.zeros_like(last_B)), values, draw)
        tokens_BN = tokens_BN.at[:, step].set(jnp.where(done_B, -1, token_B))
        logps_BN = logps_BN.at[:, step].set(logp_B)
        draw = draw.replace(
            written_B=draw.written_B + 1, history=draw.history.add(token_B, ~done_B)
        )
        ended_B = jnp.any(token_B[:, None] == end_ids[None], axis=1)
        done_B = done_B | ended_B | (draw.written_B >= max_tokens)
        return step + 1, cache, token_B, done_B, draw, tokens_BN, logps_BN

    tokens_BN = jnp.full((batch, CHUNK), -1, jnp.int32)
    logps_BN = jnp.zeros((batch, CHUNK), jnp.float32)
    carry = (jnp.int32(0), cache, last_B, done_B, draw, tokens_BN, logps_BN)
    _, cache, _, _, _, tokens_BN, logps_BN = jax.lax.while_loop(going, write, carry)
    return tokens_BN, logps_BN, cache
