"""Which of several labels a text has, each for itself: multi-label classification."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxlm.core import metrics
from jaxlm.core.types import Array, Batch, ModelOutput
from jaxlm.objectives import token_nll

Config = token_nll.NoOptions


class MultiLabel(token_nll.TokenNLL):
    """Term `nll`: binary cross-entropy, the mean over labels of -log sigmoid(s) where a text has the label, and of
    -log sigmoid(-s) where it hasn't (as torch's BCEWithLogitsLoss).

    Batch: what the model reads; targets float32 [B, C], 0 or 1, and weights float32 [B, C]. Reports also `accuracy`, the
    share of labels that are right.
    """

    Config = Config

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model's head is not one of sequences."""
        token_nll.require_head(model, "sequence", "multi_label")
        super().__init__(config, model)

    def score(self, output: ModelOutput, batch: Batch) -> tuple[token_nll.Terms, token_nll.Report]:
        """As TokenNLL's, of every label."""
        logits_BC, targets_BC = output.logits()[:, 0], batch["targets"]
        nll = jnp.logaddexp(0.0, logits_BC) - targets_BC * logits_BC
        right = (logits_BC > 0) == (targets_BC > 0)
        loss = metrics.weighted(nll, batch["weights"])
        accuracy = metrics.weighted(right.astype(jnp.float32), batch["weights"])
        return {"nll": loss.total}, {"loss": loss, "accuracy": accuracy}

    def answers(self, output: ModelOutput, batch: Batch) -> Array:
        """1 for every label that is more likely than not, int32 [B, C]."""
        return (output.logits()[:, 0] > 0).astype(jnp.int32)
