"""The leaves of a state as checkpoints and digests have them: by path, random keys as their numbers, with dtype and shape.

Not here: where they are written, and when (checkpoint.py).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, such as "params/blocks/attn/q/kernel"; raises ValueError where two have the same one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path: a name has a '/' in it")
    return named


def numbers(x: Any) -> Any:
    """An array as it is; a random key's uint32."""
    return jax.random.key_data(x) if _is_key(x) else x


def abstract_numbers(x: Any) -> jax.ShapeDtypeStruct:
    """`numbers` of what has a shape, a dtype and perhaps a sharding; without one, on the first local device."""
    sharding = getattr(x, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if _is_key(x):
        x = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def describe(x: Any) -> dict[str, Any]:
    """Its dtype and shape, and of a key how it was made, for JSON."""
    described = {"dtype": str(x.dtype), "shape": list(x.shape)}
    if _is_key(x) and isinstance(x, jax.Array):
        described["key_impl"] = str(jax.random.key_impl(x))
    return described


def grown(x: Any, saved: dict[str, Any] | None) -> Any:
    """What is empty in a first state takes the length that it was saved with: tables of counts grow."""
    if x.size or saved is None or len(saved["shape"]) != len(x.shape):
        return x
    sharding = abstract_numbers(x).sharding
    return jax.ShapeDtypeStruct(tuple(saved["shape"]), x.dtype, sharding=sharding)


def state_digest(state: Any, data_state: Any = None) -> str:
    """Digest everything a run continues from, whatever devices hold it.

    Args:
      state: tree of arrays; with several processes all of them call this.
      data_state: the data iterator's state, JSON.

    Returns:
      sha256, hexadecimal, over every leaf's path, dtype, shape and bytes in the order of the
      paths, then over the canonical JSON of `data_state`.
    """
    found = hashlib.sha256()
    for path, leaf in sorted(flatten(state).items()):
        data = numbers(leaf)
        if isinstance(data, jax.Array) and not (
            data.is_fully_addressable or data.is_fully_replicated
        ):
            data = multihost_utils.process_allgather(data, tiled=True)
        array = np.ascontiguousarray(data)
        found.update(json.dumps([path, str(leaf.dtype), array.shape]).encode())
        found.update(array.reshape(-1).view(np.uint8))
    found.update(json.dumps(data_state, sort_keys=True, separators=(",", ":")).encode())
    return found.hexdigest()


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
