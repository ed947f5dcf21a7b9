"""Small models in the Hugging Face layout, written with the safetensors package, without torch."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

BF16 = ml_dtypes.bfloat16
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
WORDS = ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", " ", ".", "\n"]


def llama_tensors(dtype=np.float32, seed: int = 0, config=LLAMA) -> dict[str, np.ndarray]:
    """Random tensors under Llama's names."""
    rng = np.random.default_rng(seed)
    width, inner, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    narrow = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for layer in range(config["num_hidden_layers"]):
        here = f"model.layers.{layer}."
        shapes |= {
            f"{here}input_layernorm.weight": (width,),
            f"{here}post_attention_layernorm.weight": (width,),
            f"{here}self_attn.q_proj.weight": (width, width),
            f"{here}self_attn.k_proj.weight": (narrow, width),
            f"{here}self_attn.v_proj.weight": (narrow, width),
            f"{here}self_attn.o_proj.weight": (width, width),
            f"{here}mlp.gate_proj.weight": (inner, width),
            f"{here}mlp.up_proj.weight": (inner, width),
            f"{here}mlp.down_proj.weight": (width, inner),
        }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, width)
    return {
        name: (0.1 * rng.standard_normal(shape) + (len(shape) == 1)).astype(dtype)
        for name, shape in shapes.items()
    }


def bert_config(**changes) -> dict:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
        "type_vocab_size": 2,
    } | changes


def bert_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors of `BertModel`, one layer, without a prefix."""
    rng = np.random.default_rng(seed)
    layer, dense = "encoder.layer.0.", {}
    for name, (out, into) in {
        f"{layer}attention.self.query": (16, 16), f"{layer}attention.self.key": (16, 16),
        f"{layer}attention.self.value": (16, 16), f"{layer}attention.output.dense": (16, 16),
        f"{layer}intermediate.dense": (32, 16), f"{layer}output.dense": (16, 32),
        "pooler.dense": (16, 16),
    }.items():  # fmt: skip
        dense |= {f"{name}.weight": (out, into), f"{name}.bias": (out,)}
    for name in ("embeddings", f"{layer}attention.output", f"{layer}output"):
        dense |= {f"{name}.LayerNorm.weight": (16,), f"{name}.LayerNorm.bias": (16,)}
    tables = {"word": 40, "position": 24, "token_type": 2}
    dense |= {f"embeddings.{name}_embeddings.weight": (n, 16) for name, n in tables.items()}
    return {
        name: rng.standard_normal(shape).astype(np.float32) * 0.3
        + name.endswith("LayerNorm.weight")
        for name, shape in dense.items()
    }


def write(folder: Path, config: dict, tensors: dict[str, np.ndarray], words=WORDS) -> Path:
    """config.json, model.safetensors and a tokenizer.json of characters, <s> and </s> around each text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_run(folder: Path, tokenizer: str = "bytes", **model):
    """A run's folder of a GPT with random weights, as training would leave it."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from jaxlm import config
    from jaxlm.data import tokenizers
    from jaxlm.train import assembly, checkpoint, workdir

    cfg = config.base()
    made = tokenizers.build(tokenizer, ["abcdefghij "])
    cfg.model = config.section("model", "gpt", vocab_size=made.vocab_size, **model)
    cfg.data = config.section("data", "text", tokenizer=tokenizer, seq_len=cfg.model.max_len)
    init = jax.jit(assembly.make_model(cfg).init)
    params = nn.unbox(init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]
    path = workdir.open_workdir(folder)
    workdir.claim(path, cfg, made)
    saver = checkpoint.Checkpointer(path / workdir.CHECKPOINTS)
    saver.save({"params": params}, {}, 7, blocking=True)
    saver.close()
    return folder
