"""Random keys as a pure function of (root key, step, name), so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import zlib

import jax

from jaxlm.core.types import Array


def step_key(root: Array, step: Array) -> Array:
    """The key of one training step from the root key's data (uint32 [2]), which is never overwritten."""
    return jax.random.fold_in(jax.random.wrap_key_data(root), step)


def named_key(key: Array, name: str) -> Array:
    """An independent stream for one use ("dropout", "noise"), fixed by its name and not by call order."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
