"""Ways of writing on: from a model's `init_cache` and `extend` to tokens. Texts are language_model.py's."""

from __future__ import annotations

METHODS = {
    "sample": "jaxlm.decode.sampling:Sampling",
    "beam": "jaxlm.decode.beam:Beam",
    "contrastive": "jaxlm.decode.contrastive:Contrastive",
}
