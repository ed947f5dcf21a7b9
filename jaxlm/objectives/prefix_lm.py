"""Prefix language modelling (Raffel et al. 2020, arXiv:1910.10683, section 3.2.1): what follows a prefix seen both ways."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxlm.objectives import token_nll

Config = token_nll.Config


class PrefixLM(token_nll.TokenNLL):
    """Every token after the prefix from all those before it, the prefix itself attended to in both directions.

    Batch: tokens int32 [B, T]; prefix_lengths int32 [B]; targets int32 [B, T], already shifted; weights, which the
    data sets to 0 where the target lies inside the prefix, since the model sees it there.
    """

    batch_keys: ClassVar[tuple[str, ...]] = ("targets", "weights", "prefix_lengths")

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model is not causal, or knows no prefixes."""
        why = "what follows the prefix must not be seen ahead"
        token_nll.require_direction(model, "causal", "prefix_lm", why)
        if "prefix_lengths" not in token_nll.model_inputs(model):
            raise ValueError(
                f'objective.kind="prefix_lm": {type(model).__name__} does not read prefix_lengths'
            )
        super().__init__(config, model)
