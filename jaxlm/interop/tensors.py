"""safetensors files, single or sharded: read lazily from a memory map, written one tensor at a time.

The format is eight bytes of length, a JSON header, then the tensors' bytes:
https://huggingface.co/docs/safetensors/main/en/index#format . Pickled weights (*.bin, *.pt) are never opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")
MAX_SHARD_BYTES = 5 * 10**9
MAX_HEADER_BYTES = 100_000_000  # as the format says
DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64,
    "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


class Stored(NamedTuple):
    """One tensor's place."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the file's beginning


class SafeTensors:
    """The tensors of one file, or of a folder's files together (`mapping.Tensors`)."""

    def __init__(self, where: str, stored: Mapping[str, Stored]):
        self.where, self.stored = where, dict(stored)
        self.shapes = {name: one.shape for name, one in self.stored.items()}
        self.dtypes = {name: one.dtype for name, one in self.stored.items()}
        self._maps: dict[Path, np.memmap] = {}

    def read(self, name: str) -> np.ndarray:
        """The tensor as a view of its file."""
        one = self.stored[name]
        if one.file not in self._maps:
            self._maps[one.file] = np.memmap(one.file, np.uint8, mode="r")
        dtype = np.dtype(DTYPES[one.dtype])
        stop = one.start + math.prod(one.shape) * dtype.itemsize
        return self._maps[one.file][one.start : stop].view(dtype).reshape(one.shape)


def open_folder(folder: Path) -> SafeTensors:
    """The weights of a folder: model.safetensors, or the files that its index names.

    Raises:
      ValueError: there are none, only pickled ones, or they are damaged.
    """
    if (folder / INDEX).is_file():
        return _open_sharded(folder)
    if (folder / SINGLE).is_file():
        return SafeTensors(str(folder), read_header(folder / SINGLE))
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ValueError(
            f"{folder} holds its weights as {pickled[0]} only, which is never opened: a pickle can run "
            "any code. Convert it to safetensors (transformers: model.save_pretrained(DIR))"
        )
    raise ValueError(f"{folder} holds no weights: neither {SINGLE} nor {INDEX}")


def _open_sharded(folder: Path) -> SafeTensors:
    path = folder / INDEX
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        files = sorted({str(file) for file in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: it has no readable weight_map ({error!r})") from error
    stored: dict[str, Stored] = {}
    for file in files:
        if Path(file).name != file:
            raise ValueError(f"{path} names {file}, which is no file of its own folder")
        if not (folder / file).is_file():
            raise ValueError(f"{path} names {file}, which is not there")
        here = read_header(folder / file)
        if twice := sorted(here.keys() & stored.keys()):
            raise ValueError(
                f"{folder}: {twice[0]} is in {_lies_in(stored, twice[0])} and in {file}"
            )
        stored |= here
    if wrong := [name for name, file in weight_map.items() if _lies_in(stored, name) != file]:
        raise ValueError(f"{path} gives another file for {wrong[0]} than the one that it is in")
    return SafeTensors(str(folder), stored)


def _lies_in(stored: Mapping[str, Stored], name: str) -> str | None:
    return stored[name].file.name if name in stored else None


def read_header(path: Path) -> dict[str, Stored]:
    """What a file holds, checked against its size; no tensor is read.

    Raises:
      ValueError: it is truncated, or its header is not true.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{path} is truncated or no safetensors file: {size} bytes, header {length}"
            )
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            spans = {
                name: (str(one["dtype"]), _whole(one["shape"]), *_whole(one["data_offsets"], 2))
                for name, one in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: its header is damaged ({error!r})") from error
    stored, end = {}, 0
    for name, (dtype, shape, start, stop) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if dtype not in DTYPES:
            raise ValueError(f"{path}: {name} is of type {dtype}; known are {', '.join(DTYPES)}")
        expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if start != end or stop - start != expected or min(shape, default=0) < 0:
            raise ValueError(
                f"{path}: its header is damaged: {name}, {dtype} {list(shape)}, at {start}:{stop}"
            )
        stored[name], end = Stored(path, dtype, shape, 8 + length + start), stop
    if 8 + length + end != size:
        raise ValueError(
            f"{path} is truncated: its header describes {8 + length + end} bytes, it has {size}"
        )
    return stored


def _whole(values: Any, count: int | None = None) -> tuple[int, ...]:
    if any(type(one) is not int for one in values) or len(values) != (count or len(values)):
        raise ValueError(f"{values} are not {count or 'all'} whole numbers")
    return tuple(values)


class Outgoing(NamedTuple):
    """A tensor to be written."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]  # called when its turn comes

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize


def save_folder(
    folder: Path, tensors: Mapping[str, Outgoing], max_shard_bytes: int = MAX_SHARD_BYTES
) -> list[str]:
    """Write model.safetensors, or several files and their index where there is more than `max_shard_bytes`.

    Returns:
      The names of the files with tensors.
    """
    shards: list[dict[str, Outgoing]] = [{}]
    for name, tensor in tensors.items():
        filled = sum(one.num_bytes for one in shards[-1].values())
        if shards[-1] and filled + tensor.num_bytes > max_shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        save_file(folder / SINGLE, tensors)
        return [SINGLE]
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        save_file(folder / file, shard)
    save_index(folder, dict(zip(files, shards, strict=True)))
    return files


def save_index(folder: Path, shards: Mapping[str, Mapping[str, Outgoing]]) -> None:
    """The index of a folder's files."""
    total = sum(one.num_bytes for shard in shards.values() for one in shard.values())
    weight_map = {name: file for file, shard in shards.items() for name in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def save_file(path: Path, tensors: Mapping[str, Outgoing]) -> None:
    """Write one file; one tensor is in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    start = 0
    # Wide types first keeps every tensor aligned, as the format wants it.
    order = sorted(tensors, key=lambda name: -np.dtype(DTYPES[tensors[name].dtype]).itemsize)
    for name in order:
        one, stop = tensors[name], start + tensors[name].num_bytes
        header[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            array = np.asarray(tensors[name].make(), DTYPES[tensors[name].dtype])
            if array.shape != tensors[name].shape:
                raise AssertionError(f"{name} is {array.shape}, said to be {tensors[name].shape}")
            file.write(array.reshape(-1).view(np.uint8).data)
