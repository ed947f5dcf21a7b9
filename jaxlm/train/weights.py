"""The weights of a run for whoever uses its model: from a checkpoint, and from where the run has what did not train."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from jaxlm.core.types import PyTree
from jaxlm.train import assembly, initial
from jaxlm.train.checkpoint import Checkpointer
from jaxlm.train.leaves import state_digest
from jaxlm.train.steps.gradient import fresh


class Restored(NamedTuple):
    """A run's parameters in two parts."""

    tuning: Any
    trained: PyTree
    base: PyTree  # what did not train; {} where all did
    step: int
    base_digest: str


def load(
    cfg: ConfigDict, checkpoints: Checkpointer, *, best: bool = False
) -> tuple[PyTree, int] | None:
    """A run's parameters, adapters added to their kernels, and their step; averaged ones where the run had them.

    Args:
      cfg: the run's.
      checkpoints: of the run.
      best: the best checkpoint instead of the newest.

    Returns:
      None where there is no checkpoint yet.

    Raises:
      ValueError: what did not train is not there any more, or not what it was.
    """
    found = restore(cfg, checkpoints, best=best)
    return None if found is None else (found.tuning.folded(found.trained, found.base), found.step)


def restore(cfg: ConfigDict, checkpoints: Checkpointer, *, best: bool = False) -> Restored | None:
    """As `load`, in the two parts that training has them in."""
    parts = Split(cfg)
    read = checkpoints.restore_best if best else checkpoints.restore
    averaged = "ema_decay" in cfg.step and cfg.step.ema_decay
    restored = read({"ema" if averaged else "params": parts.trained}, partial=True)
    if restored is None:
        return None
    state, extra, step = restored
    (trained,) = state.values()
    if not jax.tree.leaves(parts.base):
        return Restored(parts.tuning, trained, {}, step, "")
    _, base = first(cfg, parts)
    if (digest := base_digest(base)) != extra["base"]:
        raise ValueError(
            f"init_from={cfg.init_from or '(none)'}: the weights that did not train are not those that this run was "
            "started with, and its checkpoint holds only those that did"
        )
    return Restored(parts.tuning, trained, base, step, digest)


def base_digest(base: PyTree) -> str:
    """What a checkpoint remembers of the part that did not train."""
    return state_digest({"base": base})


class Split:
    """A config's model with the shapes of what trains and of what doesn't."""

    def __init__(self, cfg: ConfigDict):
        self.model = assembly.make_model(cfg)
        self.shapes = assembly.model_shapes(cfg, self.model)
        self.tuning = assembly.make_tuning(cfg, self.shapes)
        self.trained, self.base = assembly.split_shapes(self.tuning, self.shapes)


def first(cfg: ConfigDict, parts: Split) -> tuple[PyTree, PyTree]:
    """What trains and what doesn't, as the run's first state has it.

    Raises:
      ValueError: `init_from` is not there any more.
    """
    key, _ = jax.random.split(jax.random.key(cfg.seed))
    batch = assembly.input_shapes(parts.model)
    params = jax.jit(lambda key: nn.unbox(fresh(parts.model, key, batch)))(key)
    trained, base = parts.tuning.split(params, key)
    if not cfg.init_from:
        return trained, base
    try:
        return initial.overlaid(trained, base, cfg)[:2]
    except ValueError as error:
        raise ValueError(
            f"init_from: {error} (this run's checkpoint holds only what was trained; the rest is read from there)"
        ) from error
