"""One sequence from another: translation, summaries, and T5's corrupted spans (arXiv:1910.10683), whose data makes them a
sequence like any other.
"""

from __future__ import annotations

from typing import Any

from jaxlm.objectives import token_nll

Config = token_nll.Config


class Seq2Seq(token_nll.TokenNLL):
    """Every target from those before it and from the whole source.

    Batch: source int32 [B, S], what the encoder reads; tokens int32 [B, T], what the decoder reads, the targets shifted
    right behind a start symbol; targets int32 [B, T]; weights.
    """

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model has no encoder and decoder."""
        why = "the source is read by an encoder"
        token_nll.require_direction(model, "encoder_decoder", "seq2seq", why)
        super().__init__(config, model)
