"""Recurrences that are linear in their state, h_t = a_t h_(t-1) + b_t: many time steps at once, or one after the other.

At once is on an accelerator `jax.lax.associative_scan` (Blelloch 1990), log T rounds over the whole array; on a CPU, where those
rounds cost more than the steps, stretches of a row side by side: 2 T / BLOCKS steps of BLOCKS times the width, and BLOCKS
steps between them. All give the same numbers but for rounding. Not for recurrences with a product or a function between
states: recurrent.py.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array

SCANS = ("auto", "parallel", "sequential")
BLOCKS = 16
"""Stretches that a CPU goes through side by side: no faster there than the loop, and two to three times as fast as rounds."""


def choose(requested: str, cell: str, linear: bool) -> tuple[str, str]:
    """The scan that will run, and why.

    Args:
      requested: model.scan.
      cell: model.cell, for the message.
      linear: whether its recurrence is linear in its state.

    Raises:
      ValueError: an unknown name, or all steps at once of a recurrence that must go one by one.
    """
    if requested not in SCANS:
        raise ValueError(f"model.scan={requested!r}: accepted are {', '.join(SCANS)}")
    if not linear:
        if requested == "parallel":
            raise ValueError(
                f'model.scan="parallel" can\'t run: model.cell="{cell}" has a function between its states, so a step '
                'must wait for the one before; use "auto" or "sequential"'
            )
        why = f"{cell} is not linear in its state"
        return "sequential", f"auto: {why}" if requested == "auto" else "requested"
    if requested != "auto":
        return requested, "requested"
    platform = jax.default_backend()
    if platform == "cpu":  # tools/bench_recurrent.py
        return (
            "sequential",
            "auto: a step takes a cpu less than a millionth of a second, and nothing is to be won",
        )
    return "parallel", f"auto: log T rounds in place of T steps on {platform}; not measured there"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear_scan(decay: Array, drive: Array, first: Array, method: str) -> Array:
    """h_t = decay_t h_(t-1) + drive_t, float32.

    Args:
      decay, drive: [B, T, ...].
      first: [B, ...], the state before the first step.
      method: "parallel" or "sequential".

    Returns:
      Every h_t, [B, T, ...]. Its gradient is the same recurrence, from the end to the beginning.
    """
    return _scan(decay, drive, first, method)


def _scan(decay: Array, drive: Array, first: Array, method: str, reverse: bool = False) -> Array:
    if method == "sequential":
        return _in_blocks(decay, drive, first, reverse, 1)
    if jax.default_backend() == "cpu":
        return _in_blocks(decay, drive, first, reverse, min(BLOCKS, decay.shape[1]))
    at = -1 if reverse else 0
    drive = drive.at[:, at].add(decay[:, at] * first)
    return jax.lax.associative_scan(_after, (decay, drive), reverse=reverse, axis=1)[1]


def _after(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """What two stretches of the recurrence do one after the other."""
    return left[0] * right[0], right[0] * left[1] + right[1]


def _in_blocks(decay: Array, drive: Array, first: Array, reverse: bool, count: int) -> Array:
    """`count` stretches side by side; 1: step after step. Loops that pick their slices spare turning the arrays around."""
    size = -(-decay.shape[1] // count)

    def cut(x: Array, filling: float) -> Array:  # [B, count, size, ...]; filling changes no state
        missing = [(0, 0), (0, count * size - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, missing, constant_values=filling).reshape(-1, count, size, *x.shape[2:])

    blocks = cut(decay, 1.0), cut(drive, 0.0)

    def at(place: Array) -> list[Array]:
        place = size - 1 - place if reverse else place
        return [jax.lax.dynamic_index_in_dim(x, place, 2, keepdims=False) for x in blocks]

    def write(place: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        decay_now, drive_now = at(place)
        states = decay_now * carry[0] + drive_now
        place = size - 1 - place if reverse else place
        return states, jax.lax.dynamic_update_index_in_dim(carry[1], states, place, 2)

    before = first[:, None]
    if count > 1:
        nothing = jnp.ones_like(blocks[0][:, :, 0]), jnp.zeros_like(blocks[1][:, :, 0])
        wholes = jax.lax.fori_loop(0, size, lambda n, whole: _after(whole, at(n)), nothing)
        before = _between(*wholes, first, reverse)
    _, states = jax.lax.fori_loop(0, size, write, (before, jnp.zeros_like(blocks[1])))
    return states.reshape(drive.shape[0], -1, *drive.shape[2:])[:, : drive.shape[1]]


def _between(decay: Array, drive: Array, first: Array, reverse: bool) -> Array:
    """The state before each stretch [B, count, ...], from what each does as a whole."""
    turned = tuple(jnp.swapaxes(x, 0, 1) for x in (decay, drive))
    _, states = jax.lax.scan(lambda s, x: (x[0] * s + x[1], s), first, turned, reverse=reverse)
    return jnp.swapaxes(states, 0, 1)


def _linear_scan(decay, drive, first, method):
    states = _scan(decay, drive, first, method)
    return states, (decay, first, states)


def _linear_scan_back(method, kept, grads):
    """The gradient of h_t is what comes of it at once and, through h_(t+1), later."""
    decay, first, states = kept
    later = jnp.concatenate([decay[:, 1:], jnp.zeros_like(decay[:, :1])], axis=1)
    drive_grad = _scan(later, grads, jnp.zeros_like(first), method, reverse=True)
    before = jnp.concatenate([first[:, None], states[:, :-1]], axis=1)
    return drive_grad * before, drive_grad, drive_grad[:, 0] * decay[:, 0]


linear_scan.defvjp(_linear_scan, _linear_scan_back)
