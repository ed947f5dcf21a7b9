"""The weights of a run for whoever uses its model: from a checkpoint, and from where the run has what did not train."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from jaxlm.core.types import PyTree
from jaxlm.train import assembly, initial
from jaxlm.train.checkpoint import Checkpointer, state_digest
from jaxlm.train.steps.gradient import fresh


def load(
    cfg: ConfigDict, checkpoints: Checkpointer, *, best: bool = False, fold: bool = True
) -> tuple[PyTree, int] | None:
    """A run's parameters as its model is called with them, and their step; averaged ones where the run had them.

    Args:
      cfg: the run's.
      checkpoints: of the run.
      best: the best checkpoint instead of the newest.
      fold: adapters are added to their kernels, not put beside them.

    Returns:
      None where there is no checkpoint yet.

    Raises:
      ValueError: what did not train is not there any more, or not what it was.
    """
    parts = Split(cfg)
    restore = checkpoints.restore_best if best else checkpoints.restore
    averaged = "ema_decay" in cfg.step and cfg.step.ema_decay
    restored = restore({"ema" if averaged else "params": parts.trained}, partial=True)
    if restored is None:
        return None
    state, extra, step = restored
    (trained,) = state.values()
    base = _base(cfg, parts, extra) if jax.tree.leaves(parts.base) else {}
    merge = parts.tuning.folded if fold else parts.tuning.merge
    return merge(trained, base), step


class Split:
    """A config's model with the shapes of what trains and of what doesn't."""

    def __init__(self, cfg: ConfigDict):
        self.model = assembly.make_model(cfg)
        self.shapes = assembly.model_shapes(cfg, self.model)
        self.tuning = assembly.make_tuning(cfg, self.shapes)
        self.trained, self.base = assembly.split_shapes(self.tuning, self.shapes)


def _base(cfg: ConfigDict, parts: Split, extra: dict[str, Any]) -> PyTree:
    """What did not train, as the run's first state had it."""
    key, _ = jax.random.split(jax.random.key(cfg.seed))
    batch = assembly.input_shapes(parts.model)
    params = jax.jit(lambda key: nn.unbox(fresh(parts.model, key, batch)))(key)
    trained, base = parts.tuning.split(params, key)
    if cfg.init_from:
        trained, base, _ = initial.overlaid(trained, base, cfg)
    if state_digest({"base": base}) != extra["base"]:
        raise ValueError(
            f"init_from={cfg.init_from or '(none)'}: the weights that did not train are not those that this run was started "
            "with, and its checkpoint holds only those that did"
        )
    return base
