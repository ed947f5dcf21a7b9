"""Where a token stands: rotary angles and ALiBi slopes. Learned positions are a table in `embedding.py`."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array

POSITIONS = ("learned", "rotary", "alibi", "none")


def rotary_table(positions_BT: Array, head_dim: int, base: float) -> tuple[Array, Array]:
    """Cosines and sines of the rotary angles, float32 [B, 1, T, K]; one call serves every layer.

    The angles of the K/2 pairs stand twice, once for each half of a head.

    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, equation 15.
    """
    rates_K = np.tile(base ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim), 2)
    angles = positions_BT[:, None, :, None].astype(jnp.float32) * rates_K[None, None, None]
    return jnp.cos(angles), jnp.sin(angles)


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
