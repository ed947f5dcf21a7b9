"""Products of rows that are sorted by group with a matrix for each group: x_RD w_EDF -> y_RF; backends and their gate.

"ragged" is XLA's own `ragged_dot`. Where XLA has no kernel for it, on a CPU for one, it multiplies every row with every
group's matrix; "blocked" loops over blocks of one group's rows instead, and does as much work as there are rows.
Not for what a group is (layers/moe.py).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array

BACKENDS = ("auto", "ragged", "blocked")
MIN_BLOCK, MAX_BLOCK = 8, 256  # rows


def choose(requested: str) -> tuple[str, str]:
    """The backend that will run on this device, and why. Both can do everything, so a requested one runs."""
    if requested != "auto":
        return requested, "requested"
    platform = jax.default_backend()
    if platform == "cpu":
        return "blocked", "auto: on a CPU ragged does every expert's work for every token"
    return "ragged", f"auto: XLA's own on {platform}"


def matmul(x_RD: Array, w_EDF: Array, sizes_E: Array, backend: str) -> Array:
    """Rows times their group's matrix.

    Args:
      x_RD: rows, those of group 0 first, then those of group 1, ...
      w_EDF: a matrix for each group, of the same dtype.
      sizes_E: int32, rows of each group. Rows behind the last group's have no meaning, here and in the result, and
        no gradient.
      backend: one of BACKENDS.

    Returns:
      [R, F], in the dtype of the rows.
    """
    if choose(backend)[0] == "ragged":
        return jax.lax.ragged_dot(x_RD, w_EDF, sizes_E)
    return _blocked(x_RD, w_EDF, sizes_E)


@jax.custom_vjp
def _blocked(x_RD: Array, w_EDF: Array, sizes_E: Array) -> Array:
    return _rows_times_groups(x_RD, w_EDF, sizes_E, "MD,DF->MF")


def _blocked_forward(x_RD: Array, w_EDF: Array, sizes_E: Array):
    return _blocked(x_RD, w_EDF, sizes_E), (x_RD, w_EDF, sizes_E)


def _blocked_backward(kept, dy_RF: Array):
    x_RD, w_EDF, sizes_E = kept
    dx_RD = _rows_times_groups(dy_RF, w_EDF, sizes_E, "MF,DF->MD")
    return dx_RD, _rows_times_rows(x_RD, dy_RF, sizes_E).astype(w_EDF.dtype), None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _rows_times_groups(x_RI: Array, w_EDF: Array, sizes_E: Array, equation: str) -> Array:
    """Every row with its group's matrix."""
    width = w_EDF.shape[1 if equation.endswith("D") else 2]

    def group(e: Array, blocks: Callable, y_RO: Array) -> Array:
        w_DF = jax.lax.dynamic_index_in_dim(w_EDF, e, keepdims=False)

        def block(start: Array, mine_M: Array, y_RO: Array) -> Array:
            new = jnp.einsum(equation, _cut(x_RI, start, mine_M), w_DF)
            both = jnp.where(mine_M[:, None], new, _cut(y_RO, start, mine_M))
            return jax.lax.dynamic_update_slice_in_dim(y_RO, both, start, axis=0)

        return blocks(block, y_RO)

    y_RO = jnp.zeros((x_RI.shape[0], width), x_RI.dtype)
    return _over_groups(group, y_RO, x_RI.shape[0], sizes_E)


def _rows_times_rows(x_RD: Array, dy_RF: Array, sizes_E: Array) -> Array:
    """The sum of x_D dy_F over the rows of each group, float32 [E, D, F]."""
    shape = (x_RD.shape[1], dy_RF.shape[1])

    def group(e: Array, blocks: Callable, dw_EDF: Array) -> Array:
        def block(start: Array, mine_M: Array, dw_DF: Array) -> Array:
            x_MD = jnp.where(mine_M[:, None], _cut(x_RD, start, mine_M), 0)
            dy_MF = _cut(dy_RF, start, mine_M)
            return dw_DF + jnp.einsum("MD,MF->DF", x_MD, dy_MF, preferred_element_type=jnp.float32)

        dw_DF = blocks(block, jnp.zeros(shape, jnp.float32))
        return jax.lax.dynamic_update_index_in_dim(dw_EDF, dw_DF, e, axis=0)

    dw_EDF = jnp.zeros((len(sizes_E), *shape), jnp.float32)
    return _over_groups(group, dw_EDF, x_RD.shape[0], sizes_E)


def _cut(x: Array, start: Array, mine_M: Array) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, len(mine_M), axis=0)


def _over_groups(group: Callable, carry: Array, num_rows: int, sizes_E: Array) -> Array:
    """`carry = group(e, blocks, carry)` for each group, where `blocks(body, inner)` is a loop over its blocks.

    `inner = body(start, mine_M, inner)`: a block is M rows from `start` on, of which `mine_M` are this group's and no
    other block's. As many blocks run as there are rows for.
    """
    size = block_rows(num_rows, len(sizes_E))
    ends_E = jnp.cumsum(sizes_E)

    def one(e: Array, carry: Array) -> Array:
        begin, end = ends_E[e] - sizes_E[e], ends_E[e]

        def blocks(body: Callable, inner: Array) -> Array:
            def one_block(index: Array, inner: Array) -> Array:
                first = begin + index * size
                start = jnp.minimum(first, num_rows - size)
                rows_M = start + jnp.arange(size, dtype=jnp.int32)
                return body(start, (rows_M >= first) & (rows_M < end), inner)

            return jax.lax.fori_loop(0, (end - begin + size - 1) // size, one_block, inner)

        return group(e, blocks, carry)

    return jax.lax.fori_loop(0, len(sizes_E), one, carry)


def block_rows(num_rows: int, num_groups: int) -> int:
    """Rows of a block: about four blocks in a group of the usual size, so that little of the last one is in vain."""
    fitting = max(num_rows // (4 * num_groups), MIN_BLOCK)
    return min(num_rows, MAX_BLOCK, 2 ** (fitting.bit_length() - 1))
