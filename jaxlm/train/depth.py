"""How many layers stand behind a parameter: what goes by layers (rates, unfreezing, the last k) counts them here.

The last layer of each stack has depth 0, and so has what stands behind it; what stands before the first layer is deepest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

INPUTS = (
    "embed", "source_embed", "positions", "block_positions", "encoder_positions", "decoder_positions", "token_types",
    "embedding_norm", "relative_bias", "patches", "prompt",
)  # fmt: skip
"""Names that stand in the path of a parameter before the first layer."""
LAYER = re.compile(r"^(.*?)block_(\d+)/")
SCANNED = re.compile(r"^(.*?)blocks/")


def num_layers(leaves: Mapping[str, Any]) -> dict[str, int]:
    """How many blocks each stack has, by what stands before their names; leaves by path, or their shapes."""
    counts: dict[str, int] = {}
    for path, leaf in leaves.items():
        if match := LAYER.match(path):
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
        elif match := SCANNED.match(path):
            counts[match[1]] = leaf.shape[0]
    return counts


def of(path: str, leaf: Any, counts: Mapping[str, int]) -> np.ndarray:
    """A parameter's depth, int []; of scanned layers each one's, with the leaf's number of axes."""
    if match := LAYER.match(path):
        return np.asarray(counts[match[1]] - 1 - int(match[2]))
    if match := SCANNED.match(path):
        each = counts[match[1]] - 1 - np.arange(leaf.shape[0])
        return each.reshape(-1, *[1] * (len(leaf.shape) - 1))
    below = not set(INPUTS).isdisjoint(path.split("/"))
    return np.asarray(max(counts.values(), default=0) if below else 0)


def of_all(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`of` for every leaf."""
    counts = num_layers(leaves)
    return {path: of(path, leaf, counts) for path, leaf in leaves.items()}


def check_unrolled(paths: Iterable[str], key: str) -> None:
    """Raises ValueError where all layers are one array."""
    if any(SCANNED.match(path) for path in paths):
        raise ValueError(f"{key} takes layers one by one: set model.scan_layers=False")
