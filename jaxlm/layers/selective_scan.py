"""Mamba's mixer (Gu and Dao 2023, arXiv:2312.00752): a state space model whose step size, input and output depend on what is
read, between a short convolution and a gate.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.history import Marks
from jaxlm.layers.linear import Initializer, Linear, as_row, named, times_row
from jaxlm.layers.min_recurrent import CausalConv
from jaxlm.layers.parallel_scan import linear_scan
from jaxlm.layers.recurrent import State, uniform

CHUNK = 64
"""Time steps whose states [B, CHUNK, I, N] exist at once; the backward pass makes them again."""
STEP_SIZES = (1e-3, 1e-1)
"""That steps begin within, log-uniformly."""


def selective_scan(
    x_BTI: Array,
    step_BTI: Array,
    rate_IN: Array,
    in_BTN: Array,
    out_BTN: Array,
    keep_BT: Array | None,
    state_BIN: Array,
    method: str,
) -> tuple[Array, Array]:
    """h_t = exp(step rate) h_(t-1) + step in x, y_t = sum over N of out h_t (the paper's algorithm 2), all float32.

    I is the width between the projections, N the states of each of its features.

    Args:
      x_BTI: what drives the states.
      step_BTI: sizes of the steps; 0 leaves a state as it is.
      rate_IN: below 0 (the paper's A).
      in_BTN, out_BTN: the paper's B and C.
      keep_BT: what a state is multiplied with before a step; None: 1.
      state_BIN: before the first step.
      method: "parallel" (of CHUNK steps at once) or "sequential".

    Returns:
      y_BTI, and the last state.
    """
    length = x_BTI.shape[1]
    size = min(CHUNK, length)
    keep_BT = jnp.ones(x_BTI.shape[:2], jnp.float32) if keep_BT is None else keep_BT
    parts = (x_BTI, step_BTI, in_BTN, out_BTN, keep_BT)
    filling = -length % size
    pad = [jnp.pad(part, [(0, 0), (0, filling)] + [(0, 0)] * (part.ndim - 2)) for part in parts]
    pad[-1] = pad[-1].at[:, length:].set(1.0)  # steps of size 0 that keep all: they change nothing
    chunks = [
        jnp.moveaxis(part.reshape(part.shape[0], -1, size, *part.shape[2:]), 1, 0) for part in pad
    ]
    run = {"parallel": _at_once, "sequential": _one_by_one}[method]
    body = jax.checkpoint(functools.partial(run, rate_IN))
    state_BIN, y = jax.lax.scan(body, state_BIN, chunks)
    y_BTI = jnp.moveaxis(y, 0, 1).reshape(y.shape[1], -1, y.shape[-1])
    return y_BTI[:, :length], state_BIN


def _at_once(rate_IN: Array, state_BIN: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
    x, step, into, out, keep = chunk
    decay = jnp.exp(step[..., None] * rate_IN[None, None]) * keep[..., None, None]
    drive = (step * x)[..., None] * into[:, :, None, :]
    states = linear_scan(decay, drive, state_BIN, "parallel")
    return states[:, -1], jnp.einsum("BTIN,BTN->BTI", states, out)


def _one_by_one(rate_IN: Array, state_BIN: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
    def step_on(state: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        x, step, into, out, keep = inputs
        decay = jnp.exp(step[..., None] * rate_IN[None]) * keep[:, None, None]
        state = decay * state + (step * x)[..., None] * into[:, None, :]
        return state, jnp.sum(state * out[:, None, :], axis=-1)

    state, y_TBI = jax.lax.scan(step_on, state_BIN, [jnp.swapaxes(part, 0, 1) for part in chunk])
    return state, jnp.swapaxes(y_TBI, 0, 1)


class Mamba(nn.Module):
    """[B, T, D] -> [B, T, D]. Initial values are the authors' code's: rates -1..-N, steps within STEP_SIZES.

    Only steps, input and output are made in float32 whatever the dtype; kernels as the model's config says.
    """

    features: int  # I
    num_states: int  # N
    conv_width: int
    rank: int  # of what steps are made from
    kernel_init: Initializer
    out_init: Initializer
    method: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, state: State, places: Marks) -> tuple[Array, State]:
        """state: [B, I, N] and what the convolution looks back on, [B, conv_width - 1, I]."""
        inner = self.features

        def linear(features, axes, name, init=self.kernel_init, bias=False):
            return Linear(features, axes, init, bias, self.dtype, name=name)

        read, gate = jnp.split(linear(2 * inner, ("embed", "mlp"), "in")(x), 2, axis=-1)
        conv = CausalConv(self.conv_width, "mlp", name="conv")
        read, window = conv(read, state[1], places)
        read = jax.nn.silu(read)
        made = linear(self.rank + 2 * self.num_states, ("mlp", None), "select")(read)
        cuts = (self.rank, self.rank + self.num_states)
        low, into, out = jnp.split(made, cuts, axis=-1)
        step = linear(inner, (None, "mlp"), "step", uniform(self.rank**-0.5))(low)
        step_bias = self.param("step_bias", named(_step_bias, "mlp"), (inner,))
        log_rate = self.param("log_rate", named(_log_rate, "mlp", None), (inner, self.num_states))
        skip = self.param("skip", named(nn.initializers.ones, "mlp"), (inner,))
        wide, step, into, out = (part.astype(jnp.float32) for part in (read, step, into, out))
        step = jax.nn.softplus(step + as_row(step_bias, step))
        keep = None
        if places.starts_BT is not None:
            keep = 1.0 - places.starts_BT.astype(jnp.float32)
        if places.real_BT is not None:
            step = jnp.where(places.real_BT[..., None], step, 0.0)
        y, last = selective_scan(
            wide, step, -jnp.exp(log_rate), into, out, keep, state[0], self.method
        )
        y = (y + times_row(wide, skip)).astype(self.dtype) * jax.nn.silu(gate)
        return linear(x.shape[-1], ("mlp", "embed"), "out", self.out_init)(y), (last, window)


def _step_bias(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """What softplus makes steps within STEP_SIZES of."""
    low, high = map(math.log, STEP_SIZES)
    step = jnp.exp(jax.random.uniform(key, shape, dtype, low, high))
    return step + jnp.log(-jnp.expm1(-step))


def _log_rate(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype))[None], shape)
