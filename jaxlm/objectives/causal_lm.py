"""Next-token prediction, with optional label smoothing and z-loss."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxlm.core.types import Batch, LossContext, LossOut, PyTree
from jaxlm.objectives import token_nll

Config = token_nll.Config


class CausalLM(token_nll.TokenNLL):
    """Every token from those before it. Batch: tokens int32 [B, T]; targets int32 [B, T], already shifted; weights."""

    kind: ClassVar[str] = "causal_lm"

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model is not causal."""
        why = "it would see the tokens that it is to predict"
        token_nll.require_direction(model, "causal", self.kind, why)
        super().__init__(config, model)

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """As `TokenNLL`; a batch with a prefix that is seen both ways is refused."""
        if "prefix_lengths" in batch:
            raise ValueError(
                f'objective.kind="{self.kind}": data.kind gives prefix_lengths, and inside a prefix a token sees those '
                'after it. Take objective.kind="prefix_lm"'
            )
        return super().__call__(params, ctx, batch)
