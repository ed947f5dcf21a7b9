"""GPT-2 against transformers: logits and gradients, with padding and odd sizes; and there and back."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

import torch  # noqa: E402
import transformers  # noqa: E402
from against import assert_decoder_parity, random_weights  # noqa: E402

CASES = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "exact gelu and a width of its own": {"activation_function": "gelu", "n_inner": 50},
}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_export(tmp_path, name):
    config = transformers.GPT2Config(
        vocab_size=57, n_positions=16, n_embd=21, n_layer=2, n_head=3, **CASES[name]
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = random_weights(transformers.GPT2LMHeadModel(config))
    assert_decoder_parity(theirs, tmp_path)


def test_a_file_without_prefix_and_with_masks_as_the_first_gpt2_was_stored(tmp_path):
    """`wte.weight`, `h.0.attn.bias`: the names of the published file."""
    from jaxlm.interop import huggingface

    config = transformers.GPT2Config(vocab_size=57, n_positions=16, n_embd=18, n_layer=1, n_head=3)
    theirs = random_weights(transformers.GPT2LMHeadModel(config))
    bare = {n.removeprefix("transformer."): t for n, t in theirs.state_dict().items()}
    bare["h.0.attn.bias"] = torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16)
    theirs.config.save_pretrained(tmp_path)
    import safetensors.torch

    safetensors.torch.save_file(
        {n: t.clone() for n, t in bare.items()}, tmp_path / "model.safetensors"
    )
    source = huggingface.open_folder(tmp_path)
    from jaxlm.interop import mapping
    from jaxlm.models.gpt import GPTConfig

    matched = mapping.match(source.family, GPTConfig(**source.fields), source.tensors)
    assert matched.names["embed/embedding"] == "wte.weight" and not matched.fresh
