"""What a config leaves to data and device is filled in, and rules across its sections are checked."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from jaxlm import config as configs
from jaxlm.core.types import Task
from jaxlm.data import corruption
from jaxlm.data.tasks import MADE_FOR
from jaxlm.objectives import OBJECTIVES
from jaxlm.objectives.token_nll import FITTING
from jaxlm.train import initial


def resolve(cfg: ConfigDict, task: Task) -> FrozenConfigDict:
    """A frozen copy with what only data and device know filled in; checks rules across sections.

    Raises:
      ValueError: a rule is broken; the keys are named.
    """
    cfg = cfg.copy_and_resolve_references()
    initial.absolute(cfg)
    if cfg.init_layers and not cfg.init_from:
        raise ValueError(
            f"init_layers={cfg.init_layers} are layers of a model: name it in init_from"
        )
    for name in ("num_steps", "batch_size", "log_every"):
        if cfg[name] < 1:
            raise ValueError(f"{name}={cfg[name]} must be at least 1")
    for name in (
        "micro_batch_size",
        "eval_every",
        "checkpoint_every",
        "sample_every",
        "sample_tokens",
    ):
        if cfg[name] < 0:
            raise ValueError(f"{name}={cfg[name]} must be 0 or more")
    model = cfg.model
    if "vocab_size" in model:
        if cfg.init_from:
            initial.check_vocabulary(cfg, task.info.vocab_size)
        elif model.vocab_size not in (0, task.info.vocab_size):
            raise ValueError(
                f"model.vocab_size={model.vocab_size}, but the tokenizer has {task.info.vocab_size}: leave it 0"
            )
        model.vocab_size = model.vocab_size or task.info.vocab_size
    if "mask_id" in model:
        model.mask_id = _mask_id(cfg, task)
    if "separator" in model:
        model.separator = _separator(cfg, task)
    if "num_buckets" in model:
        model.num_buckets = _num_buckets(cfg)
    if task.info.labels or task.info.num_outputs:
        model.num_labels = _num_labels(cfg, len(task.info.labels) or task.info.num_outputs)
    if task.info.parts and "tasks" in cfg.objective:
        _fill_tasks(cfg, {name: len(info.labels) for name, info in task.info.parts.items()})
    if "num_steps" in cfg.objective:
        cfg.objective.num_steps = _num_steps(cfg)
    if "deviation" in cfg.data:
        cfg.data.mean, cfg.data.deviation = task.info.scale
    _check_pairing(cfg)
    _check_direction(cfg)
    _check_streams(cfg)
    if "max_len" in model and "seq_len" in cfg.data and cfg.data.seq_len > model.max_len:
        raise ValueError(
            f"data.seq_len={cfg.data.seq_len} is longer than model.max_len={model.max_len}"
        )
    if "dtype" in model and model.dtype == "auto":
        model.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return FrozenConfigDict(cfg)


def _num_labels(cfg: ConfigDict, number: int) -> int:
    """The classes of the data, or the numbers that it asks for, which a model's head must have been made for."""
    if "num_labels" not in cfg.model:
        raise ValueError(
            f'data.kind="{cfg.data.kind}" has {number} classes, and model.kind="{cfg.model.kind}" has no head for them '
            "(no model.num_labels)"
        )
    if cfg.model.num_labels not in (0, number):
        raise ValueError(
            f"model.num_labels={cfg.model.num_labels}, but the data has {number} classes: leave it 0"
        )
    return number


def _num_steps(cfg: ConfigDict) -> int:
    """Of the run, for an objective whose terms change over it."""
    if cfg.objective.num_steps not in (0, cfg.num_steps):
        raise ValueError(
            f"objective.num_steps={cfg.objective.num_steps}, but num_steps={cfg.num_steps}: leave it 0"
        )
    return cfg.num_steps


def _fill_tasks(cfg: ConfigDict, counts: Mapping[str, int]) -> None:
    """The tasks of a mixture, and how many labels each has."""
    found = {"tasks": tuple(counts), "num_labels": tuple(counts.values())}
    for key, values in found.items():
        if tuple(cfg.objective[key]) not in ((), values):
            raise ValueError(
                f"objective.{key}={tuple(cfg.objective[key])}, but the data has {values}: leave it ()"
            )
        cfg.objective[key] = values


def _mask_id(cfg: ConfigDict, task: Task) -> int:
    """The tokenizer's [MASK], -1 where it has none: data without blanks need none."""
    found = -1
    if task.info.tokenizer is not None:
        found = task.info.tokenizer.special_ids().get("[MASK]", -1)
    if cfg.model.mask_id not in (-1, found):
        has = "has none" if found < 0 else f"has {found}"
        raise ValueError(f"model.mask_id={cfg.model.mask_id}, but the tokenizer {has}: leave it -1")
    return found


def _separator(cfg: ConfigDict, task: Task) -> int:
    """The token between texts, -1 where the tokenizer has none."""
    found = -1
    if task.info.tokenizer is not None and task.info.tokenizer.eos_id is not None:
        found = task.info.tokenizer.eos_id
    if cfg.model.separator not in (-1, found):
        raise ValueError(
            f"model.separator={cfg.model.separator}, but the tokenizer's end of a text is {found}: leave it -1"
        )
    return found


def _num_buckets(cfg: ConfigDict) -> int:
    """The rows that the data's character n-grams are hashed to."""
    found = cfg.data.num_buckets if "num_buckets" in cfg.data else 0
    if cfg.model.num_buckets not in (0, found):
        raise ValueError(
            f"model.num_buckets={cfg.model.num_buckets}, but the data has {found}: leave it 0"
        )
    return found


def _check_pairing(cfg: ConfigDict) -> None:
    """Data and objective of ours mean the same targets: else a model that sees both sides is given its answers.

    And the data begin a decoder's input as its model expects it.
    """
    data, objective = cfg.data.kind, cfg.objective.kind
    if data not in MADE_FOR:
        return
    if objective in OBJECTIVES and objective not in MADE_FOR[data]:
        fitting = " or ".join(f'"{name}"' for name in MADE_FOR[data])
        raise ValueError(
            f'objective.kind="{objective}" does not fit data.kind="{data}", whose targets are for {fitting}'
        )
    if "decoder_start_id" in cfg.model and cfg.model.decoder_start_id != corruption.START_ID:
        raise ValueError(
            f'model.decoder_start_id={cfg.model.decoder_start_id}, but data.kind="{data}" begins what a decoder '
            f"reads with {corruption.START_ID}"
        )


def _check_streams(cfg: ConfigDict) -> None:
    """What is carried from batch to batch is a row's own: row and stream are the same, but where a text is counted whole."""
    if "num_streams" not in cfg.data or not cfg.data.carry or cfg.step.kind == "counting":
        return
    if cfg.data.num_streams != cfg.batch_size:
        raise ValueError(
            f"data.num_streams={cfg.data.num_streams} must be batch_size={cfg.batch_size}, a stream for each row that "
            "carries a state on (0 means that)"
        )


ANY_DIRECTION = ("distillation", "multi_task")
"""Objectives that take the targets of several others, and any model."""


def _check_direction(cfg: ConfigDict) -> None:
    """As those others do: a model that sees both sides is not given its answers."""
    if cfg.objective.kind not in ANY_DIRECTION:
        return
    direction = getattr(configs.implementation(cfg, "model"), "direction", "causal")
    fitting = FITTING.get(direction, "classification")
    mixed = cfg.data.kind == "mixture"
    for data in [part.kind for part in cfg.data.tasks.values()] if mixed else [cfg.data.kind]:
        if data in MADE_FOR and not any(name in fitting for name in MADE_FOR[data]):
            raise ValueError(
                f'data.kind="{data}" has targets for {MADE_FOR[data][0]}, and model.kind="{cfg.model.kind}" is '
                f"{direction}: for it {fitting}"
            )
