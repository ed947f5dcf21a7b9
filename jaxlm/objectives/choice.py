"""Which of a row's choices is right: multiple choice."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxlm.core import heads, numerics
from jaxlm.core.types import Array, Batch, ModelOutput
from jaxlm.objectives import token_nll

Config = token_nll.NoOptions


class Choice(token_nll.TokenNLL):
    """Softmax over the choices of each row, each scored at its own [CLS] (Devlin et al. 2019, arXiv:1810.04805,
    section 4.4, where every choice is a row).

    Batch: what the model reads; starts int32 [B, C], where each choice begins, -1 for none; targets int32 and weights float32
    [B, 1]. The model scores one number a token. Reports also `accuracy`.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = ("starts", "targets", "weights")
    reports_accuracy: ClassVar[bool] = True

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model's head is not one of tokens."""
        token_nll.require_head(model, "token", "choice")
        super().__init__(config, model)

    def score(self, output: ModelOutput, batch: Batch) -> tuple[token_nll.Terms, token_nll.Report]:
        """As TokenNLL's, of the choices."""
        logits_BC = heads.choice_logits(output, batch["starts"])
        stats = numerics.token_stats(logits_BC[:, None], batch["targets"])
        return self.sums(stats, batch["weights"])

    def answers(self, output: ModelOutput, batch: Batch) -> Array:
        """The number of the likeliest choice, int32 [B, 1]."""
        logits_BC = heads.choice_logits(output, batch["starts"])
        return jnp.argmax(logits_BC, axis=1, keepdims=True).astype(jnp.int32)
