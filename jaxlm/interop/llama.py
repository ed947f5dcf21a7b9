"""Llama (Touvron et al. 2023) and what is built like it: SmolLM, Mistral, Qwen 2 (biases of q, k, v), Qwen 3 (QK-norm).

Names: https://github.com/huggingface/transformers/tree/main/src/transformers/models/{llama,mistral,qwen2,qwen3}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.interop import rope
from jaxlm.interop.fields import Reader, refuse_others
from jaxlm.interop.mapping import Entry

NAME, KIND = "Llama", "gpt"
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ARCHITECTURES = (
    "LlamaForCausalLM", "LlamaModel", "MistralForCausalLM", "MistralModel",
    "Qwen2ForCausalLM", "Qwen2Model", "Qwen3ForCausalLM", "Qwen3Model",
)  # fmt: skip
PREFIX = "model."
ALIASES: tuple[tuple[str, str], ...] = ()
IGNORED = (
    r"rotary_emb\.inv_freq$",  # the angles, from rope_theta
    r"^lm_head\.weight$",  # a copy of embed_tokens, where they are tied
)
COPIES = {r"^lm_head\.weight$": "embed/embedding"}
OPTIONAL = ("head",)
HEADS = (r"^score\.", r"^qa_outputs\.")
MLPS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
FIXED = {
    "positions": "rotary",
    "norm": "rmsnorm",
    "norm_gains": True,
    "embedding_norm": False,
    "attention_soft_cap": 0.0,
    "logit_soft_cap": 0.0,
    "num_experts": 0,
    "num_future": 1,
    "value_head": False,
}
"""What all of them have."""


def config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of GPTConfig.

    Raises:
      ValueError: a key has a value that GPT can't represent.
    """
    read, kind = Reader(hf), hf["model_type"]
    if kind not in ("llama", "qwen3"):
        read.only("attention_bias", kind == "qwen2")
    attention_bias = kind == "qwen2" or read("attention_bias", False)
    mlp_bias = read("mlp_bias", False)
    if kind != "qwen2" and attention_bias != mlp_bias:
        raise ValueError(
            f"config.json: attention_bias={attention_bias} with mlp_bias={mlp_bias} can't be represented"
        )
    return {
        "vocab_size": read("vocab_size"),
        "num_layers": read("num_hidden_layers"),
        "d_model": read("hidden_size"),
        "num_heads": read("num_attention_heads"),
        "num_kv_heads": _kv_heads(read, kind),
        "head_dim": read("head_dim", 128 if kind == "qwen3" else None),
        "d_ff": read("intermediate_size"),
        "max_len": read("max_position_embeddings"),
        "norm_eps": read("rms_norm_eps", 1e-6),
        "mlp": read.choice("hidden_act", MLPS, "silu"),
        "bias": mlp_bias,
        "qkv_bias": attention_bias,
        "qk_norm": kind == "qwen3",
        "window": _window(read, kind),
        "tie_embeddings": read("tie_word_embeddings", False),
        **rope.fields(hf),
        **FIXED,
    }


def _kv_heads(read: Reader, kind: str) -> int | None:
    if kind != "llama" and "num_key_value_heads" not in read.hf:
        read("num_key_value_heads")  # no one default: it says what is missing
    return read("num_key_value_heads", None)


def _window(read: Reader, kind: str) -> int:
    """One window for all layers, 0: none."""
    if kind == "llama":
        return 0
    # null says none; a file without the key means the 4096 of Mistral's first model.
    window = read("sliding_window", 0 if "sliding_window" in read.hf else 4096)
    if kind == "mistral":
        return window
    if not read("use_sliding_window", False):
        return 0
    layers = read("num_hidden_layers")
    full = min(read("max_window_layers", 28), layers)
    kinds = read("layer_types", ["full_attention"] * full + ["sliding_attention"] * (layers - full))
    if len(set(kinds)) > 1:
        key = "layer_types" if "layer_types" in read.hf else f"max_window_layers={full}"
        raise ValueError(
            f"config.json: {key} mixes layers with and without a sliding window, which can't be represented"
        )
    return window if "sliding_attention" in kinds else 0


def hf_config(config: Any) -> dict[str, Any]:
    """config.json: of Qwen 3 with QK-norm, of Qwen 2 with biases of q, k, v, of Mistral with a window, else of Llama.

    Raises:
      ValueError: a field has a value that none of them has.
    """
    refuse_others(config, FIXED, "Llama")
    names = {ours: theirs for theirs, ours in reversed(MLPS.items())}
    if config.mlp not in names:
        raise ValueError(f'model.mlp="{config.mlp}": Llama has {", ".join(names)}')
    qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
    if config.bias and (not qkv_bias or config.qk_norm or config.window):
        raise ValueError(
            "model.bias=True: only Llama has it, with biases everywhere, no qk_norm and no window"
        )
    if config.qk_norm and qkv_bias:
        raise ValueError("model.qkv_bias=True with model.qk_norm=True: Qwen 3 has no biases")
    kind = "mistral" if config.window else "llama"
    if config.qk_norm or (qkv_bias and not config.bias):
        kind = "qwen3" if config.qk_norm else "qwen2"
    title = kind.capitalize()
    found = {
        "architectures": [f"{title}ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": names[config.mlp],
        "max_position_embeddings": config.max_len,
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": 0.0,
        **rope.hf_keys(config),
    }
    if kind == "llama":
        found |= {"attention_bias": config.bias, "mlp_bias": config.bias}
    if kind == "mistral":
        found |= {"sliding_window": config.window}
    if kind in ("qwen2", "qwen3"):
        window = {"sliding_window": config.window, "max_window_layers": 0} if config.window else {}
        found |= {"use_sliding_window": bool(config.window), **window}
    if kind == "qwen2" and config.head_width * config.num_heads != config.d_model:
        raise ValueError(f"model.head_dim={config.head_width}: in Qwen 2 it is d_model / num_heads")
    return found


def entries(config: Any) -> list[Entry]:
    """Every parameter of a Llama."""
    found = [Entry("embed/embedding", "model.embed_tokens.weight", vocab_axis=0)]
    qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
    for layer in range(config.num_layers):
        ours, theirs = f"stack/block_{layer}", f"model.layers.{layer}"
        found += [Entry(f"{ours}/attention_norm/scale", f"{theirs}.input_layernorm.weight")]
        for name in ("q", "k", "v", "out"):
            there = f"{theirs}.self_attn.{name[0]}_proj"
            found += _linear(
                f"{ours}/attention/{name}", there, config.bias if name == "out" else qkv_bias
            )
        for name in ("q_norm", "k_norm") if config.qk_norm else ():
            found += [Entry(f"{ours}/attention/{name}/scale", f"{theirs}.self_attn.{name}.weight")]
        found += [Entry(f"{ours}/mlp_norm/scale", f"{theirs}.post_attention_layernorm.weight")]
        for name, there in (("in", "up"), ("gate", "gate"), ("out", "down")):
            found += _linear(f"{ours}/mlp/{name}", f"{theirs}.mlp.{there}_proj", config.bias)
    found += [Entry("final_norm/scale", "model.norm.weight")]
    if not config.tie_embeddings:
        found += [Entry("head/kernel", "lm_head.weight", transpose=True, vocab_axis=1)]
    return found


def _linear(ours: str, theirs: str, bias: bool) -> list[Entry]:
    found = [Entry(f"{ours}/kernel", f"{theirs}.weight", transpose=True)]
    return found + ([Entry(f"{ours}/bias", f"{theirs}.bias")] if bias else [])
