"""A number for each text: ratings, similarities."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxlm.core import metrics
from jaxlm.core.types import Array, Batch, ModelOutput
from jaxlm.objectives import token_nll

Config = token_nll.NoOptions


class Regression(token_nll.TokenNLL):
    """Term `mse`: the squared error of the model's one number.

    Batch: what the model reads; targets and weights float32 [B, 1]; targets as the task standardised them
    (`TaskInfo.scale`), so that 1 is the error of always answering the mean.
    """

    Config = Config

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model's head is not one of sequences."""
        token_nll.require_head(model, "sequence", "regression")
        super().__init__(config, model)
        self.terms = {"mse": 1.0} | self.aux_terms

    def score(self, output: ModelOutput, batch: Batch) -> tuple[token_nll.Terms, token_nll.Report]:
        """The sum of squared errors."""
        error = jnp.square(output.logits()[:, 0] - batch["targets"])
        loss = metrics.weighted(error, batch["weights"])
        return {"mse": loss.total}, {"loss": loss}

    def answers(self, output: ModelOutput, batch: Batch) -> Array:
        """The number, float32 [B, 1]."""
        return output.logits()[:, 0]
