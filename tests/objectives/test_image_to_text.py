"""Which models write of images, by a case that is computed by hand."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import LossContext
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.vlm import VLM, VLMConfig
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.image_to_text import Config, ImageToText
from jaxlm.objectives.masked_lm import MaskedLM


class Brightness(nn.Module):
    """Scores token 1 by the image's sum, token 0 by nothing."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "image")
    optional_inputs: ClassVar[tuple[str, ...]] = ()

    def __call__(self, tokens, image, *, train=False):
        total = jnp.broadcast_to(image.sum((1, 2, 3))[:, None, None], (*tokens.shape, 1))
        return NeuralOutput(total, jnp.array([[0.0, 1.0]]), {}, vocab_size=2)


def test_a_loss_by_hand():
    """Images of sum 0 and ln 3: token 1 has probability 1/2, and 3/4."""
    objective = ImageToText(Config(), Brightness())
    batch = {
        "tokens": np.zeros((2, 3), np.int32),
        "image": np.float32([[[[0.0]]], [[[np.log(3)]]]]),
        "targets": np.array([[1, 0, 0], [1, 0, 1]], np.int32),
        "weights": np.float32([[1, 1, 0], [1, 0.5, 0]]),
    }
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    out = objective({}, ctx, batch)
    expected = 2 * np.log(2) + np.log(4 / 3) + 0.5 * np.log(4)
    np.testing.assert_allclose(out.sums["nll"], expected, rtol=1e-6)
    assert float(objective.weights(batch)["nll"]) == 3.5


def test_what_reads_no_image_is_refused_and_a_vlm_is_sent_here():
    with pytest.raises(ValueError, match='GPT reads none: model.kind="vlm" does'):
        ImageToText(Config(), GPT(GPTConfig()))
    model = VLM(VLMConfig())
    assert ImageToText(Config(), model).terms == {"nll": 1.0}
    for other in (CausalLM, MaskedLM):
        with pytest.raises(ValueError, match="VLM is image_to_text: .* this model: image_to_text"):
            other(Config(), model)
