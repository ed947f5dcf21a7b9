"""What a config.json of GPT-2, Llama, Mistral or Qwen says, both ways; the numbers are in tests/parity/."""

import dataclasses

import pytest

from jaxlm.interop import gpt2, huggingface, llama
from jaxlm.models.gpt import GPTConfig

GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "layer_norm_epsilon": 1e-05,
    "vocab_size": 50257,
}
SMOLLM = {  # SmolLM2-135M
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def of(kind, **changes):
    return {name: value for name, value in (SMOLLM | {"model_type": kind} | changes).items()}


def test_the_published_gpt2_small_is_our_default():
    found = GPTConfig(**gpt2.config(GPT2))
    assert found == GPTConfig(vocab_size=50257, d_ff=3072)


def test_smollm():
    found = GPTConfig(**llama.config(SMOLLM))
    assert found == GPTConfig(
        vocab_size=49152, num_layers=30, d_model=576, num_heads=9, num_kv_heads=3, d_ff=1536, max_len=8192,
        positions="rotary", rope_base=100_000.0, norm="rmsnorm", norm_eps=1e-5, mlp="swiglu", bias=False,
        qkv_bias=False, tie_embeddings=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA31},
        {"rope_parameters": LLAMA31 | {"rope_theta": 5e5}, "rope_theta": None},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA31}},
    ],
)
def test_llama_3_scaling_as_each_version_of_transformers_writes_it(rope):
    found = GPTConfig(**llama.config(SMOLLM | rope))
    assert (found.rope_base, found.rope_scaling, found.rope_factor) == (5e5, "llama3", 8.0)
    assert (found.rope_low_freq, found.rope_high_freq, found.rope_original_len) == (1.0, 4.0, 8192)


def test_what_tells_mistral_and_qwen_from_llama():
    mistral = GPTConfig(**llama.config(of("mistral", sliding_window=4096)))
    assert mistral.window == 4096 and not mistral.qkv_bias
    qwen2 = GPTConfig(**llama.config(of("qwen2", sliding_window=64, attention_bias=None)))
    assert qwen2.qkv_bias and not qwen2.bias and qwen2.window == 0
    all_layers = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}
    assert llama.config(of("qwen2", attention_bias=None, **all_layers))["window"] == 64
    qwen3 = GPTConfig(**llama.config(of("qwen3")))
    assert qwen3.qk_norm and qwen3.head_dim == 128


@pytest.mark.parametrize(
    ("family", "hf", "message"),
    [
        (gpt2, GPT2 | {"n_embd": None}, "config.json has no n_embd"),
        (gpt2, GPT2 | {"activation_function": "swish"}, "activation_function='swish'"),
        (gpt2, GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (llama, of("llama", hidden_act="relu"), "hidden_act='relu'"),
        (llama, of("llama", attention_bias=True), "attention_bias=True with mlp_bias=False"),
        (llama, of("llama", rope_scaling={"type": "dynamic", "factor": 2.0}), "rope_scaling.type"),
        (llama, of("llama", rope_scaling={"rope_type": "linear"}), "no rope_scaling.factor"),
        (llama, of("llama", rope_scaling=LLAMA31 | {"mscale": 1.0}), "rope_scaling.mscale"),
        (llama, of("llama", rope_scaling=LLAMA31 | {"truncate": False}), "rope_scaling.truncate=False"),
        (llama, of("llama", partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
        (llama, of("mistral", num_key_value_heads=None) | {"hidden_size": None}, "no hidden_size"),
        (
            llama,
            of("qwen2", attention_bias=None, use_sliding_window=True, sliding_window=9, max_window_layers=3),
            "max_window_layers=3 mixes",
        ),
        (
            llama,
            of("qwen3", use_sliding_window=True, sliding_window=9,
               layer_types=["full_attention", "sliding_attention"]),
            "layer_types mixes",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_represented_is_refused_by_its_key(family, hf, message):
    with pytest.raises(ValueError, match=message):
        family.config(hf)


LLAMA = GPTConfig(
    vocab_size=64, num_layers=2, d_model=48, num_heads=4, num_kv_heads=2, positions="rotary", norm="rmsnorm",
    mlp="swiglu", bias=False, tie_embeddings=False, max_len=32,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("llama", {"bias": True}),
        ("llama", {"mlp": "geglu", "rope_scaling": "linear", "rope_factor": 2.0}),
        ("llama", {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_len": 16}),
        ("llama", {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 16}),
        ("mistral", {"window": 8}),
        ("qwen2", {"qkv_bias": True, "window": 8}),
        ("qwen3", {"qk_norm": True, "head_dim": 16}),
    ],
)
def test_our_config_survives_the_way_there_and_back(model_type, changes):
    config = dataclasses.replace(LLAMA, **changes)
    family, hf = huggingface.family_for("gpt", config)
    assert family is llama and hf["model_type"] == model_type
    back = GPTConfig(**family.config(hf))
    assert (back.rope, back.head_width, back.ff_width) == (
        config.rope,
        config.head_width,
        config.ff_width,
    )
    assert [entry.ours for entry in llama.entries(back)] == [e.ours for e in llama.entries(config)]
    for name in ("window", "bias", "qk_norm", "mlp", "kv_heads", "rope_base", "tie_embeddings"):
        assert getattr(back, name) == getattr(config, name), name


def test_gpt2_there_and_back():
    config = GPTConfig(vocab_size=64, num_layers=1, d_model=24, num_heads=3, tie_embeddings=False)
    family, hf = huggingface.family_for("gpt", config)
    assert family is gpt2 and hf["n_inner"] == 96
    assert GPTConfig(**family.config(hf)) == dataclasses.replace(config, d_ff=96)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (GPTConfig(norm="rmsnorm"), "model.norm='rmsnorm'"),
        (GPTConfig(bias=False), "model.bias=False"),
        (GPTConfig(logit_soft_cap=30.0), "model.logit_soft_cap"),
        (GPTConfig(mlp="relu2"), 'model.mlp="relu2"'),
        (GPTConfig(num_kv_heads=4), "model.num_kv_heads=4"),
        (GPTConfig(embedding_norm=True), "model.embedding_norm"),
        (GPTConfig(num_future=4), "model.num_future=4"),
        (dataclasses.replace(LLAMA, num_experts=4), "model.num_experts=4"),
        (dataclasses.replace(LLAMA, positions="alibi"), "model.positions='alibi'"),
        (dataclasses.replace(LLAMA, norm_gains=False), "model.norm_gains=False"),
        (dataclasses.replace(LLAMA, mlp="relu2"), 'model.mlp="relu2"'),
        (dataclasses.replace(LLAMA, attention_soft_cap=50.0), "model.attention_soft_cap"),
        (dataclasses.replace(LLAMA, bias=True, qkv_bias=False), "model.bias=True"),
        (dataclasses.replace(LLAMA, qkv_bias=True, qk_norm=True), "model.qkv_bias=True"),
        (dataclasses.replace(LLAMA, qkv_bias=True, head_dim=10), "model.head_dim=10"),
    ],
)
def test_a_model_that_no_family_has_is_refused_by_its_key(config, key):
    with pytest.raises(ValueError, match=key):
        huggingface.family_for("gpt", config)
    with pytest.raises(ValueError, match='model.kind="own:Bigram" has no form'):
        huggingface.family_for("own:Bigram", config)


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(
        ValueError, match=r'model_type=\'lama\' is not known \(did you mean "llama"'
    ):
        huggingface.family_of({"model_type": "lama"}, "here")
    with pytest.raises(
        ValueError, match="accepted are gpt2, llama, mistral, qwen2, qwen3, bert, t5"
    ):
        huggingface.family_of({"model_type": "mamba"}, "here")
    odd = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    with pytest.raises(ValueError, match="architectures='LlamaForSequenceClassification'"):
        huggingface.family_of(odd, "here")
    with pytest.raises(ValueError, match="quantization_config"):
        huggingface.family_of({"model_type": "llama", "quantization_config": {"bits": 4}}, "here")


def test_a_mistral_without_the_key_has_the_window_that_its_class_defaults_to():
    assert llama.config(of("mistral"))["window"] == 4096
    assert llama.config(of("mistral", sliding_window=None))["window"] == 0


def test_a_rope_type_of_null_is_none_at_all():
    rope = {"rope_type": None, "type": "linear", "factor": 2}
    found = GPTConfig(**llama.config(SMOLLM | {"rope_scaling": rope}))
    assert (found.rope_scaling, found.rope_factor) == ("linear", 2.0)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("vocab_size", "many", "a whole number"),
        ("vocab_size", True, "a whole number"),
        ("rope_theta", 0, "a number above 0"),
        ("tie_word_embeddings", "false", "true or false"),
        ("rope_scaling", "linear", "an object"),
    ],
)
def test_a_value_of_another_kind_is_named(key, value, expected):
    with pytest.raises(ValueError, match=f"config.json: {key}={value!r} must be {expected}"):
        llama.config(SMOLLM | {key: value})
