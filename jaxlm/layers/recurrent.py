"""Recurrent cells that go through a row token by token: tanh (Elman 1990), GRU (Cho et al. 2014, arXiv:1406.1078) and LSTM
(Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

Gates, their order and the GRU's "reset after" form are those of torch.nn, so that weights map one to one; where torch has two
biases that are only ever added, here is their sum. Products with what is read are one product of all positions, outside of
the loop; the loop's backward pass is written by hand (`recur`): differentiating `lax.scan` would add up the weights'
gradient at every step, where here it is one product of all positions too. Not for recurrences that are linear in their
state: parallel_scan.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array
from jaxlm.layers.history import Marks
from jaxlm.layers.linear import as_row, named
from jaxlm.layers.lookups import Looked, looked_up

State = tuple[Array, ...]
"""float32 [B, D] each; the first one is what a cell puts out."""
Parts = tuple[Array, ...]
"""[B, D] each."""


class Cell(NamedTuple):
    """A recurrence whose only products are with what is read and with its own last output.

    P is the width of those products; Q that of what `join` makes of both, a part [B, D] for each letter of `parts`.
    """

    num_products: int  # P / D
    num_states: int
    parts: str  # how each is squashed: s sigmoid, t tanh, l not at all
    join: Callable[[Array, Array], Array]  # what is read [B, P], of the state [B, P] -> [B, Q]
    step: Callable[[Parts, State], State]  # from squashed parts
    split: Callable[[Array], tuple[Array, Array]]  # gradients [..., Q] -> those of both [..., P]


def _rnn(parts: Parts, state: State) -> State:
    return parts


def _lstm(parts: Parts, state: State) -> State:
    i, f, g, o = parts
    c = f * state[1] + i * g
    return o * jnp.tanh(c), c


def _gru(parts: Parts, state: State) -> State:
    r, z, read, told = parts
    n = jnp.tanh(read + r * told)
    return (n + z * (state[0] - n),)


def _gru_join(read: Array, told: Array) -> Array:
    cut = read.shape[-1] // 3 * 2
    both = read[..., :cut] + told[..., :cut]
    return jnp.concatenate([both, read[..., cut:], told[..., cut:]], axis=-1)


def _gru_split(grads: Array) -> tuple[Array, Array]:
    both, read, told = jnp.split(grads, [grads.shape[-1] // 2, grads.shape[-1] // 4 * 3], axis=-1)
    return jnp.concatenate([both, read], axis=-1), jnp.concatenate([both, told], axis=-1)


def _both(grads: Array) -> tuple[Array, Array]:
    return grads, grads


CELLS = {
    "rnn": Cell(1, 1, "t", jnp.add, _rnn, _both),
    "gru": Cell(3, 1, "ssll", _gru_join, _gru, _gru_split),
    "lstm": Cell(4, 2, "ssts", jnp.add, _lstm, _both),
}
"""The parts: of the GRU r, z, n of what is read, n of the state; of the LSTM i, f, g, o."""


def _squash(parts: str, gates: Array) -> Array:
    """All parts by one tanh, sigmoid(x) being (tanh(x / 2) + 1) / 2: on a CPU a quarter of the time of part by part."""

    def row(**values: float) -> np.ndarray:
        width = gates.shape[-1] // len(parts)
        return np.repeat(np.float32([values[part] for part in parts]), width)[None]

    scale = row(s=0.5, t=1.0, l=0.0)
    squashed = jnp.tanh(gates * scale) * scale + row(s=0.5, t=0.0, l=0.0)
    return squashed + gates * row(s=0.0, t=0.0, l=1.0) if "l" in parts else squashed


SLOPES = {"s": lambda y: y * (1 - y), "t": lambda y: 1 - y * y, "l": jnp.ones_like}
"""Of each part's function, from its value."""


def _cut(values: Array, parts: str) -> Parts:
    return tuple(jnp.split(values, len(parts), axis=-1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(
    name: str,
    read_TBP: Array,
    kernel_DP: Array,
    bias_Q: Array,
    state: State,
    keep_TB: Array | None,
    real_TB: Array | None,
) -> tuple[Array, State]:
    """Go through all time steps.

    Args:
      name: of CELLS.
      read_TBP: products with what is read.
      kernel_DP: what the last output is multiplied with, in the dtype of that product.
      bias_Q: float32, added to what `join` makes of both products.
      state: before the first step.
      keep_TB: float32; what the state before a step is multiplied with, 0 to begin anew. None: 1.
      real_TB: bool; where it is False the state stays as it is. None: all True.

    Returns:
      The outputs [T, B, D], float32, and the last state.
    """
    return _forward(name, read_TBP, kernel_DP, bias_Q, state, keep_TB, real_TB)[0]


def _forward(name, read_TBP, kernel_DP, bias_Q, first, keep_TB, real_TB):
    cell = CELLS[name]

    def body(state: State, inputs: Any):
        read, keep, real = inputs
        if keep is not None:
            state = tuple(part * keep[:, None] for part in state)
        gates = cell.join(read.astype(jnp.float32), _product(state[0], kernel_DP))
        # Kept part by part: a CPU reads slices of columns one number at a time.
        parts = _cut(_squash(cell.parts, gates + as_row(bias_Q, gates)), cell.parts)
        new = cell.step(parts, state)
        if real is not None:
            new = tuple(jnp.where(real[:, None], n, o) for n, o in zip(new, state, strict=True))
        return new, (new[0], state, parts)

    last, (out_TBD, before, parts) = jax.lax.scan(body, first, (read_TBP, keep_TB, real_TB))
    like = jnp.zeros((), read_TBP.dtype)  # a gradient has the dtype of what it is of
    return (out_TBD, last), (before, parts, like, kernel_DP, keep_TB, real_TB)


def _backward(name, kept, grads):
    before, parts, like, kernel_DP, keep_TB, real_TB = kept
    cell = CELLS[name]
    kernel_PD = jax.lax.optimization_barrier(kernel_DP.T)  # turned once, not at every step

    def body(grad: State, inputs: Any):
        parts, state, out, keep, real = inputs
        grad = (grad[0] + out, *grad[1:])
        if real is not None:
            stays = tuple(jnp.where(real[:, None], 0.0, part) for part in grad)
            grad = tuple(jnp.where(real[:, None], part, 0.0) for part in grad)
        gates_grad, grad = _step_back(cell, parts, state, grad)
        grad = (grad[0] + _product(cell.split(gates_grad)[1], kernel_PD), *grad[1:])
        if real is not None:
            grad = tuple(map(jnp.add, grad, stays))
        if keep is not None:
            grad = tuple(part * keep[:, None] for part in grad)
        return grad, gates_grad

    inputs = (parts, before, grads[0], keep_TB, real_TB)
    first_grad, gates_grad = jax.lax.scan(body, grads[1], inputs, reverse=True)
    read_grad, told_grad = cell.split(gates_grad)
    rows, seen = (
        x.reshape(-1, x.shape[-1]).astype(kernel_DP.dtype) for x in (told_grad, before[0])
    )
    kernel_grad = jnp.matmul(seen.T, rows, preferred_element_type=jnp.float32)
    grads = kernel_grad.astype(kernel_DP.dtype), gates_grad.sum((0, 1)), first_grad, None, None
    return read_grad.astype(like.dtype), *grads


def _step_back(cell: Cell, parts: Parts, state: State, grad: State) -> tuple[Array, State]:
    """Gradients of what `join` made [B, Q], and of the state but for its way through the kernel."""
    parts_grad, grad = jax.vjp(cell.step, parts, state)[1](grad)
    slopes = (SLOPES[kind](part) for kind, part in zip(cell.parts, parts, strict=True))
    parts_grad = tuple(map(jnp.multiply, parts_grad, slopes))
    # Put together by the loop that computes them, they would take a CPU several times as long.
    return jnp.concatenate(jax.lax.optimization_barrier(parts_grad), axis=-1), grad


recur.defvjp(_forward, _backward)


def _product(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


class Kernel(nn.Module):
    """A matrix [rows, columns], not applied; where it has an adapter (train/tuning/lora.py) with that added."""

    rows: int
    columns: int
    bound: float  # drawn uniformly within it

    @nn.compact
    def __call__(self) -> Array:
        init = named(uniform(self.bound), "embed", None)
        kernel = self.param("kernel", init, (self.rows, self.columns))
        if self.has_variable("params", "lora_dropout"):
            raise ValueError("tuning.dropout: a recurrent layer's adapters have none; set it to 0")
        if self.has_variable("params", "lora_a"):
            a, b = (self.get_variable("params", f"lora_{name}") for name in "ab")
            kernel = kernel + jnp.matmul(a, b)
        return kernel


def uniform(bound: float) -> Callable[..., Array]:
    """An initializer, uniform within -bound..bound."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class Recurrent(nn.Module):
    """One layer of a cell of CELLS.

    Kernels are drawn as torch.nn draws them, uniformly within 1 / sqrt(D). Biases begin as 0, and not drawn; the LSTM's of
    the forget gate as `forget_bias` (1 by default: Jozefowicz et al. 2015, An Empirical Exploration of Recurrent Network
    Architectures).
    """

    cell: str
    features: int
    forget_bias: float = 1.0
    weight_dropout: float = 0.0  # DropConnect: share of the recurrent kernel that is 0 in a batch
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array | Looked, state: State, places: Marks, train: bool = False
    ) -> tuple[Array, State]:
        """x [B, T, ...] -> [B, T, D], and the state behind the last real position."""
        cell, width, dtype = CELLS[self.cell], self.features, jnp.dtype(self.dtype)
        bound = width**-0.5
        columns = cell.num_products * width
        rows = x.table_VD.shape[-1] if isinstance(x, Looked) else x.shape[-1]
        kernel = Kernel(rows, columns, bound, name="input")().astype(dtype)
        recurrent = Kernel(width, columns, bound, name="recurrent")()
        if train and self.weight_dropout:
            recurrent = nn.Dropout(self.weight_dropout, deterministic=False)(recurrent)
        forget = self.forget_bias if self.cell == "lstm" else 0.0
        bias = self.param("bias", named(_bias(width, forget), None), (len(cell.parts) * width,))
        if isinstance(x, Looked):
            table = jnp.matmul(x.table_VD.astype(dtype), kernel)
            read = looked_up(table, x.ids_BT.T)
        else:
            turned = jnp.swapaxes(x, 0, 1).astype(dtype)
            read = jnp.matmul(turned.reshape(-1, rows), kernel).reshape(*turned.shape[:2], columns)
        keep = None if places.starts_BT is None else 1.0 - places.starts_BT.T.astype(jnp.float32)
        real = None if places.real_BT is None else places.real_BT.T
        out, state = recur(self.cell, read, recurrent.astype(dtype), bias, state, keep, real)
        return jnp.swapaxes(out, 0, 1).astype(dtype), state


def _bias(width: int, forget: float) -> Callable[..., Array]:
    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jnp.zeros(shape, dtype).at[width : 2 * width].set(forget)

    return init
