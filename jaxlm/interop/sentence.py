"""How a folder of sentence-transformers turns hidden states into one vector: pooling, normalisation, length.

Files: https://sbert.net/docs/package_reference/sentence_transformer/models.html
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.core import sentences
from jaxlm.core.types import Array, PyTree

MODULES = ("Transformer", "Pooling", "Normalize")
BATCH = 32  # texts at once
WIDTHS = (16, 32, 64)
"""What the width of a batch is rounded up to, beyond them to a multiple of the last: few programs are ever compiled."""
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


class Sentence(NamedTuple):
    """Mean over the real tokens, then length 1, unless the folder says otherwise."""

    pooling: str = "mean"  # or "first": the first token's state
    normalise: bool = True
    max_len: int = (
        0  # tokens that are read, [CLS] and [SEP] included; 0: as many as the model has places
    )


def read(folder: Path) -> Sentence:
    """What a folder says; the default without a modules.json.

    Raises:
      ValueError: a module or a pooling that we haven't, named.
    """
    modules = _json(folder / "modules.json", list)
    if modules is None:
        return Sentence()
    if not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"{folder}/modules.json is damaged: it is no list of modules")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if other := [kind for kind in kinds if kind not in MODULES]:
        raise ValueError(
            f"{folder}/modules.json: {other[0]} is not known; known are {', '.join(MODULES)}"
        )
    mode = "mean"
    if "Pooling" in kinds:
        path = folder / str(modules[kinds.index("Pooling")].get("path", "")) / "config.json"
        said = _json(path, dict) or {}
        on = [
            key for key, value in said.items() if key.startswith("pooling_mode") and value is True
        ]
        if len(on) != 1 or on[0] not in MODES:
            raise ValueError(
                f"{path}: {', '.join(on) or 'no mode'} can't be represented; one of {', '.join(MODES)} can"
            )
        mode = MODES[on[0]]
    path = folder / "sentence_bert_config.json"
    limit = (_json(path, dict) or {}).get("max_seq_length") or 0
    if type(limit) is not int or limit < 0:
        raise ValueError(f"{path}: max_seq_length={limit!r} must be a whole number")
    return Sentence(mode, "Normalize" in kinds, limit)


def _json(path: Path, kind: type) -> Any | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path} is damaged: it holds no {kind.__name__}")
    return found


def embed(
    model: Any, params: PyTree, how: Sentence, rows: Sequence[Sequence[int]], limit: int
) -> np.ndarray:
    """One vector for each row of token ids, float32 [N, D].

    Args:
      model: gives `hidden` states, without any head.
      limit: tokens that it can hold; no row has more.
    """
    found = np.zeros((len(rows), model.config.d_model), np.float32)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = _padded([rows[row] for row in chosen], limit)
        found[chosen] = np.asarray(_vectors(model, how, params, batch))
    return found


def _padded(rows: Sequence[Sequence[int]], limit: int) -> dict[str, np.ndarray]:
    longest = max(1, *map(len, rows))
    width = next((one for one in WIDTHS if longest <= one), -(-longest // WIDTHS[-1]) * WIDTHS[-1])
    shape = (len(rows), min(width, limit))
    batch = {"tokens": np.zeros(shape, np.int32), "segment_ids": np.zeros(shape, np.int32)}
    for number, row in enumerate(rows):
        batch["tokens"][number, : len(row)] = row
        batch["segment_ids"][number, : len(row)] = 1
    return batch


@functools.partial(jax.jit, static_argnums=(0, 1))
def _vectors(model: Any, how: Sentence, params: PyTree, batch: dict[str, Array]) -> Array:
    hidden_BTD = model.apply({"params": params}, **batch).hidden
    segment_ids_BT = batch["segment_ids"]
    return sentences.vectors(hidden_BTD, segment_ids_BT, 1, how.pooling, how.normalise)[:, 0]
