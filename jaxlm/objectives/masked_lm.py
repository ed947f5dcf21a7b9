"""Masked language modelling (BERT, Devlin et al. 2019, arXiv:1810.04805): the original tokens at corrupted places.

Not the corruption, which is the data's (data/corruption.py).
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxlm.objectives import token_nll

Config = token_nll.Config


class MaskedLM(token_nll.TokenNLL):
    """The tokens chosen by the corruption from all others.

    Batch: tokens int32 [B, T], corrupted; targets int32 [B, T], the original at every place; weights, 1 at the chosen
    places (those left as they were included), 0 elsewhere. Next-sentence prediction is left out, as in RoBERTa
    (arXiv:1907.11692). Reports also `accuracy`.
    """

    reports_accuracy: ClassVar[bool] = True

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model is not bidirectional, or its head is not one of tokens."""
        why = "the tokens on both sides are the context"
        token_nll.require_direction(model, "bidirectional", "masked_lm", why)
        head = getattr(getattr(model, "config", None), "head", None)
        if head not in (None, "mlm"):
            raise ValueError(f'objective.kind="masked_lm" needs model.head="mlm", not "{head}"')
        super().__init__(config, model)
