"""Where a run's first weights come from when `init_from` names a model: a Hugging Face folder, a .gguf file, a run of ours.

The architecture and the backbone's weights are the source's; how it is run, and its heads, are the config's.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm.core import partition
from jaxlm.core.types import Array, PyTree, TrainState
from jaxlm.data import tokenizers
from jaxlm.interop import mapping
from jaxlm.train import chosen_layers
from jaxlm.train.origin import Foreign, open_source

TOKENIZER = "init_from"
"""`data.tokenizer` of this name is the source's."""
OWN = (
    "dropout", "init", "init_std", "remat", "attention", "dtype", "scan_layers", "loss_chunk",
    "head", "num_labels", "pooler", "value_head", "capacity_factor", "load_balance_loss", "router_z_loss", "expert_backend",
)  # fmt: skip
"""Model fields that the config says, whatever the source has."""


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


def absolute(cfg: ConfigDict) -> None:
    """`init_from` as it is found from any folder: of a run that keeps only what trains, every later use needs it."""
    if cfg.init_from and cfg.tuning.kind != "full" and "://" not in cfg.init_from:
        cfg.init_from = os.path.abspath(cfg.init_from)


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
    check_trained(matched.fresh, partition.flatten(base))
    loaded = {path: found[name] for path, name in names.items() if name in found}
    lines = report(cfg.init_from, matched)
    if layers:
        lines.append(f"layers     {', '.join(map(str, layers))} of its {config.num_layers}")
    return merged(trained, loaded), merged(base, loaded), lines


def check_trained(fresh: Iterable[str], frozen: Iterable[str]) -> None:
    """Raises ValueError where a parameter has been drawn, and will not train: it would stay noise."""
    if noise := sorted(set(fresh) & set(frozen)):
        raise ValueError(
            f"tuning freezes what init_from has no weights for ({', '.join(noise)}): let it train (tuning.also, "
            "tuning.freeze), or leave it out of the model"
        )


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
