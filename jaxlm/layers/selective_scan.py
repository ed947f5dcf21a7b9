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

CHUNK = 32
"""Time steps whose states [B, N, I] exist at once; the backward pass makes them again from the state before each chunk."""
STEP_SIZES = (1e-3, 1e-1)
"""That steps begin within, log-uniformly."""
einsum = functools.partial(jnp.einsum, precision="float32")  # not TF32


def selective_scan(
    x_BTI: Array,
    step_BTI: Array,
    rate_NI: Array,
    in_BTN: Array,
    out_BTN: Array,
    keep_BT: Array | None,
    state_BNI: Array,
    method: str,
) -> tuple[Array, Array]:
    """h_t = exp(step rate) h_(t-1) + step in x, y_t = sum over N of out h_t (the paper's algorithm 2), all float32.

    I is the width between the projections, N the states of each of its features.

    Args:
      x_BTI: what drives the states.
      step_BTI: sizes of the steps; 0 leaves a state as it is.
      rate_NI: below 0 (the paper's A).
      in_BTN, out_BTN: the paper's B and C.
      keep_BT: what a state is multiplied with before a step, which gets no gradient; None: 1.
      state_BNI: before the first step.
      method: "parallel" (of CHUNK steps at once) or "sequential".

    Returns:
      y_BTI, and the last state.
    """
    rows, length = x_BTI.shape[:2]
    size = min(CHUNK, length)
    keep_BT = jnp.ones((rows, length), jnp.float32) if keep_BT is None else keep_BT

    def cut(part: Array, filling: float = 0.0) -> Array:  # [chunks, size, B, ...]
        missing = [(0, -length % size), (0, 0)] + [(0, 0)] * (part.ndim - 2)
        part = jnp.pad(jnp.swapaxes(part, 0, 1), missing, constant_values=filling)
        return part.reshape(-1, size, *part.shape[1:])

    # Filled up with steps of size 0 that keep all: they change nothing.
    chunks = (*map(cut, (x_BTI, step_BTI, in_BTN, out_BTN)), cut(keep_BT, 1.0))
    if method == "parallel":
        body = jax.checkpoint(functools.partial(_at_once, rate_NI))
        last, y = jax.lax.scan(body, state_BNI, chunks)
    else:
        last, y = _one_by_one(rate_NI, state_BNI, chunks)
    return jnp.swapaxes(y.reshape(-1, *y.shape[2:])[:length], 0, 1), last


Chunk = tuple[Array, Array, Array, Array, Array]
"""x, step, in, out and keep, time first."""


def _at_once(rate: Array, state: Array, chunk: Chunk) -> tuple[Array, Array]:
    x, step, into, out, keep = chunk
    decay = jnp.exp(step[:, :, None] * rate[None, None]) * keep[..., None, None]
    drive = (step * x)[:, :, None] * into[..., None]
    states = jnp.swapaxes(
        linear_scan(jnp.swapaxes(decay, 0, 1), jnp.swapaxes(drive, 0, 1), state, "parallel"), 0, 1
    )
    return states[-1], einsum("TBNI,TBN->TBI", states, out)


# One by one: a step's arrays [B, N, I] stay in a core's cache, with features side by side; sums over N or I are products, as XLA's
# own sums of one row take ten times as long on a CPU. The backward pass is written out, as autodiff's would write down each
# array of each step.


@jax.custom_vjp
def _one_by_one(rate: Array, state: Array, chunks: Chunk) -> tuple[Array, Array]:
    """The last state, and y [chunks, size, B, I]."""
    return _forward(rate, state, chunks)[0]


def _decay(rate: Array, step: Array, keep: Array) -> Array:
    return jnp.exp(step[:, None] * rate[None]) * keep[:, None, None]


def _next(rate: Array, state: Array, x: Array, step: Array, into: Array, keep: Array) -> Array:
    return _decay(rate, step, keep) * state + (step * x)[:, None] * into[..., None]


def _forward(rate: Array, state: Array, chunks: Chunk):
    def on(state: Array, now: Chunk) -> tuple[Array, Array]:
        x, step, into, out, keep = now
        state = _next(rate, state, x, step, into, keep)
        return state, einsum("BNI,BN->BI", state, out)

    def through(first: Array, chunk: Chunk) -> tuple[Array, tuple[Array, Array]]:
        last, y = jax.lax.scan(on, first, chunk)
        return last, (y, first)

    last, (y, firsts) = jax.lax.scan(through, state, chunks)
    return (last, y), (rate, chunks, firsts)


def _backward(kept, grads):
    rate, chunks, firsts = kept
    last_grad, y_grad = grads
    ones_N = jnp.ones(rate.shape[0], jnp.float32)

    def again(state: Array, now) -> tuple[Array, tuple[Array, Array]]:
        (x, step, into, _, keep), grad = now
        after = _next(rate, state, x, step, into, keep)
        return after, (state, einsum("BNI,BI->BN", after, grad))

    def back(carry: tuple[Array, Array], now) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        state_grad, rate_grad = carry
        (x, step, into, out, keep), before, grad = now
        state_grad = state_grad + grad[:, None] * out[..., None]
        into_grad = einsum("BNI,BI->BN", state_grad, step * x)
        driven_grad = einsum("BNI,BN->BI", state_grad, into)
        state_grad = state_grad * _decay(rate, step, keep)  # of the state before
        power_grad = state_grad * before  # of step rate
        step_grad = einsum("BNI,N->BI", power_grad * rate[None], ones_N) + driven_grad * x
        rate_grad = rate_grad + power_grad * step[:, None]
        return (state_grad, rate_grad), (driven_grad * step, step_grad, into_grad)

    def through(carry, now):
        chunk, first, grad = now
        _, (before, out_grad) = jax.lax.scan(again, first, (chunk, grad))
        carry, found = jax.lax.scan(back, carry, (chunk, before, grad), reverse=True)
        return carry, (*found, out_grad)

    begin = last_grad, jnp.zeros_like(last_grad)
    (state_grad, rate_grad), found = jax.lax.scan(through, begin, (chunks, firsts, y_grad), reverse=True)  # fmt: skip
    return rate_grad.sum(0), state_grad, (*found, jnp.zeros_like(chunks[-1]))


_one_by_one.defvjp(_forward, _backward)


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
        """state: [B, N, I] and what the convolution looks back on, [B, conv_width - 1, I]."""
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
            wide, step, -jnp.exp(log_rate).T, into, out, keep, state[0], self.method
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
