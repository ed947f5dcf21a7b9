"""Blank infilling (GLM, Du et al. 2022, arXiv:2103.10360, equation 1): the text of blanks, given what is around them.

Not the blanks, which are the data's (data/blanks.py).
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxlm.objectives import token_nll

Config = token_nll.Config


class BlankInfilling(token_nll.TokenNLL):
    """Every token of a blank, and its end, from the text with blanks, the blanks before it and its own beginning.

    Batch: source int32 [B, S], the text with blanks; tokens int32 [B, T], of each blank a start symbol and its tokens;
    positions and block_positions int32 [B, T], which blank that is and the place in it; targets int32 [B, T], its tokens
    and its end; weights. Reports also `accuracy`.
    """

    reports_accuracy: ClassVar[bool] = True

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model has no places in blanks."""
        why = "the text around the blanks is its source"
        token_nll.require_direction(model, "encoder_decoder", "blank_infilling", why)
        if "block_positions" not in token_nll.model_inputs(model):
            raise ValueError(
                f'objective.kind="blank_infilling": {type(model).__name__} does not read block_positions, without which '
                'no token says which blank it is in; model.kind="glm" does'
            )
        super().__init__(config, model)
