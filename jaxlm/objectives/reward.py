"""Reward models: a number for a text, learnt from which of two is better. What they are for is in reinforcement.py."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core import metrics
from jaxlm.core.types import Array
from jaxlm.objectives import segments
from jaxlm.objectives.preferences import CHOSEN, REJECTED, Preferences, report_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to choose."""


def bradley_terry(rewards_BS: Array) -> Array:
    """-log sigma(r_w - r_l), [B], of rewards [B, 2].

    Source: Ouyang et al., Training language models to follow instructions with human feedback, 2022, arXiv:2203.02155, eq. 1
    (of one pair; Bradley and Terry 1952).
    """
    return -jax.nn.log_sigmoid(rewards_BS[:, CHOSEN] - rewards_BS[:, REJECTED])


class Reward(Preferences):
    """Term: `preference`, see `bradley_terry`; a text's reward is what the value head says at its last token."""

    Config = Config
    kind: ClassVar[str] = "reward"

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model has no value head, or is not causal."""
        super().__init__(config, model)
        if not getattr(model.config, "value_head", False):
            raise ValueError(
                'objective.kind="reward" learns the number of a value head: set model.value_head=True'
            )

    def score(self, params, ctx, batch, output):
        last_BS = segments.last(batch, self.num_segments)
        rewards_BS = jnp.take_along_axis(output.aux["value_BT"], last_BS, axis=1)
        losses_B, count_B = bradley_terry(rewards_BS), self.counted(batch)
        term = metrics.weighted(losses_B, count_B).total
        return {"preference": term}, report_of(rewards_BS, losses_B, count_B)
