"""A model that exists already, as a run can begin from it: a Hugging Face folder, a .gguf file, a run of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from jaxlm import config as configs
from jaxlm import interop
from jaxlm.core import partition
from jaxlm.core.types import Array, PyTree
from jaxlm.data import cache
from jaxlm.interop import huggingface, mapping, peft
from jaxlm.train import manifest as manifests
from jaxlm.train import workdir as folders
from jaxlm.train.checkpoint import Checkpointer

HEADS = ("head", "mlm", "pooler", "classifier", "value")
"""Subtrees that may be missing in a run of ours, or be there and not wanted."""


class Foreign:
    """A folder in the Hugging Face layout, or a .gguf file."""

    def __init__(self, path: str):
        self.path, self.source = path, interop.open_source(path)
        self.kind, self.fields = self.source.family.KIND, self.source.fields

    def tokenizer_folder(self) -> Path | None:
        """A folder that `tokenizers.load` takes; None without a tokenizer."""
        files = self.source.tokenizer
        if not files:
            return None
        if self.source.path.is_dir() and "tokenizer.json" in files:
            return self.source.path
        # What a .gguf holds, or what has another name, stands in the cache under its content.
        contents = {
            name: one if isinstance(one, bytes) else one.read_bytes() for name, one in files.items()
        }
        digests = {name: hashlib.sha256(one).hexdigest() for name, one in contents.items()}

        def write(folder: Path) -> dict[str, Any]:
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            return {}

        return cache.fetch({"tokenizer of a model": digests}, write).path

    def labels(self) -> tuple[str, ...]:
        """The names of its classes; () where they have none."""
        return huggingface.labels(self.source.hf, len(self.source.hf.get("id2label") or ()))

    def weights(self, config: Any, abstract: PyTree) -> tuple[dict[str, Array], mapping.Matched]:
        """The parameters by path, and what was found."""
        return mapping.load(self.source.family, config, self.source.tensors, abstract)


class Run:
    """A run of ours, or what `jaxlm.convert import` made; messages call it `key`=path."""

    def __init__(self, path: str, key: str):
        self.path, self.workdir = path, folders.existing(path)
        self.where = f"{key}={path}"
        self.config = configs.read(self.workdir / folders.CONFIG)
        self.kind = self.config.model.kind
        self.fields = {name: value for name, value in self.config.model.items() if name != "kind"}

    def tokenizer_folder(self) -> Path | None:
        """A folder that `tokenizers.load` takes; None without a tokenizer."""
        folder = self.workdir / folders.TOKENIZER
        return Path(folder) if folder.exists() else None

    def labels(self) -> tuple[str, ...]:
        """The names of its classes; () where it has none."""
        return folders.read_labels(self.workdir)

    def weights(self, config: Any, abstract: PyTree) -> tuple[dict[str, Array], mapping.Matched]:
        """The parameters by path (averaged ones where the run had them, adapters folded in), and what was found."""
        if self.config.tuning.kind != "full":
            return self._tuned(abstract)
        checkpoints = Checkpointer(
            self.workdir / folders.CHECKPOINTS, configs.build(self.config, "checkpoint")
        )
        try:
            step = checkpoints.latest_step()
            if step is None:
                raise ValueError(f"{self.where} holds no checkpoint yet")
            saved = manifests.read(checkpoints.directory / f"{step:08d}")["leaves"]
            tree = "ema" if any(name.startswith("ema/") for name in saved) else "params"
            held = {n.removeprefix(f"{tree}/") for n in saved if n.startswith(f"{tree}/")}
            wanted = mapping.flatten(abstract)
            fresh, unused = _differing(self.where, held, wanted)
            target = {tree: {path: wanted[path] for path in wanted if path not in fresh}}
            state, _, _ = checkpoints.restore(target, step, partial=True)
        finally:
            checkpoints.close()
        names = {path: path for path in target[tree]}
        return state[tree], mapping.Matched(names, fresh, unused)

    def _tuned(self, abstract: PyTree) -> tuple[dict[str, Array], mapping.Matched]:
        """As `weights`, of a run that has only a part of its model in its checkpoints."""
        from jaxlm.train import (  # which reads, here again, what that run began with
            parallel,
            weights,
        )

        checkpoints = Checkpointer(self.workdir / folders.CHECKPOINTS)
        try:
            with parallel.one_device():
                restored = weights.load(self.config, checkpoints)
        finally:
            checkpoints.close()
        if restored is None:
            raise ValueError(f"{self.where} holds no checkpoint yet")
        held, wanted = partition.flatten(restored[0]), partition.flatten(abstract)
        if "prompt" in held:
            raise ValueError(
                f"{self.where} learned a prompt, which is no part of a model: begin with what it began with"
            )
        fresh, unused = _differing(self.where, held, wanted)
        found = {
            path: jax.device_put(held[path], leaf.sharding)
            for path, leaf in wanted.items()
            if path in held
        }
        names = {path: path for path in found}
        return found, mapping.Matched(names, fresh, unused)


def _differing(
    where: str, held: Iterable[str], wanted: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a run lacks, and what it has too many.

    Raises:
      ValueError: that is not only heads.
    """
    held, wanted = set(held), list(wanted)
    fresh = tuple(one for one in wanted if one not in held)
    unused = tuple(sorted(held - set(wanted)))
    if wrong := [one for one in (*fresh, *unused) if one.split("/")[0] not in HEADS]:
        raise ValueError(
            f"{where} has other parameters than this model ({', '.join(wrong[:8])}): "
            "is model.scan_layers the same?"
        )
    return fresh, unused


def open_source(path: str, key: str = "init_from") -> Foreign | Run:
    """The model that a path leads to, which the config names under `key`.

    Raises:
      ValueError: there is none, or one that we can't represent.
    """
    if interop.is_foreign(path):
        return Foreign(path)
    if peft.is_folder(Path(path)):
        raise ValueError(
            f"{path} is an adapter, not a model: make a run of it, python -m jaxlm.convert import {path} RUN"
        )
    if "://" not in path and not Path(path).exists():
        raise ValueError(f"{path}: no such file or folder")
    return Run(path, key)
