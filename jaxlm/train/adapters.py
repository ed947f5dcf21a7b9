"""LoRA runs against peft's folders: the adapter of a run, and a run of an adapter. The format itself: interop/peft.py."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm.core import partition
from jaxlm.core.types import PyTree
from jaxlm.interop import huggingface, outward, peft, peft_outward
from jaxlm.train import weights
from jaxlm.train import workdir as folders
from jaxlm.train.checkpoint import Checkpointer


def export(path: Any, target: Path, *, best: bool = False) -> list[str]:
    """Write what a LoRA run trained as an adapter of the model that it began with.

    Returns:
      The modules that have adapters.

    Raises:
      ValueError: the run has no adapters, or something that an adapter can't hold; nothing is written.
    """
    workdir = folders.existing(path)
    cfg = configs.read(workdir / folders.CONFIG)
    if cfg.tuning.kind != "lora":
        raise ValueError(f'{path}: tuning.kind="{cfg.tuning.kind}" has no adapter; "lora" has')
    config, tuning = configs.build(cfg, "model"), configs.build(cfg, "tuning")
    family, _ = huggingface.family_for(cfg.model.kind, config)
    checkpoints = Checkpointer(workdir / folders.CHECKPOINTS, configs.build(cfg, "checkpoint"))
    try:
        found = weights.restore(cfg, checkpoints, best=best)
    finally:
        checkpoints.close()
    if found is None:
        raise ValueError(f"{path} holds no checkpoint yet: train first")
    trained = outward.unrolled(partition.flatten(found.trained))
    low = peft_outward.Low(tuning.rank, tuning.alpha, tuning.dropout)
    return peft_outward.save(target, family, config, trained, low, cfg.init_from)


def configure(cfg: ConfigDict, adapter: peft.Adapter) -> ConfigDict:
    """A config of the model under an adapter, with the adapter's tuning and head.

    Raises:
      ValueError: it is an adapter of another model.
    """
    cfg = cfg.copy_and_resolve_references()
    cfg.init_from = os.path.abspath(cfg.init_from)
    if cfg.model.kind == "bert" and adapter.task in peft.HEADS:
        head, cfg.model.head = cfg.model.head, peft.HEADS[adapter.task]
        if "classifier.weight" in adapter.whole:
            cfg.model.num_labels = len(adapter.whole["classifier.weight"])
        elif cfg.model.head in ("sequence", "token") and cfg.model.head != head:
            raise ValueError(
                f"{adapter.where} is for classes, and neither it nor its model has a classifier"
            )
    config = configs.build(cfg, "model")
    family, _ = huggingface.family_for(cfg.model.kind, config)
    low, whole = peft.load(adapter, family, config)
    kernels = {
        one.ours.removesuffix("/kernel")
        for one in family.entries(config)
        if one.ours.endswith("/kernel")
    }
    rank = max(a.shape[1] for a, _, _ in low.values())
    scales = {scale for _, _, scale in low.values()}
    cfg.tuning = configs.section(
        "tuning",
        "lora",
        rank=rank,
        alpha=float(scales.pop() if len(scales) == 1 else 1.0) * rank,
        dropout=adapter.dropout,
        targets=patterns(set(low), kernels),
        also=tuple(f"^{re.escape(path)}$" for path in whole if path.split("/")[0] != "classifier"),
    )
    return cfg


def patterns(layers: set[str], all_of: set[str]) -> tuple[str, ...]:
    """Patterns that find these linear layers of all: by what they are called in a block, where that is enough."""
    short = {re.escape(path.rpartition("/block_")[2].partition("/")[2]) + "$" for path in layers}
    if {path for path in all_of if any(re.search(one, path) for one in short)} == layers:
        return tuple(sorted(short))
    return tuple(sorted(f"^{re.escape(path)}$" for path in layers))


def fill(cfg: ConfigDict, adapter: peft.Adapter) -> tuple[PyTree, str]:
    """What such a run has trained, and the digest of what it has not.

    Raises:
      ValueError: layers without a pair, or a fresh head that the adapter does not bring.
    """
    parts = weights.Split(cfg)
    config = configs.build(cfg, "model")
    family, _ = huggingface.family_for(cfg.model.kind, config)
    low, whole = peft.load(adapter, family, config)
    trained, base = weights.first(cfg, parts)
    leaves = partition.flatten(trained)
    new: dict[str, Any] = {path: jnp.asarray(array) for path, array in whole.items()}
    for layer, (a, b, scale) in low.items():
        wider = parts.tuning.config.rank - a.shape[1]
        factor = scale / parts.tuning.config.scale
        new[f"{layer}/lora_a"] = jnp.pad(a, ((0, 0), (0, wider)))
        new[f"{layer}/lora_b"] = jnp.pad(b if factor == 1 else b * factor, ((0, wider), (0, 0)))
    own = {path for path in leaves if path.startswith("classifier/")}  # may be the base model's
    wrong = {path for path in new if path in leaves and leaves[path].shape != new[path].shape}
    if wrong := sorted(wrong | ((leaves.keys() - own) ^ (new.keys() - own))):
        raise ValueError(f"{adapter.where} does not fit {cfg.init_from}: {', '.join(wrong[:8])}")
    leaves |= {path: jax.device_put(array, leaves[path].sharding) for path, array in new.items()}
    return partition.nest(leaves), weights.base_digest(base)
