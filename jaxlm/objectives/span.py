"""Where in a text an answer begins and ends, or that it has none: extractive question answering."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxlm.core import heads, numerics
from jaxlm.core.types import Array, Batch, ModelOutput
from jaxlm.objectives import token_nll

Config = token_nll.NoOptions


class Span(token_nll.TokenNLL):
    """Softmax over the places of a row for the beginning of an answer, and another for its end (Devlin et al. 2019,
    arXiv:1810.04805, sections 4.2 and 4.3), over those places only where an answer may be; theirs goes over all.

    Batch: what the model reads; allowed int32 [B, T], 1 at those places and at [CLS], which stands for no answer; targets
    int32 [B, 2], the two places; weights float32 [B, 2]. The model scores two numbers a token. Reports also `accuracy`, of
    both ends.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = ("allowed", "targets", "weights")
    reports_accuracy: ClassVar[bool] = True

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model's head is not one of tokens."""
        token_nll.require_head(model, "token", "span")
        super().__init__(config, model)

    def score(self, output: ModelOutput, batch: Batch) -> tuple[token_nll.Terms, token_nll.Report]:
        """As TokenNLL's, of both ends."""
        logits_B2T = heads.span_logits(output, batch["allowed"])
        return self.sums(numerics.token_stats(logits_B2T, batch["targets"]), batch["weights"])

    def answers(self, output: ModelOutput, batch: Batch) -> Array:
        """The likeliest beginning, and the likeliest end that is not before it, int32 [B, 2]."""
        logits_B2T = heads.span_logits(output, batch["allowed"])
        begin_B1 = jnp.argmax(logits_B2T[:, 0], axis=-1)[:, None]
        places_1T = jnp.arange(logits_B2T.shape[-1])[None]
        after_BT = jnp.where(places_1T >= begin_B1, logits_B2T[:, 1], heads.NEVER)
        ends_B1 = jnp.where(begin_B1 > 0, jnp.argmax(after_BT, axis=-1)[:, None], 0)
        return jnp.concatenate([begin_B1, ends_B1], axis=1).astype(jnp.int32)
