"""Reading prompts into a cache: what every method of decoding begins with."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.core.types import Array, ModelOutput, PyTree
from jaxlm.decode import buckets
from jaxlm.decode.types import Request

_log = logging.getLogger(__name__)


class Contexts(NamedTuple):
    """What is read, filled up to the shapes that programs are compiled for.

    Rows beyond those asked for hold a single token 0, and what `inputs` has in its last row.
    """

    tokens_BT: np.ndarray  # int32
    lengths_B: np.ndarray  # int32, how many of them are real
    inputs: dict[str, np.ndarray]  # what else `init_cache` takes
    slots: int  # positions of the cache


def of_request(request: Request, extra: int = 0) -> Contexts:
    """The prompts, with slots for all that is to be written and for `extra` tokens that may be taken back."""
    contexts = [context(prompt, request.max_len) for prompt in request.prompts]
    longest = max(map(len, contexts)) + request.max_tokens + extra
    slots = buckets.slots(longest, request.max_len)
    return fill(contexts, inputs_of(request), slots, request.max_len)


def inputs_of(request: Request, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """What `init_cache` is given of these rows, None: of all; their seeds are for models that take them (`takes_seeds`)."""
    inputs = {**request.inputs, "seeds": seeds_of(request)}
    chosen = slice(None) if rows is None else rows
    return {name: np.asarray(values)[chosen] for name, values in inputs.items()}


def seeds_of(request: Request) -> np.ndarray:
    """Any whole number, as the 32 bits that a key is made from; uint32."""
    seeds = request.seeds or range(len(request.prompts))
    return np.array([seed % 2**32 for seed in seeds], np.uint32)


def context(tokens: Sequence[int], max_len: int) -> Sequence[int]:
    """What is read of a text: all of it, or its last `max_len` // 2 tokens where no room is left to write one more."""
    if len(tokens) < max_len:
        return tokens
    _warn_cut(max_len)
    return tokens[-kept(max_len) :]


def kept(max_len: int) -> int:
    """Tokens that are read again when a context is full."""
    return max(1, max_len // 2)


@functools.cache  # once
def _warn_cut(max_len: int) -> None:
    _log.warning(
        f"a prompt has no room to write in {max_len} positions: its last {kept(max_len)} tokens are read"
    )


def fill(
    contexts: Sequence[Sequence[int]], inputs: Mapping[str, Any], slots: int, max_len: int
) -> Contexts:
    """Contexts as arrays; `inputs` has one entry a context."""
    rows = buckets.rows(len(contexts))
    lengths_B = np.ones(rows, np.int32)
    lengths_B[: len(contexts)] = [len(tokens) for tokens in contexts]
    tokens_BT = np.zeros((rows, buckets.width(int(lengths_B.max()), max_len)), np.int32)
    for row, tokens in enumerate(contexts):
        tokens_BT[row, : len(tokens)] = tokens
    filled = {}
    for name, values in inputs.items():
        values = np.asarray(values)
        more = [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)]
        filled[name] = np.pad(values, more, mode="edge")
    return Contexts(tokens_BT, lengths_B, filled, slots)


def read(
    model: Any,
    slots: int,
    prefix: bool,
    params: PyTree,
    tokens_BT: Array,
    lengths_B: Array,
    inputs: Mapping[str, Array],
) -> tuple[ModelOutput, PyTree]:
    """A new cache that has read the contexts, and the model's output for all of their positions.

    To be called while a program is traced. (As a program's result the output would copy the head's weights.)
    """
    if not getattr(model, "takes_seeds", False):
        inputs = {name: values for name, values in inputs.items() if name != "seeds"}
    cache = model.init_cache(params, tokens_BT.shape[0], slots, **inputs)
    both_ways = {"prefix_lengths_B": lengths_B} if prefix else {}
    return model.extend(params, cache, tokens_BT, lengths_B, **both_ways)


def prefill(
    model: Any, params: PyTree, contexts: Contexts, prefix: bool = False
) -> tuple[Array, PyTree]:
    """The logits behind each context, float32 [B, V], and the cache; compiled once for each shape."""
    return _prefill(
        model,
        contexts.slots,
        prefix,
        params,
        contexts.tokens_BT,
        contexts.lengths_B,
        contexts.inputs,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _prefill(model, slots, prefix, params, tokens_BT, lengths_B, inputs):
    output, cache = read(model, slots, prefix, params, tokens_BT, lengths_B, inputs)
    return output.logits(lengths_B - 1), cache
