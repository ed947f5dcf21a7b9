"""GPT-2 (Radford et al. 2019) as `GPT2LMHeadModel` stores it: kernels [in, out], query, key and value in one.

Names: https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/modeling_gpt2.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.interop.fields import Reader, refuse_others
from jaxlm.interop.mapping import Entry

NAME, KIND = "GPT-2", "gpt"
MODEL_TYPES = ("gpt2",)
ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model")
PREFIX = "transformer."
ALIASES: tuple[tuple[str, str], ...] = ()
IGNORED = (
    r"(^|\.)h\.\d+\.attn\.(bias|masked_bias)$",  # the causal mask
    r"^lm_head\.weight$",  # a copy of wte, where they are tied
)
COPIES = {r"^lm_head\.weight$": "embed/embedding"}
OPTIONAL = ("head",)
HEADS = (r"^score\.", r"^multiple_choice_head\.")
MLPS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
}


def config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of GPTConfig.

    Raises:
      ValueError: a key has a value that GPT can't represent.
    """
    read = Reader(hf)
    read.only("scale_attn_weights", True)
    read.only("scale_attn_by_inverse_layer_idx", False)
    read.only("add_cross_attention", False)
    return {
        "vocab_size": read("vocab_size"),
        "num_layers": read("n_layer"),
        "d_model": read("n_embd"),
        "num_heads": read("n_head"),
        "num_kv_heads": None,
        "head_dim": None,
        "d_ff": read("n_inner", 4 * read("n_embd")),
        "max_len": read("n_positions"),
        "norm_eps": read("layer_norm_epsilon", 1e-5),
        "mlp": read.choice("activation_function", MLPS, "gelu_new"),
        "tie_embeddings": read("tie_word_embeddings", True),
        **FIXED,
    }


FIXED = {
    "positions": "learned",
    "norm": "layernorm",
    "norm_gains": True,
    "bias": True,
    "qkv_bias": None,
    "qk_norm": False,
    "embedding_norm": False,
    "window": 0,
    "rope_scaling": "none",
    "attention_soft_cap": 0.0,
    "logit_soft_cap": 0.0,
    "num_experts": 0,
    "num_future": 1,
    "value_head": False,
}
"""What every GPT-2 has."""


def hf_config(config: Any) -> dict[str, Any]:
    """config.json.

    Raises:
      ValueError: a field has a value that GPT-2 has not.
    """
    refuse_others(config, FIXED, "GPT-2", bias_as=("qkv_bias",))
    if (
        config.kv_heads != config.num_heads
        or config.head_width * config.num_heads != config.d_model
    ):
        raise ValueError(
            f"model.num_kv_heads={config.kv_heads}, model.head_dim={config.head_width}: GPT-2 has "
            "num_heads of each, of width d_model / num_heads"
        )
    names = {ours: theirs for theirs, ours in reversed(MLPS.items())}
    if config.mlp not in names:
        raise ValueError(f'model.mlp="{config.mlp}": GPT-2 has {", ".join(names)}')
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.max_len,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.ff_width,
        "activation_function": names[config.mlp],
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }


def entries(config: Any) -> list[Entry]:
    """Every parameter of a GPT-2."""
    found = [
        Entry("embed/embedding", "transformer.wte.weight", vocab_axis=0),
        Entry("positions/embedding", "transformer.wpe.weight"),
    ]
    for layer in range(config.num_layers):
        ours, theirs = f"stack/block_{layer}", f"transformer.h.{layer}"
        found += _both(f"{ours}/attention_norm", f"{theirs}.ln_1", "scale")
        for index, name in enumerate("qkv"):
            found += _both(f"{ours}/attention/{name}", f"{theirs}.attn.c_attn", part=(index, 3))
        found += _both(f"{ours}/attention/out", f"{theirs}.attn.c_proj")
        found += _both(f"{ours}/mlp_norm", f"{theirs}.ln_2", "scale")
        found += _both(f"{ours}/mlp/in", f"{theirs}.mlp.c_fc")
        found += _both(f"{ours}/mlp/out", f"{theirs}.mlp.c_proj")
    found += _both("final_norm", "transformer.ln_f", "scale")
    if not config.tie_embeddings:
        found += [Entry("head/kernel", "lm_head.weight", transpose=True, vocab_axis=1)]
    return found


def _both(ours: str, theirs: str, weight: str = "kernel", part: tuple[int, int] | None = None):
    """A weight and its bias."""
    return [
        Entry(f"{ours}/{weight}", f"{theirs}.weight", part=part),
        Entry(f"{ours}/bias", f"{theirs}.bias", part=part),
    ]
