"""What a head's logits mean that scores neither tokens nor classes: choices of a row, ends of a span.

Losses and evaluators read them here, so that they mean the same.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxlm.core.types import Array, ModelOutput

NEVER = -1e9
"""The logit of what can't be chosen; finite, so that rows of filling have finite losses, which weigh nothing."""


def choice_logits(output: ModelOutput, starts_BC: Array) -> Array:
    """The score of every choice, float32 [B, C].

    Args:
      output: of a head with one number a token.
      starts_BC: int32, where each choice's sequence begins in its row; -1: there is no such choice.
    """
    scores_BT = output.logits()[..., 0]
    picked_BC = jnp.take_along_axis(scores_BT, jnp.maximum(starts_BC, 0), axis=1)
    return jnp.where(starts_BC >= 0, picked_BC, NEVER)


def span_logits(output: ModelOutput, allowed_BT: Array) -> Array:
    """How likely a span begins and ends at each place, float32 [B, 2, T].

    Args:
      output: of a head with two numbers a token.
      allowed_BT: int32, 0 where no span begins or ends.
    """
    return jnp.where(allowed_BT[:, None] > 0, jnp.moveaxis(output.logits(), -1, 1), NEVER)
