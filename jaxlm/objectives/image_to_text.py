"""Texts of images: captions, and classes, which are captions that name them."""

from __future__ import annotations

from typing import Any

from jaxlm.objectives import token_nll

Config = token_nll.Config


class ImageToText(token_nll.TokenNLL):
    """Every target from those before it and from the whole image.

    Batch: image float32 [B, height, width, channels]; tokens int32 [B, T], the targets shifted right behind a start
    symbol; targets int32 [B, T]; weights. Source: Tsimpoukelli et al. 2021, Frozen, arXiv:2106.13884, equation 1.
    """

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model reads no image."""
        if "image" not in token_nll.model_inputs(model):
            raise ValueError(
                f'objective.kind="image_to_text" needs a model that reads images, and {type(model).__name__} reads none: '
                'model.kind="vlm" does'
            )
        super().__init__(config, model)
