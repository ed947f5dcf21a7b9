"""Our parameters as tensors under others' names: the way out of interop/mapping.py's entries, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlm.core.types import PyTree
from jaxlm.interop import mapping
from jaxlm.interop.mapping import Entry, Family


def unrolled(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Leaves by path as host arrays, those of scanned layers one by one under the names that `entries` has."""
    return {
        path: np.asarray(array if path == leaf else array[layer])
        for leaf, array in leaves.items()
        for layer, path in enumerate(mapping.layers(leaf, array))
    }


def _refuse_extra(family: Family, config: Any, leaves: Mapping[str, Any]) -> None:
    """What they have no place for would be dropped in silence."""
    known = {entry.ours for entry in family.entries(config)}
    if extra := [
        leaf for leaf in leaves if not known.issuperset(mapping.layers(leaf, leaves[leaf]))
    ]:
        raise ValueError(f"{family.NAME} has no place for {', '.join(extra[: mapping.SHOWN])}")


def export(
    family: Family, config: Any, params: PyTree, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Their tensors from our parameters, one at a time.

    Args:
      family: what is what.
      config: of the model.
      params: the arrays.
      names: what to call them, by our path (`Matched.names`); what is not in it is left out.

    Returns:
      Name -> (shape, a function that makes the float32 array), in the order of `entries`.
    """
    leaves = mapping.flatten(params)
    _refuse_extra(family, config, leaves)
    where = {
        path: (leaf, layer if mapping.is_scanned(leaf) else None)
        for leaf, array in leaves.items()
        for layer, path in enumerate(mapping.layers(leaf, array))
    }
    named: dict[str, list[Entry]] = {}
    for entry in family.entries(config):
        name = entry.theirs if names is None else names.get(entry.ours)
        if name is not None:
            named.setdefault(name, []).append(entry)

    def ours(entry: Entry) -> np.ndarray:
        leaf, layer = where[entry.ours]
        array = np.asarray(leaves[leaf] if layer is None else leaves[leaf][layer])
        if entry.vocab_axis is not None:
            rows = [slice(None)] * array.ndim
            rows[entry.vocab_axis] = slice(config.vocab_size)
            array = array[tuple(rows)]
        return array.T if entry.transpose else array

    def theirs(entries: list[Entry]) -> np.ndarray:
        parts = sorted(entries, key=lambda entry: entry.part or (0, 1))
        return ours(entries[0]) if len(parts) == 1 else np.concatenate(list(map(ours, parts)), -1)

    return {
        name: (
            mapping.their_shape(
                entries[0], leaf := where[entries[0].ours][0], leaves[leaf], config
            ),
            lambda entries=entries: theirs(entries),
        )
        for name, entries in named.items()
    }
