"""A model that begins with some layers of a deeper one: which parameter comes from which, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_LAYER = re.compile(r"^(.*?)block_(\d+)/")


def check(layers: Sequence[int], num_layers: int) -> None:
    """Raises ValueError unless each is a layer of a model with `num_layers`."""
    if not all(isinstance(layer, int) and 0 <= layer < num_layers for layer in layers):
        raise ValueError(
            f"init_layers={tuple(layers)}: the model of init_from has layers 0 to {num_layers - 1}"
        )


def sources(ours: Mapping[str, Any], layers: Sequence[int]) -> dict[str, str]:
    """Path of each of our parameters -> the path of the one that it begins as.

    Raises:
      ValueError: a model whose layers can't be told apart, or of two stacks.
    """
    if not layers:
        return {path: path for path in ours}
    stacks = {match[1] for path in ours if (match := _LAYER.match(path))}
    if len(stacks) != 1:
        raise ValueError(
            "init_layers takes layers of a model with one stack of them, one by one: "
            "model.scan_layers=False, and no encoder-decoder"
        )

    def source(path: str) -> str:
        return _LAYER.sub(lambda found: f"{found[1]}block_{layers[int(found[2])]}/", path)

    return {path: source(path) for path in ours}


def deeper(ours: Mapping[str, Any], layers: Sequence[int], num_layers: int) -> dict[str, Any]:
    """The shapes of a model of as many layers, each like our first one."""
    if not layers:
        return dict(ours)
    found: dict[str, Any] = {}
    for path, leaf in ours.items():
        match = _LAYER.match(path)
        if match is None:
            found[path] = leaf
        elif match[2] == "0":
            rest = path[match.end() :]
            found |= {f"{match[1]}block_{layer}/{rest}": leaf for layer in range(num_layers)}
    return found
