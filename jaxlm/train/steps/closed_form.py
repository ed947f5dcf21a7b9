"""What steps share that learn without a gradient (counting.py, em.py): what they have no use for is refused, not left out."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxlm.core.types import Objective
from jaxlm.train import optim as optimizers
from jaxlm.train.tuning.full import Full


def check(kind: str, objective: Objective, tuning: Any, optim: Any) -> None:
    """Only next tokens are learned, all of a model, without an optimizer.

    Args:
      kind: the step's, for messages.
      objective: the run's; what it adds to the likelihood of the tokens would be left out.
      tuning: what trains.
      optim: the config's section, or map of sections; what it says would not happen.

    Raises:
      ValueError: one of them asks for anything else.
    """
    if type(tuning) is not Full:
        raise ValueError(f'step.kind="{kind}" learns all of a model: tuning.kind="full"')
    _check_objective(kind, objective)
    _check_optim(kind, optim)


def _check_objective(kind: str, objective: Objective) -> None:
    found = getattr(objective, "kind", type(objective).__name__)
    if found != "causal_lm":
        raise ValueError(f'step.kind="{kind}" needs objective.kind="causal_lm", not "{found}"')
    for name in ("label_smoothing", "z_loss"):
        if value := getattr(objective.config, name):
            raise ValueError(
                f'objective.{name}={value} means nothing to step.kind="{kind}": set it to 0'
            )


def _check_optim(kind: str, config: Any) -> None:
    default = optimizers.Config()
    if not isinstance(config, optimizers.Config):
        raise ValueError(f'step.kind="{kind}" has no optimizer: leave the section optim as it is')
    for field in dataclasses.fields(config):
        if (value := getattr(config, field.name)) != getattr(default, field.name):
            raise ValueError(
                f'step.kind="{kind}" has no optimizer, so optim.{field.name}={value!r} would do nothing: leave it '
                f"{getattr(default, field.name)!r}"
            )
