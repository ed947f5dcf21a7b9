"""Optimizers: a config becomes a learning-rate schedule and an optax chain.

Every chain is: clip by the global norm, precondition, add decoupled weight decay, scale by the
schedule. Not here: averaging of weights and accumulation of gradients, which are the step's.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlm.core import partition
from jaxlm.train import depth, muon

KINDS = ("adamw", "adafactor", "lion", "sgd", "muon")
SCHEDULES = ("constant", "cosine", "linear", "wsd", "inverse_sqrt")

Schedule = Callable[[Any], jax.Array]
"""Update number, counted from 0, to learning rate, float32 []."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One optimizer; a field that not all kinds or schedules read names those that do."""

    kind: str = "adamw"
    learning_rate: float = 1e-3  # peak
    schedule: str = "cosine"
    warmup_steps: int = 100  # updates of linear warm-up
    decay_fraction: float = 0.2  # wsd: the last part of the run, decaying
    min_lr_ratio: float = 0.1  # cosine, linear, wsd: last learning rate / peak
    clip_norm: float = 1.0  # of the whole gradient; 0 = off
    weight_decay: float = 0.1  # x learning rate; kernels, adapters and embeddings only
    layer_decay: float = (
        1.0  # a layer's rate is that of the layer above it times this; 1: all alike
    )
    b1: float = 0.9  # adamw, lion, muon (its AdamW part)
    b2: float = 0.95  # adamw, lion, muon (its AdamW part)
    eps: float = 1e-8  # adamw, muon
    momentum: float = 0.95  # sgd (0 = none), muon
    nesterov: bool = True  # sgd, muon
    adam_learning_rate: float = 3e-3  # muon: peak for embeddings, head, gains and biases
    consistent_rms: float = 0.0  # muon: RMS of an update / rate (0.2 is like AdamW); 0 = by width
    ns_steps: int = 5  # muon: Newton-Schulz iterations

    def __post_init__(self):
        def check(ok: bool, field: str, accepted: str) -> None:
            if not ok:
                raise ValueError(f"optim.{field}={getattr(self, field)!r} must be {accepted}")

        check(self.kind in KINDS, "kind", f"one of {', '.join(KINDS)}")
        check(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        for field in ("learning_rate", "adam_learning_rate", "eps"):
            check(0 < getattr(self, field) < math.inf, field, "positive and finite")
        for field in ("warmup_steps", "clip_norm", "weight_decay", "consistent_rms"):
            check(0 <= getattr(self, field) < math.inf, field, "at least 0 and finite")
        for field in ("b1", "b2", "momentum"):
            check(0 <= getattr(self, field) < 1, field, "in [0, 1)")
        for field in ("decay_fraction", "layer_decay"):
            check(0 < getattr(self, field) <= 1, field, "in (0, 1]")
        check(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", "in [0, 1]")
        check(self.ns_steps >= 1, "ns_steps", "at least 1")


def build(
    config: Config | Mapping[str, Config], num_steps: int, params: Any
) -> tuple[optax.GradientTransformation, Schedule]:
    """Build the optimizer of a run.

    Args:
      config: one section, or name pattern -> section. A pattern is a regular expression, searched
        in a leaf's path such as "blocks/attn/q/kernel"; the first that matches takes the leaf.
      num_steps: updates in the run, where the schedules end.
      params: the parameters, or their shapes; only names and shapes are read.

    Returns:
      The optax transformation, and the learning rate at each update (of a map's first section;
      with Muon, of the matrices).

    Raises:
      ValueError: num_steps is not positive, a leaf matches no pattern, a pattern takes no leaf, or
        the sections of a map differ in clip_norm (the norm is taken over all of them together).
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    depths = depth.of_all(partition.flatten(params))
    if isinstance(config, Config):
        core, first = _optimizer(config, num_steps, depths), config
    else:
        labels = _pattern_labels(config, params)
        cores = {p: _optimizer(c, num_steps, depths) for p, c in config.items()}
        core = optax.partition(cores, labels)
        first = next(iter(config.values()))
        if any(c.clip_norm != first.clip_norm for c in config.values()):
            found = {pattern: c.clip_norm for pattern, c in config.items()}
            raise ValueError(f"optim.*.clip_norm={found} must be equal in all sections")
    clip = [optax.clip_by_global_norm(first.clip_norm)] if first.clip_norm else []
    return optax.chain(*clip, core), make_schedule(first, first.learning_rate, num_steps)


def make_schedule(config: Config, peak: float, num_steps: int) -> Schedule:
    """The learning rate of update s = 0, 1, ..., num_steps - 1.

    Linear warm-up to `peak`, reached at update warmup_steps - 1 (so the first update is not lost),
    then by `config.schedule`, with m = min_lr_ratio and p running from 0 to 1 over what is left:
    constant 1; cosine m + (1 - m)(1 + cos(pi p)) / 2; linear 1 - (1 - m) p; wsd 1, then linear to
    m over the last decay_fraction of the run; inverse_sqrt sqrt(max(warmup_steps, 1) / (s + 1)).

    Source: cosine, Loshchilov and Hutter, SGDR, 2017, arXiv:1608.03983; wsd, Hu et al., MiniCPM,
    2024, arXiv:2404.06395, with the linear decay of Hägele et al., 2024, arXiv:2405.18392;
    inverse_sqrt, Vaswani et al., Attention Is All You Need, 2017, arXiv:1706.03762, section 5.3.
    """
    warmup, floor = config.warmup_steps, config.min_lr_ratio
    start = warmup  # of the decay
    if config.schedule == "wsd":
        start = max(warmup, num_steps - round(config.decay_fraction * num_steps))

    def schedule(step) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        done = jnp.clip((step - start) / max(num_steps - start, 1), 0.0, 1.0)
        if config.schedule == "constant":
            factor = jnp.ones_like(step)
        elif config.schedule == "cosine":
            factor = floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * done))
        elif config.schedule == "inverse_sqrt":
            factor = jnp.sqrt(max(warmup, 1) / jnp.maximum(step + 1, max(warmup, 1)))
        else:
            factor = 1 - (1 - floor) * done
        return peak * factor * jnp.minimum(1.0, (step + 1) / max(warmup, 1))

    return schedule


def decay_mask(params: Any) -> Any:
    """A tree of bools: weight decay is for kernels, adapters and embeddings that are matrices in a layer."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            _names(path)[-1] in ("kernel", "embedding", *partition.LOW_RANK)
            and _layer_ndim(_names(path), x) >= 2
        ),
        params,
    )


def muon_labels(params: Any) -> Any:
    """A tree of "muon" (matrices inside the model, routers too) and "adam" (embeddings, head, gains, biases)."""

    def label(path, x) -> str:
        names = _names(path)
        inside = names[-1] == "kernel" and names[0] != "head" and _layer_ndim(names, x) == 2
        return "muon" if inside else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _names(path) -> list[str]:
    return partition.path_of(path).split("/")


def _layer_ndim(names: list[str], x: Any) -> int:
    """Axes of the leaf in one layer and expert: scanned layers ("blocks") and experts are stacked on axes of their own."""
    return x.ndim - ("blocks" in names) - ("experts" in names)


def _pattern_labels(config: Mapping[str, Config], params: Any) -> Any:
    def label(path, _) -> str:
        name = "/".join(_names(path))
        for pattern in config:
            if re.search(pattern, name):
                return pattern
        raise ValueError(f"optim: no pattern of {list(config)} matches the parameter {name!r}")

    for pattern in config:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"optim: {pattern!r} is not a regular expression: {error}") from None
    labels = jax.tree_util.tree_map_with_path(label, params)
    if unused := set(config) - set(jax.tree.leaves(labels)):
        raise ValueError(f"optim: the patterns {sorted(unused)} take no parameter")
    return labels


def _optimizer(
    config: Config, num_steps: int, depths: Mapping[str, np.ndarray]
) -> optax.GradientTransformation:
    by_layer = [_scale_by_layer(config.layer_decay, depths)] if config.layer_decay < 1 else []

    def finish(precondition, peak: float) -> optax.GradientTransformation:
        return optax.chain(
            precondition,
            optax.add_decayed_weights(config.weight_decay, decay_mask),
            *by_layer,
            optax.scale_by_learning_rate(make_schedule(config, peak, num_steps)),
        )

    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    if config.kind == "muon":
        parts = {
            "muon": finish(muon.precondition(config), config.learning_rate),
            "adam": finish(adam, config.adam_learning_rate),
        }
        return optax.partition(parts, muon_labels)
    if config.kind == "adamw":
        return finish(adam, config.learning_rate)
    if config.kind == "lion":
        return finish(optax.scale_by_lion(config.b1, config.b2), config.learning_rate)
    if config.kind == "adafactor":
        return finish(_adafactor(), config.learning_rate)
    trace = optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    return finish(trace, config.learning_rate)


def _scale_by_layer(decay: float, depths: Mapping[str, np.ndarray]) -> optax.GradientTransformation:
    """Updates times decay ** (layers behind them), of those that train.

    Source: Howard and Ruder, ULMFiT, 2018, arXiv:1801.06146, section 3.2 (decay 1 / 2.6); with Adam: Clark et al., ELECTRA,
    2020, arXiv:2003.10555, table 7.
    """

    def scaled(path, update: jax.Array) -> jax.Array:
        power = decay ** depths[partition.path_of(path)].astype(np.float32)
        return update * jnp.asarray(power, update.dtype)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates)
    )


def _adafactor() -> optax.GradientTransformation:
    """Shazeer and Stern, Adafactor, 2018, arXiv:1804.04235, algorithm 4; no momentum.

    `optax.adafactor` is these parts too, but its weight decay is not scaled by the learning rate.
    """
    return optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
