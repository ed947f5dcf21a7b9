"""T5 1.0 and 1.1 (Raffel et al. 2020) as `T5ForConditionalGeneration` stores them.

Names: https://github.com/huggingface/transformers/blob/main/src/transformers/models/t5/modeling_t5.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.interop.fields import Reader, refuse_others
from jaxlm.interop.mapping import Entry

NAME, KIND = "T5", "t5"
MODEL_TYPES = ("t5",)
ARCHITECTURES = ("T5ForConditionalGeneration", "T5WithLMHeadModel")
PREFIX = ""
ALIASES: tuple[tuple[str, str], ...] = ()
IGNORED = (
    r"^(encoder|decoder)\.embed_tokens\.weight",  # copies of shared.weight
    r"^lm_head\.weight",  # a copy of it where tied; mapped where not
    r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",  # read by nothing
)
COPIES = {r"^((encoder|decoder)\.embed_tokens|lm_head)\.weight": "embed/embedding"}
OPTIONAL: tuple[str, ...] = ()
HEADS: tuple[str, ...] = ()

MLPS = {"relu": "relu", "gated-gelu": "geglu"}


def config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of T5Config.

    Raises:
      ValueError: a key has a value that T5 can't represent.
    """
    read = Reader(hf)
    read.only("is_encoder_decoder", True)
    return {
        "vocab_size": read("vocab_size"),
        "num_layers": read("num_layers"),
        "num_decoder_layers": read("num_decoder_layers", None),
        "d_model": read("d_model"),
        "num_heads": read("num_heads"),
        "head_dim": read("d_kv"),
        "d_ff": read("d_ff"),
        "max_len": read("n_positions", 512),  # a habit of its files; T5 has no limit
        "norm_eps": read("layer_norm_epsilon", 1e-6),
        "mlp": read.choice("feed_forward_proj", MLPS, "relu"),
        "tie_embeddings": _tied(read),
        "relative_buckets": read("relative_attention_num_buckets", 32),
        "relative_max_distance": read("relative_attention_max_distance", 128),
        "decoder_start_id": read("decoder_start_token_id", read("pad_token_id", 0)),
    }


def _tied(read: Reader) -> bool:
    """Tied and scaled (1.0), or neither (1.1).

    transformers 5 writes tie_word_embeddings=true for both and tells them apart by scale_decoder_outputs.
    """
    tied = read("tie_word_embeddings", True)
    scaled = read("scale_decoder_outputs", tied)
    if scaled and not tied:
        raise ValueError(
            "config.json: scale_decoder_outputs=True with tie_word_embeddings=False can't be represented"
        )
    return scaled


def hf_config(config: Any) -> dict[str, Any]:
    """config.json.

    Raises:
      ValueError: a field has a value that T5 has not.
    """
    refuse_others(config, {"num_experts": 0}, "T5")
    names = {ours: theirs for theirs, ours in MLPS.items()}
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.head_width,
        "d_ff": config.ff_width,
        "num_layers": config.num_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.num_heads,
        "feed_forward_proj": names[config.mlp],
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "layer_norm_epsilon": config.norm_eps,
        "dropout_rate": config.dropout,
        "n_positions": config.max_len,
        "initializer_factor": 1.0,
        "tie_word_embeddings": config.tie_embeddings,
        "decoder_start_token_id": config.decoder_start_id,
        "pad_token_id": config.decoder_start_id,
        "eos_token_id": None,  # transformers' default would end a text at token 1
    }


def entries(config: Any) -> list[Entry]:
    """Every parameter of a T5."""
    found = [
        Entry("embed/embedding", "shared.weight", vocab_axis=0),
        *_stack("encoder", config.num_layers, config.mlp, cross=False),
        *_stack("decoder", config.decoder_layers, config.mlp, cross=True),
    ]
    if not config.tie_embeddings:
        found.append(Entry("head/kernel", "lm_head.weight", transpose=True, vocab_axis=1))
    return found


def _stack(stack: str, num_layers: int, mlp: str, cross: bool) -> list[Entry]:
    bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found = [
        Entry(f"{stack}_norm/scale", f"{stack}.final_layer_norm.weight"),
        Entry(f"{stack}/relative_bias/embedding", bias),
    ]
    parts = {"attention": "SelfAttention"} | ({"cross": "EncDecAttention"} if cross else {})
    # The activation is on wi_0, which is our gate.
    inward = {"gate": "wi_0", "in": "wi_1"} if mlp == "geglu" else {"in": "wi"}
    for layer in range(num_layers):
        ours = f"{stack}/block_{layer}"
        for place, (part, name) in enumerate(parts.items()):
            theirs = f"{stack}.block.{layer}.layer.{place}"
            found.append(Entry(f"{ours}/{part}_norm/scale", f"{theirs}.layer_norm.weight"))
            found += [
                Entry(f"{ours}/{part}/{a}/kernel", f"{theirs}.{name}.{b}.weight", transpose=True)
                for a, b in {"q": "q", "k": "k", "v": "v", "out": "o"}.items()
            ]
        theirs = f"{stack}.block.{layer}.layer.{len(parts)}"
        found.append(Entry(f"{ours}/mlp_norm/scale", f"{theirs}.layer_norm.weight"))
        found += [
            Entry(f"{ours}/mlp/{a}/kernel", f"{theirs}.DenseReluDense.{b}.weight", transpose=True)
            for a, b in (inward | {"out": "wo"}).items()
        ]
    return found
