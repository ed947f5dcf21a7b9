"""Datasets that other libraries bring: tfds:NAME and hf:NAME, as rows.

What a row means is for sources.py (texts) and records.py (pairs, labels).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.registry import nearest

SCHEMES = ("tfds", "hf")
_MOST = 12  # names that a message lists


class Rows:
    """The records of one split."""

    def __init__(self, name: str, rows: Any, facts: list[Any]):
        self._name, self._rows, self._facts = name, rows, facts

    def scan(self) -> tuple[list[Any], int]:
        """What determines the records, as far as the library tells it, as JSON values; their number."""
        return self._facts, len(self._rows)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every record, with what messages call it; in text, numbers, lists and dicts."""
        for number in range(len(self._rows)):
            yield f"{self._name} record {number}", plain(dict(self._rows[number]))


def open_rows(option: str, path: str, split: str = "") -> Rows:
    """The records that tfds:NAME[@SPLIT] or hf:NAME[:config][@SPLIT] names.

    Args:
      option: the config's key, for messages.
      path: scheme and name.
      split: where the path names none; "": it must.

    Raises:
      ValueError: nothing there, or it can't be read.
    """
    scheme, _, rest = path.partition(":")
    where = f"{option}={path}"
    dataset, named = re.fullmatch(r"(.*?)(?:@([\w.-]+))?", rest, re.DOTALL).groups()
    if not (named or split):
        raise ValueError(f"{where} names no split: add it, as in {path}@validation")
    opened = _tfds if scheme == "tfds" else _hugging_face
    rows, facts = opened(where, dataset, named or split)
    return Rows(where, rows, facts)


def _tfds(where: str, dataset: str, split: str) -> tuple[Any, list[Any]]:
    """Rows, and what they are known by: read from ArrayRecord files, without TensorFlow."""
    try:
        import tensorflow_datasets as tfds

        splits = tfds.data_source(dataset)
    except Exception as error:  # whatever it, its dataset's code or the network raises
        name, _, config = dataset.partition("/")
        there = _prepared(name)
        if config and there and config.partition(":")[0] not in there:
            raise ValueError(
                f"{where} is not there{nearest(config, there)}: of {name}, "
                f"{_list(there)} {'is' if len(there) == 1 else 'are'} prepared here"
            ) from error
        raise ValueError(
            f"{where} can't be loaded by tfds.data_source: {_line(error)}. It needs a copy "
            "prepared as ArrayRecord under ~/tensorflow_datasets (or $TFDS_DATA_DIR), or the network; "
            "old builders, c4 among them, are prepared on a machine with TensorFlow"
        ) from error
    if split not in splits:
        raise ValueError(
            f"{where} has no split {split}{nearest(split, splits)}: it has {', '.join(splits)}"
        )
    info = splits[split].dataset_info
    facts = info.splits[split]
    own = ["tfds", info.full_name, split, list(facts.shard_lengths), facts.num_bytes]
    return splits[split], own


def _prepared(name: str) -> list[str]:
    """The configs (for wmt: language pairs) of a TFDS dataset that are on this disk."""
    folder = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    found = (folder / name).glob("*/*/dataset_info.json")  # config/version
    return sorted({file.parent.parent.name for file in found})


def _hugging_face(where: str, rest: str, split: str) -> tuple[Any, list[Any]]:
    dataset, _, config = rest.partition(":")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(f"{where} needs Hugging Face datasets: pip install 'jaxlm[hf]'") from error
    try:
        rows = datasets.load_dataset(dataset, config or None, split=split)
    except Exception as error:  # a dozen kinds, most of them the network's
        raise ValueError(
            f"{where} can't be loaded (no network, or no such dataset?): {_line(error)}"
        ) from error
    return rows, ["hf", dataset, config, rows._fingerprint]


def plain(value: Any) -> Any:
    """A record without numpy: arrays as lists, bytes that are UTF-8 as text."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:  # an image; or a text, which is refused where it is read
            return value
    return value


def _list(names: list[str]) -> str:
    return ", ".join(names[:_MOST]) + (", ..." if len(names) > _MOST else "")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
