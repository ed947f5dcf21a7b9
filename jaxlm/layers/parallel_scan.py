"""Recurrences that are linear in their state, h_t = a_t h_(t-1) + b_t: one time step after the other, or all at once by
`jax.lax.associative_scan` (Blelloch 1990), log T rounds over the whole array. Both give the same numbers but for rounding.
Not for recurrences with a product or a function between states: recurrent.py.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array

SCANS = ("auto", "parallel", "sequential")


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
    run = {"parallel": _at_once, "sequential": _one_by_one}[method]
    return run(decay, drive, first, reverse)


def _at_once(decay: Array, drive: Array, first: Array, reverse: bool) -> Array:
    def after(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        """What two stretches do one after the other."""
        return left[0] * right[0], right[0] * left[1] + right[1]

    at = -1 if reverse else 0
    drive = drive.at[:, at].add(decay[:, at] * first)
    return jax.lax.associative_scan(after, (decay, drive), reverse=reverse, axis=1)[1]


def _one_by_one(decay: Array, drive: Array, first: Array, reverse: bool) -> Array:
    """A loop that picks its slices: `jax.lax.scan` would have time turned to the front."""
    length = decay.shape[1]

    def step(place: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        state, states = carry
        place = length - 1 - place if reverse else place
        now = [jax.lax.dynamic_index_in_dim(x, place, 1, keepdims=False) for x in (decay, drive)]
        state = now[0] * state + now[1]
        return state, jax.lax.dynamic_update_index_in_dim(states, state, place, 1)

    return jax.lax.fori_loop(0, length, step, (first, jnp.zeros_like(drive)))[1]


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
