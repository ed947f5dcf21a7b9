"""Where a run's first weights come from when `init_from` names a model: a Hugging Face folder, a .gguf file, a run of ours.

The architecture and the backbone's weights are the source's; how it is run, and its heads, are the config's.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm import interop
from jaxlm.core import partition
from jaxlm.core.types import Array, PyTree, TrainState
from jaxlm.data import cache, tokenizers
from jaxlm.interop import mapping
from jaxlm.train import chosen_layers
from jaxlm.train import manifest as manifests
from jaxlm.train import workdir as folders
from jaxlm.train.checkpoint import Checkpointer

TOKENIZER = "init_from"
"""`data.tokenizer` of this name is the source's."""
OWN = (
    "dropout", "init", "init_std", "remat", "attention", "dtype", "scan_layers", "loss_chunk",
    "head", "num_labels", "pooler", "value_head", "capacity_factor", "load_balance_loss", "router_z_loss", "expert_backend",
)  # fmt: skip
"""Model fields that the config says, whatever the source has."""
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

    def weights(self, config: Any, abstract: PyTree) -> tuple[dict[str, Array], mapping.Matched]:
        """The parameters by path, and what was found."""
        return mapping.load(self.source.family, config, self.source.tensors, abstract)


class Run:
    """A run of ours, or what `jaxlm.convert import` made."""

    def __init__(self, path: str):
        self.path, self.workdir = path, folders.existing(path)
        self.config = configs.read(self.workdir / folders.CONFIG)
        self.kind = self.config.model.kind
        self.fields = {name: value for name, value in self.config.model.items() if name != "kind"}

    def tokenizer_folder(self) -> Path | None:
        """A folder that `tokenizers.load` takes; None without a tokenizer."""
        folder = self.workdir / folders.TOKENIZER
        return Path(folder) if folder.exists() else None

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
                raise ValueError(f"init_from={self.path} holds no checkpoint yet")
            saved = manifests.read(checkpoints.directory / f"{step:08d}")["leaves"]
            tree = "ema" if any(name.startswith("ema/") for name in saved) else "params"
            held = {n.removeprefix(f"{tree}/") for n in saved if n.startswith(f"{tree}/")}
            wanted = mapping.flatten(abstract)
            fresh, unused = _differing(self.path, held, wanted)
            target = {tree: {path: wanted[path] for path in wanted if path not in fresh}}
            state, _, _ = checkpoints.restore(target, step, partial=True)
        finally:
            checkpoints.close()
        names = {path: path for path in target[tree]}
        return state[tree], mapping.Matched(names, fresh, unused)

    def _tuned(self, abstract: PyTree) -> tuple[dict[str, Array], mapping.Matched]:
        """As `weights`, of a run that has only a part of its model in its checkpoints."""
        from jaxlm.train import weights  # which reads, here again, what that run began with

        checkpoints = Checkpointer(self.workdir / folders.CHECKPOINTS)
        try:
            restored = weights.load(self.config, checkpoints)
        finally:
            checkpoints.close()
        if restored is None:
            raise ValueError(f"init_from={self.path} holds no checkpoint yet")
        held, wanted = partition.flatten(restored[0]), partition.flatten(abstract)
        fresh, unused = _differing(self.path, held, wanted)
        found = {
            path: jax.device_put(held[path], leaf.sharding)
            for path, leaf in wanted.items()
            if path in held
        }
        names = {path: path for path in found}
        return found, mapping.Matched(names, fresh, unused)


def _differing(
    path: str, held: Iterable[str], wanted: Iterable[str]
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
            f"init_from={path} has other parameters than this model ({', '.join(wrong[:8])}): "
            "is model.scan_layers the same?"
        )
    return fresh, unused


def open_source(path: str) -> Foreign | Run:
    """The model that a path leads to.

    Raises:
      ValueError: there is none, or one that we can't represent.
    """
    if interop.is_foreign(path):
        return Foreign(path)
    if "://" not in path and not Path(path).exists():
        raise ValueError(f"{path}: no such file or folder")
    return Run(path)


def take_architecture(cfg: ConfigDict) -> None:
    """Write the source's architecture into `cfg.model`, but not how it is run (OWN).

    Raises:
      ValueError: the source is a model of another kind.
    """
    try:
        source = open_source(cfg.init_from)
    except ValueError as error:
        raise ValueError(f"init_from: {error}") from error
    if cfg.model.kind != source.kind:
        raise ValueError(
            f'init_from={cfg.init_from} is a "{source.kind}", but model.kind="{cfg.model.kind}"'
        )
    with cfg.ignore_type():
        cfg.model.update({n: value for n, value in source.fields.items() if n not in OWN})
        if cfg.init_layers:
            chosen_layers.check(cfg.init_layers, cfg.model.num_layers)
            cfg.model.num_layers = len(cfg.init_layers)


def data_config(cfg: ConfigDict) -> Any:
    """The data section, with data.tokenizer="init_from" replaced by the folder of the source's.

    Raises:
      ValueError: there is no source, or it has no tokenizer.
    """
    config = configs.build(cfg, "data")
    if getattr(config, "tokenizer", "") != TOKENIZER:
        return config
    if not cfg.init_from:
        raise ValueError(f'data.tokenizer="{TOKENIZER}" needs init_from')
    return dataclasses.replace(config, tokenizer=str(_folder(cfg)))


def _folder(cfg: ConfigDict) -> Path:
    folder = open_source(cfg.init_from).tokenizer_folder()
    if folder is None:
        raise ValueError(f"init_from={cfg.init_from} has no tokenizer: name one in data.tokenizer")
    return folder


def check_vocabulary(cfg: ConfigDict, vocab_size: int) -> None:
    """The ids of the data are those that the source's table was trained with.

    The table may have more rows than its tokenizer has ids, as Qwen's has.

    Raises:
      ValueError: another tokenizer.
    """
    rows = cfg.model.vocab_size
    own = "tokenizer" in cfg.data and cfg.data.tokenizer == TOKENIZER
    if vocab_size == rows or (own and vocab_size < rows):
        return
    if own:
        raise ValueError(
            f"data.kind={cfg.data.kind} takes {vocab_size} ids with the special tokens that it adds to the "
            f"tokenizer of init_from={cfg.init_from}, whose model has only {rows}"
        )
    named = cfg.data.tokenizer if "tokenizer" in cfg.data else cfg.data.kind
    raise ValueError(
        f"data.tokenizer={named} gives {vocab_size} ids, but the model of init_from={cfg.init_from} has "
        f'{rows}: take its own, data.tokenizer="{TOKENIZER}"'
    )


def apply(state: TrainState, cfg: Any) -> tuple[TrainState, list[str]]:
    """A fresh state with the source's weights in place, averages included, and lines that say so."""
    base = state.frozen.get("base", {})
    params, base, lines = overlaid(state.params, base, cfg)
    ema = jax.tree.map(jnp.copy, params) if state.ema else state.ema
    frozen = state.frozen | ({"base": base} if base else {})
    return state.replace(params=params, ema=ema, frozen=frozen), lines


def overlaid(trained: PyTree, base: PyTree, cfg: Any) -> tuple[PyTree, PyTree, list[str]]:
    """Both parts of fresh parameters with the weights of `init_from` in place, and lines that say so."""
    source = open_source(cfg.init_from)
    ours = partition.flatten(trained) | partition.flatten(base)
    abstract = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for path, leaf in ours.items()
        if path.rpartition("/")[2] not in partition.ADAPTERS
    }
    config, layers = configs.build(cfg, "model"), cfg.init_layers
    names = chosen_layers.sources(abstract, layers)
    if layers:
        config = dataclasses.replace(config, num_layers=source.fields["num_layers"])
        abstract = chosen_layers.deeper(abstract, layers, config.num_layers)
    found, matched = source.weights(config, partition.nest(abstract))
    loaded = {path: found[name] for path, name in names.items() if name in found}
    lines = report(cfg.init_from, matched)
    if layers:
        lines.append(f"layers     {', '.join(map(str, layers))} of its {config.num_layers}")
    return merged(trained, loaded), merged(base, loaded), lines


def merged(params: PyTree, loaded: Mapping[str, Array]) -> PyTree:
    """`params` with the loaded leaves in place."""
    leaves = {path: loaded.get(path, leaf) for path, leaf in partition.flatten(params).items()}
    return partition.nest(leaves)


def report(path: str, matched: mapping.Matched) -> list[str]:
    """What of a model came from a source, for the log."""
    lines = [f"weights    {len(matched.names)} parameters from {path}"]
    if matched.fresh:
        lines += [f"fresh      not in it, so drawn by the seed: {', '.join(matched.fresh)}"]
    if matched.unused:
        lines += [f"unused     in it, and not of this model: {', '.join(matched.unused)}"]
    return lines


def load_tokenizer(source: Foreign, vocab_size: int) -> Any | None:
    """A source's tokenizer.

    Raises:
      ValueError: it has ids that the model has no rows for.
    """
    folder = source.tokenizer_folder()
    if folder is None:
        return None
    tokenizer = tokenizers.load(folder)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{source.path}: its tokenizer has {tokenizer.vocab_size} ids, its model {vocab_size}: "
            "they do not belong together"
        )
    return tokenizer
