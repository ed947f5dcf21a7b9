"""Where a token stands: sinusoids, rotary angles, ALiBi slopes, T5's buckets. Learned positions are a table in `embedding.py`."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array

POSITIONS = ("learned", "rotary", "alibi", "none")
ROPE_SCALINGS = ("none", "linear", "llama3", "yarn")


def sinusoids(positions_BT: Array, width: int) -> Array:
    """Vectors that are added to embeddings, float32 [B, T, width].

    Column 2i is the sine, column 2i + 1 the cosine of p / 10000^(2i / width), so that sines and cosines take turns.
    (tensor2tensor and fairseq put all sines first: the same columns in another order.)

    Source: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762, section 3.5.
    """
    rates_K = 10_000.0 ** (-np.arange(0, width, 2, dtype=np.float32) / width)
    angles = positions_BT[..., None].astype(jnp.float32) * rates_K[None, None]
    pairs = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return pairs.reshape(*positions_BT.shape, -1)[..., :width]


class RopeScaling(NamedTuple):
    """How rotary rates are changed so that a model reads beyond the length it was trained on.

    Source: linear: Chen et al. 2023, arXiv:2306.15595. yarn: Peng et al. 2023, arXiv:2309.00071, sections 3.2-3.4.
    llama3: Llama Team 2024, arXiv:2407.21783, section 3.4, as their code has it.
    """

    kind: str = "none"
    factor: float = 1.0
    low_freq: float = 1.0  # turns over original_len: a rate that makes fewer is divided by factor
    high_freq: float = 1.0  # a rate that makes more is kept; between the two it is blended
    original_len: int = 0
    attention_factor: float = 1.0  # cosines and sines are multiplied by it


NO_SCALING = RopeScaling()


def rotary_rates(head_dim: int, base: float, scaling: RopeScaling = NO_SCALING) -> np.ndarray:
    """Radians a position of each pair of columns, float32 [K/2]."""
    rates = base ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if scaling.kind == "none":
        return rates
    if scaling.kind == "linear":
        return rates / np.float32(scaling.factor)
    if scaling.kind == "llama3":  # blended by the number of turns
        turns = scaling.original_len * rates / (2 * np.pi)
        kept = (turns - scaling.low_freq) / (scaling.high_freq - scaling.low_freq)
    else:  # blended by the pair's index, between the whole indices around low_freq and high_freq turns

        def index(turns: float) -> float:
            ratio = scaling.original_len / (turns * 2 * math.pi)
            return head_dim * math.log(ratio) / (2 * math.log(base))

        first = max(math.floor(index(scaling.high_freq)), 0)
        last = min(math.ceil(index(scaling.low_freq)), head_dim - 1)
        last = last + 0.001 if last == first else last
        kept = 1 - (np.arange(head_dim // 2) - first) / (last - first)
    kept = np.clip(kept, 0.0, 1.0).astype(np.float32)
    return (rates * kept + rates / scaling.factor * (1 - kept)).astype(np.float32)


def rotary_table(
    positions_BT: Array, head_dim: int, base: float, scaling: RopeScaling = NO_SCALING
) -> tuple[Array, Array]:
    """Cosines and sines of the rotary angles, float32 [B, 1, T, K]; one call serves every layer.

    The angles of the K/2 pairs stand twice, once for each half of a head.

    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, equation 15.
    """
    rates_K = np.tile(rotary_rates(head_dim, base, scaling), 2)
    angles = positions_BT[:, None, :, None].astype(jnp.float32) * rates_K[None, None, None]
    if scaling.attention_factor == 1.0:
        return jnp.cos(angles), jnp.sin(angles)
    return jnp.cos(angles) * scaling.attention_factor, jnp.sin(angles) * scaling.attention_factor


def rotary_table_2d(
    positions_BT: Array, block_positions_BT: Array, head_dim: int, base: float
) -> tuple[Array, Array]:
    """Cosines and sines for tokens with two places each, float32 [B, 1, T, K].

    Half of the pairs turn with the first place, half with the second, each half at all rates, as in the code of
    ChatGLM-6B, which has one place's pairs side by side instead.
    """

    def angles(where_BT: Array) -> Array:
        rates = rotary_rates(head_dim // 2, base)
        return where_BT[:, None, :, None].astype(jnp.float32) * rates[None, None, None]

    pairs = jnp.concatenate([angles(positions_BT), angles(block_positions_BT)], axis=-1)
    twice = jnp.concatenate([pairs, pairs], axis=-1)
    return jnp.cos(twice), jnp.sin(twice)


def rotate(x_BHTK: Array, table: tuple[Array, Array]) -> Array:
    """Turn each pair (x_i, x_{i + K/2}) by its position's angle, as GPT-NeoX and Llama lay a head out.

    The paper pairs neighbours (x_2i, x_2i+1); the two differ by a fixed permutation of a head's columns.
    """
    cos, sin = (part.astype(x_BHTK.dtype) for part in table)
    return x_BHTK * cos + _quarter_turn(x_BHTK) * sin


def _quarter_turn(x: Array) -> Array:
    """(-right half, left half).

    On a CPU by a product with that signed permutation: the same values, sooner than slices put together.
    """
    half = x.shape[-1] // 2
    if jax.default_backend() == "cpu":
        turn = np.zeros((2 * half, 2 * half), np.float32)
        turn[np.arange(half) + half, np.arange(half)] = -1
        turn[np.arange(half), np.arange(half) + half] = 1
        return jnp.matmul(x, turn.astype(x.dtype))
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-right, left], axis=-1)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """One slope a head, float32 [H]: 2^(-8 i / H) for powers of two, else interleaved as the authors' code does.

    Source: Press et al. 2022, Train Short, Test Long, arXiv:2108.12409, section 3.
    """

    def powers(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    floor = 2 ** math.floor(math.log2(num_heads))
    extra = powers(2 * floor)[0::2][: num_heads - floor]
    return np.asarray(powers(floor) + extra, np.float32)


def relative_buckets(
    distance: Array, num_buckets: int, max_distance: int, bidirectional: bool
) -> Array:
    """The bucket of T5's position bias for keys `distance` after their query, int32 of the same shape.

    Half of the buckets are for single distances, the others grow with their logarithm up to `max_distance`.
    Bidirectional: the upper half of all buckets is for keys after the query; else those share bucket 0.

    Source: Raffel et al. 2020, T5, arXiv:1910.10683, section 2.1, as its code (and everybody's weights) has it.
    """
    count = num_buckets // 2 if bidirectional else num_buckets
    exact = count // 2
    far = np.arange(max_distance + 1)
    # In float32, as the authors have it.
    steps = np.log(np.maximum(far, 1).astype(np.float32) / exact) / math.log(max_distance / exact)
    large = np.minimum(exact + (steps * (count - exact)).astype(np.int32), count - 1)
    table = np.where(far < exact, far, large).astype(np.int32)
    back = jnp.abs(distance) if bidirectional else jnp.maximum(-distance, 0)
    buckets = jnp.asarray(table)[jnp.minimum(back, max_distance)]
    return buckets + count * (distance > 0).astype(jnp.int32) if bidirectional else buckets
