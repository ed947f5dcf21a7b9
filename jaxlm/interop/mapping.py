"""Our parameters against tensors that stand under other names and in other layouts: one list of entries, read both ways.

A family (gpt2.py, llama.py, bert.py, t5.py) says what is what; this file moves the numbers in, one tensor at a time, and
outward.py moves them out.
Not here: file formats (tensors.py, gguf.py) and configs (the families).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxlm.core.types import Array, PyTree

OWN_HEADS = ("value",)
"""Our subtrees that stand in no other layout."""
SHOWN = 8
"""Names of each sort that one error shows."""
FLOATS = ("F32", "F16", "BF16")
"""Types that float32 parameters hold exactly, so that an export gives the same bytes back."""
_SCANNED = re.compile(r"(^|/)blocks/")


class Entry(NamedTuple):
    """One of our parameters, and the tensor that it is, or is a part of.

    On the way in: theirs -> the part -> transposed -> filled up with zeros along `vocab_axis`.
    """

    ours: str  # "stack/block_0/attention/q/kernel", also where the layers are scanned
    theirs: str  # "model.layers.0.self_attn.q_proj.weight"
    transpose: bool = False  # [out, in] there, [in, out] here
    part: tuple[int, int] | None = None  # (i, n): part i of n equal ones of their last axis
    vocab_axis: int | None = None  # our axis that is longer than config.vocab_size: padding


class Family(Protocol):
    """What a family's module has."""

    NAME: str  # for messages
    KIND: str  # of our model, in MODELS
    MODEL_TYPES: tuple[str, ...]  # `model_type` in config.json
    ARCHITECTURES: tuple[str, ...]  # `architectures` in config.json that are accepted
    PREFIX: str  # in front of the backbone's names; the bare backbone is saved without it
    ALIASES: tuple[tuple[str, str], ...]  # (part of a name as `entries` has it, older spelling)
    IGNORED: tuple[str, ...]  # regexes of names that hold nothing: buffers, copies of tied tensors
    COPIES: dict[str, str]  # regexes of ignored names -> ours that they must be equal to
    OPTIONAL: tuple[str, ...]  # our subtrees that may be missing there: heads
    HEADS: tuple[str, ...]  # regexes of names that may be left over: heads that our model has not

    def config(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of our Config, from config.json; ValueError names the key that we can't represent."""

    def hf_config(self, config: Any) -> dict[str, Any]:
        """config.json of one of our Configs; ValueError names the field that they can't represent."""

    def entries(self, config: Any) -> list[Entry]:
        """Every parameter that a model of this Config has."""


class Tensors(Protocol):
    """An opened file or folder of named tensors; nothing is in memory before `read`."""

    where: str  # for messages
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]  # as safetensors names them

    def read(self, name: str) -> np.ndarray:
        """The tensor; a view of the file where its type allows that."""


class Matched(NamedTuple):
    """What `match` found."""

    names: dict[str, str]  # our path -> the name in this source
    fresh: tuple[str, ...]  # our paths that the source has not: heads
    unused: tuple[str, ...]  # their heads that the model has not


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, "stack/block_0/attention/q/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def match(family: Family, config: Any, tensors: Tensors, abstract: PyTree | None = None) -> Matched:
    """Find every parameter of `config` in `tensors`, without reading any; with `abstract`, compare shapes too.

    Raises:
      ValueError: one error that names what is missing, left over, or of another shape or type.
    """
    entries = family.entries(config)
    candidates = {entry.ours: spelled(family, entry.theirs) for entry in entries}
    names, missing, fresh = {}, [], []
    for ours, spellings in candidates.items():
        found = next((name for name in spellings if name in tensors.shapes), None)
        if found is not None:
            names[ours] = found
        elif ours.split("/")[0] in family.OPTIONAL:
            fresh.append(ours)
        else:
            missing.append(spellings[0])
    left = sorted(set(tensors.shapes) - set(names.values()))
    left = [name for name in left if not _matches(name, family.IGNORED)]
    unused = [name for name in left if _matches(name, family.HEADS)]
    types = [
        f"{name}: {tensors.dtypes[name]}"
        for name in dict.fromkeys(names.values())
        if tensors.dtypes[name] not in FLOATS
    ]
    _refuse(
        f"{tensors.where} is not the {family.NAME} that its config describes",
        {
            "missing": list(dict.fromkeys(missing)),
            "left over": [name for name in left if name not in unused],
            "of another shape": _other_shapes(entries, config, tensors, names, abstract),
            f"of a type other than {', '.join(FLOATS)}": types,
        },
    )
    return Matched(names, tuple(fresh), tuple(unused))


def _other_shapes(
    entries: list[Entry], config: Any, tensors: Tensors, names: Mapping[str, str], abstract: PyTree
) -> list[str]:
    by_path = {entry.ours: entry for entry in entries}
    found = {
        f"{name}: {list(tensors.shapes[name])}, expected {list(expected)}": None
        for leaf, struct in flatten(abstract).items()
        for path in layers(leaf, struct)
        if (name := names.get(path))
        and tensors.shapes[name] != (expected := their_shape(by_path[path], leaf, struct, config))
    }
    return list(found)


def spelled(family: Family, name: str) -> list[str]:
    """The ways that a tensor's name is found written, ours first."""
    spellings = [name]
    if family.PREFIX and name.startswith(family.PREFIX):
        spellings.append(name.removeprefix(family.PREFIX))
    for new, old in family.ALIASES:
        spellings += [spelling.replace(new, old) for spelling in spellings if new in spelling]
    return spellings


def ends_with(module: str, end: str) -> bool:
    """Whether a module's dotted name is `end`, or ends with it."""
    return module == end or module.endswith(f".{end}")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _refuse(what: str, wrong: Mapping[str, list[str]]) -> None:
    """Raise one error for all that is wrong."""
    said = []
    for sort, names in wrong.items():
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            said.append(f"{len(names)} {sort} ({', '.join(names[:SHOWN])}{more})")
    if said:
        raise ValueError(f"{what}: {'; '.join(said)}")


def load(
    family: Family, config: Any, tensors: Tensors, abstract: PyTree
) -> tuple[dict[str, Array], Matched]:
    """Our parameters from their tensors, each put where `abstract` says before the next is read.

    Args:
      family: what is what.
      config: of the model; its `vocab_size` is the true one.
      tensors: where from.
      abstract: the model's parameters as jax.ShapeDtypeStruct, with shardings or without (then the
        first local device).

    Returns:
      The arrays by path, without those that the source has not; and what was matched.

    Raises:
      ValueError: see `match`.
    """
    entries = {entry.ours: entry for entry in family.entries(config)}
    leaves = flatten(abstract)
    wanted = {path: leaf for path, leaf in leaves.items() if path.split("/")[0] not in OWN_HEADS}
    if unknown := {path for leaf in wanted for path in layers(leaf, wanted[leaf])} ^ set(entries):
        raise AssertionError(f"{family.NAME}.entries and the model differ: {sorted(unknown)[:8]}")
    matched = match(family, config, tensors, abstract)
    matched = matched._replace(
        fresh=(*matched.fresh, *(path for path in leaves if path not in wanted))
    )
    _check_copies(family, tensors, matched)
    return {
        leaf: _place(struct, [_view(entries[path], tensors, matched) for path in paths])
        for leaf, struct in wanted.items()
        if (paths := layers(leaf, struct))[0] in matched.names
    }, matched


def _check_copies(family: Family, tensors: Tensors, matched: Matched) -> None:
    """What is called a copy and is none would be dropped in silence."""
    mapped = set(matched.names.values())
    for name in sorted(set(tensors.shapes) - mapped):
        ours = next((own for like, own in family.COPIES.items() if re.search(like, name)), None)
        source = matched.names.get(ours)
        if source is not None and not _equal(tensors.read(name), tensors.read(source)):
            raise ValueError(
                f"{tensors.where}: {name} is not the copy of {source} that its config says"
            )


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Piece by piece: nothing of the tables' size is made."""
    pieces = [slice(start, start + 4096) for start in range(0, len(a), 4096)]
    return a.shape == b.shape and all(np.array_equal(a[piece], b[piece]) for piece in pieces)


def is_scanned(leaf: str) -> bool:
    """Whether a leaf holds one parameter of all layers."""
    return bool(_SCANNED.search(leaf))


def layers(leaf: str, struct: Any) -> list[str]:
    """The paths in `entries` that one leaf holds: one for each layer where they are scanned."""
    if not is_scanned(leaf):
        return [leaf]
    return [_SCANNED.sub(rf"\g<1>block_{layer}/", leaf) for layer in range(struct.shape[0])]


def their_shape(entry: Entry, leaf: str, struct: Any, config: Any) -> tuple[int, ...]:
    """The shape of the tensor that an entry is of."""
    shape = list(struct.shape[1:] if is_scanned(leaf) else struct.shape)
    if entry.vocab_axis is not None:
        shape[entry.vocab_axis] = config.vocab_size
    if entry.transpose:
        shape.reverse()
    if entry.part:
        shape[-1] *= entry.part[1]
    return tuple(shape)


def _view(entry: Entry, tensors: Tensors, matched: Matched) -> np.ndarray:
    """A tensor in our layout, without the padding; nothing is copied."""
    array = part_of(tensors.read(matched.names[entry.ours]), entry)
    return array.T if entry.transpose else array


def part_of(array: np.ndarray, entry: Entry) -> np.ndarray:
    """What of a tensor, or of something with the same last axis, is an entry's."""
    if not entry.part:
        return array
    which, count = entry.part
    width = array.shape[-1] // count
    return array[..., which * width : (which + 1) * width]


def _place(struct: Any, views: list[np.ndarray]) -> Array:
    """One leaf on its devices, from the layers that it holds; each device's part is copied alone."""
    sharding = getattr(struct, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    scanned = views[0].ndim < len(struct.shape)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        bounds = [place.indices(size) for place, size in zip(index, struct.shape, strict=True)]
        out = np.zeros([stop - start for start, stop, _ in bounds], struct.dtype)
        layers = views[index[0]] if scanned else views
        for row, view in zip(out if scanned else [out], layers, strict=True):
            there = view[index[1:] if scanned else index]
            row[tuple(slice(size) for size in there.shape)] = there
        return out

    array = jax.make_array_from_callback(struct.shape, sharding, part)
    return jax.block_until_ready(array)  # the host's copy is gone before the next is made
