"""Llama, Mistral, Qwen 2 and 3 against transformers: logits and gradients, with padding and odd sizes; and there and back."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

import torch  # noqa: E402
import transformers  # noqa: E402
from against import assert_decoder_parity, random_weights  # noqa: E402

SIZES = {
    "vocab_size": 57,
    "hidden_size": 30,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
CASES = {
    "llama": ("Llama", {}),
    "llama, tied, as SmolLM": ("Llama", {"tie_word_embeddings": True, "rope_theta": 1e5}),
    "llama 3": ("Llama", {"rope_scaling": LLAMA3, "head_dim": 14}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "linear": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "yarn": (
        "Llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 8,
            }
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "qwen 2": ("Qwen2", {}),
    "qwen 2, window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    ),
    "qwen 3": ("Qwen3", {"head_dim": 12, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_export(tmp_path, name):
    family, changes = CASES[name]
    config = getattr(transformers, f"{family}Config")(**SIZES | changes)
    torch.manual_seed(0)
    theirs = random_weights(getattr(transformers, f"{family}ForCausalLM")(config))
    assert_decoder_parity(theirs, tmp_path, back="llama" if name == "mistral, no window" else "")
