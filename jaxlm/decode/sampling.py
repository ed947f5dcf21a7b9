"""Continue token sequences by sampling, through any model's `init_cache` and `extend`.

Each row has its own random stream, drawn by (seed, row's id, position), so a continuation does not depend on the rows
beside it. When the context is full, its second half is read again and writing goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, PyTree

BUCKET = 64
"""Numbers of new tokens are rounded up to it, so that few programs are ever compiled."""


def sample(
    model: Any,
    params: PyTree,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    max_len: int,
    temperature: float = 1.0,
    seed: int = 0,
    eos_id: int | None = None,
    inputs: Mapping[str, Any] | None = None,
    prefix: bool = False,
) -> list[list[int]]:
    """The new tokens of each prompt.

    Args:
      model: has `init_cache` and `extend` (core contract 2).
      prompts: token ids, at least one each; of a longer one, the last `max_len` // 2 are read.
      max_tokens: how many to write, at most.
      max_len: positions that the model can hold.
      temperature: 0 takes the likeliest token.
      eos_id: a row stops before it.
      inputs: what else `init_cache` takes, an entry a row: the source of an encoder-decoder, whose prompts
        are start symbols.
      prefix: prompts are read in both directions, as a prefix language model was trained to.

    Raises:
      ValueError: an empty prompt, or a number out of range.
    """
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("prompts: each needs at least one token")
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens} must be at least 1")
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or more")
    texts = [list(prompt) for prompt in prompts]
    written = 0
    keep = max(1, max_len // 2)
    while written < max_tokens:
        contexts = [text[-keep:] for text in texts]
        left = max_tokens - written
        room = max(1, min(max_len - keep, -(-left // BUCKET) * BUCKET))
        new = _continue(
            model,
            max_len,
            room,
            prefix,
            params,
            _fill(contexts, keep),
            np.asarray([len(context) for context in contexts], np.int32),
            jax.random.key(seed),
            jnp.int32(written),
            jnp.float32(temperature),
            dict(inputs or {}),
        )
        for text, row in zip(texts, np.asarray(new), strict=True):
            text.extend(int(token) for token in row[:left])
        written += room
    return [
        _until(text[len(prompt) :], eos_id) for text, prompt in zip(texts, prompts, strict=True)
    ]


def _fill(contexts: list[list[int]], width: int) -> np.ndarray:
    tokens = np.zeros((len(contexts), width), np.int32)
    for row, context in enumerate(contexts):
        tokens[row, : len(context)] = context
    return tokens


def _until(tokens: list[int], eos_id: int | None) -> list[int]:
    return tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _continue(
    model, max_len, num_new, prefix, params, tokens_BT, lengths_B, key, written, temperature, inputs
) -> Array:
    """`num_new` tokens for each row, int32 [B, num_new]."""
    batch = tokens_BT.shape[0]
    cache = model.init_cache(params, batch, max_len, **inputs)
    both_ways = {"prefix_lengths_B": lengths_B} if prefix else {}
    output, cache = model.extend(params, cache, tokens_BT, lengths_B, **both_ways)
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))

    def pick(logits_BV: Array, index: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, written + index)
        drawn = jax.vmap(jax.random.categorical)(keys, logits_BV / jnp.maximum(temperature, 1e-6))
        return jnp.where(temperature > 0, drawn, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)

    def body(carry, index):
        cache, token_B = carry
        output, cache = model.extend(params, cache, token_B[:, None], jnp.ones_like(token_B))
        token_B = pick(output.logits(jnp.zeros_like(token_B)), index)
        return (cache, token_B), token_B

    first_B = pick(output.logits(lengths_B - 1), jnp.int32(0))
    _, rest_NB = jax.lax.scan(body, (cache, first_B), jnp.arange(1, num_new))
    return jnp.concatenate([first_B[:, None], rest_NB.T], axis=1)
