"""Where a token stands: rotary angles and ALiBi slopes. Learned positions are a table in `embedding.py`."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array

POSITIONS = ("learned", "rotary", "alibi", "none")


def rotary_table(positions_BT: Array, head_dim: int, base: float) -> tuple[Array, Array]:
    """Cosines and sines of the rotary angles, float32 [B, T, K/2]; one call serves every layer.

    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, equation 15.
    """
    rates_K = base ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = positions_BT[..., None].astype(jnp.float32) * rates_K[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTHK: Array, table: tuple[Array, Array]) -> Array:
    """Turn each pair (x_i, x_{i + K/2}) by its position's angle: the half-split layout of GPT-NeoX and Llama.

    The paper pairs neighbours (x_2i, x_2i+1); the two differ by a fixed permutation of a head's columns.
    """
    cos, sin = (part[:, :, None, :].astype(x_BTHK.dtype) for part in table)
    left, right = jnp.split(x_BTHK, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """One slope a head, float32 [H]: 2^(-8 i / H) for powers of two, else interleaved as the authors' code does.

    Source: Press et al. 2022, Train Short, Test Long, arXiv:2108.12409, section 3.
    """

    def powers(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    floor = 2 ** math.floor(math.log2(num_heads))
    extra = powers(2 * floor)[0::2][: num_heads - floor]
    return np.asarray(powers(floor) + extra, np.float32)
