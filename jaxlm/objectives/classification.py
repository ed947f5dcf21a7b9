"""Classes of whole sequences or of every token: a class is a token of a small vocabulary."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxlm.objectives import token_nll

Config = token_nll.Config


class Classification(token_nll.TokenNLL):
    """The class of each sequence or token, from a model of any direction.

    Batch: what the model reads; targets int32 and weights float32, [B, 1] for sequences, [B, T] for tokens, as the model's
    head scores them. Label smoothing spreads over the classes. Reports also `accuracy`.
    """

    reports_accuracy: ClassVar[bool] = True

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model's head is not one of classes."""
        head = getattr(getattr(model, "config", None), "head", None)
        if head not in (None, "sequence", "token"):
            raise ValueError(
                f'objective.kind="classification" needs model.head="sequence" or "token", not "{head}"'
            )
        super().__init__(config, model)
