"""GGUF files of the llama architecture: read lazily through the `gguf` package; quantised tensors become float32.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md . Not for writing them.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.interop import llama
from jaxlm.interop.huggingface import Source
from jaxlm.registry import nearest

ARCHITECTURES = ("llama",)
ROPE = (
    "dimension_count", "freq_base", "scaling.type", "scaling.factor",
    "scaling.original_context_length", "scaling.finetuned",
)  # fmt: skip
"""What is read of `llama.rope.*`, and what changes no number."""
TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")
NAMES = (
    (r"^token_embd\.", "model.embed_tokens."),
    (r"^output_norm\.", "model.norm."),
    (r"^output\.", "lm_head."),
    (r"^blk\.(\d+)\.attn_norm\.", r"model.layers.\1.input_layernorm."),
    (r"^blk\.(\d+)\.ffn_norm\.", r"model.layers.\1.post_attention_layernorm."),
    (r"^blk\.(\d+)\.attn_([qkv])\.", r"model.layers.\1.self_attn.\2_proj."),
    (r"^blk\.(\d+)\.attn_output\.", r"model.layers.\1.self_attn.o_proj."),
    (r"^blk\.(\d+)\.ffn_(gate|up|down)\.", r"model.layers.\1.mlp.\2_proj."),
)
"""Their names as Llama's of the Hugging Face layout; others stay, and are left over."""
_log = logging.getLogger(__name__)


class GGUFTensors:
    """The tensors of one file under Llama's names (`mapping.Tensors`)."""

    def __init__(self, where: str, found: dict[str, Any], num_heads: int, num_kv_heads: int):
        self.where, self._found = where, found
        self._heads = {"q_proj": num_heads, "k_proj": num_kv_heads}
        self.shapes = {name: tuple(map(int, one.shape[::-1])) for name, one in found.items()}
        plain = {name: one.tensor_type.name for name, one in found.items()}
        self.dtypes = {name: "F16" if kind == "F16" else "F32" for name, kind in plain.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor, dequantised; rows of queries and keys as rotary halves, as Llama has them."""
        from gguf import quants

        one = self._found[name]
        array = one.data
        if one.tensor_type.name not in ("F32", "F16"):
            array = quants.dequantize(array, one.tensor_type)
        array = array.reshape(self.shapes[name])
        heads = self._heads.get(name.split(".")[-2])
        return array if heads is None else _halves(array, heads)


def _halves(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """From rotary pairs that are neighbours (x_2i, x_2i+1) to (x_i, x_i+K/2), a head at a time."""
    pairs = rows.reshape(num_heads, -1, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def open_file(path: Path) -> Source:
    """Open a .gguf file.

    Raises:
      ValueError: the package is missing, the file damaged, or the architecture or a tensor's type
        is none that can be read.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ValueError(f'{path} needs the gguf package: pip install "jaxlm[hf]"') from error
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        reader = GGUFReader(path)
        meta = _Meta(path, reader)
    except Exception as error:  # the reader checks little: a torn file fails anywhere in it
        raise ValueError(f"{path} is truncated or no GGUF file: {error}") from error
    architecture = meta("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path}: architecture {architecture!r} is not known{nearest(str(architecture), ARCHITECTURES)}; "
            f"accepted is {', '.join(ARCHITECTURES)}"
        )
    for one in reader.tensors:
        if one.tensor_type.name not in TYPES:
            raise ValueError(
                f"{path}: {one.name} is of type {one.tensor_type.name}; accepted are {', '.join(TYPES)}"
            )
    found = {_their_name(one.name): one for one in reader.tensors}
    if "model.embed_tokens.weight" not in found:
        raise ValueError(f"{path} has no token_embd.weight")
    hf = _hf(meta, found)
    try:
        fields = llama.config(hf)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors = GGUFTensors(str(path), found, hf["num_attention_heads"], hf["num_key_value_heads"])
    return Source(path, llama, hf, fields, tensors, _tokenizer(meta))


class _Meta:
    """`meta(key)` gives a value of the file's metadata."""

    def __init__(self, path: Path, reader: Any):
        self.path, self._fields = path, reader.fields
        # A torn file shows in the last tensor's data, which the reader maps while it opens.
        reader.tensors[-1].data[..., -1:].sum()

    def __call__(self, key: str, *default: Any) -> Any:
        if key in self._fields:
            return self._fields[key].contents()
        if not default:
            raise ValueError(f"{self.path} has no {key}")
        return default[0]

    def number(self, key: str, *default: Any) -> Any:
        """A number above 0, or the default."""
        value = self(key, *default)
        if value not in default and (not isinstance(value, int | float) or value <= 0):
            raise ValueError(f"{self.path}: {key}={value!r} must be a number above 0")
        return value

    def refuse_others(self, prefix: str, known: tuple[str, ...]) -> None:
        """Name the first key that changes the numbers and is not read."""
        names = [name for name in self._fields if name.startswith(prefix)]
        if other := [name for name in names if name.removeprefix(prefix) not in known]:
            raise ValueError(f"{self.path}: {other[0]}={self(other[0])!r} can't be represented")


def _their_name(name: str) -> str:
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _hf(meta: _Meta, found: dict[str, Any]) -> dict[str, Any]:
    """The metadata as a config.json of Llama."""
    num_heads = meta("llama.attention.head_count")
    num_kv_heads = meta("llama.attention.head_count_kv", num_heads)
    for value in (num_heads, num_kv_heads, meta("llama.feed_forward_length")):
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{meta.path}: its layers differ in shape or have none, which can't be represented"
            )
    meta.refuse_others("llama.rope.", ROPE)
    width = meta.number("llama.embedding_length")
    head_dim = meta("llama.attention.key_length", width // num_heads)
    if (turned := meta("llama.rope.dimension_count", head_dim)) != head_dim:
        raise ValueError(
            f"{meta.path}: llama.rope.dimension_count={turned} of {head_dim} can't be represented"
        )
    hf = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(found["model.embed_tokens.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": meta("llama.feed_forward_length"),
        "num_hidden_layers": meta("llama.block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": meta("llama.context_length"),
        # Stored as float32: 9.999999747378752e-06 was 1e-05.
        "rms_norm_eps": float(f"{meta.number('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(meta.number("llama.rope.freq_base", 10_000.0)),
        "tie_word_embeddings": "lm_head.weight" not in found,
        "hidden_act": "silu",
    }
    ends = [meta(f"tokenizer.ggml.{name}_token_id", None) for name in ENDS]
    hf["eos_token_id"] = [end for end in ends if end is not None]
    factor = meta("llama.rope.scaling.factor", None)
    kind = meta("llama.rope.scaling.type", "none" if factor is None else "linear")
    if kind != "none":
        original = meta("llama.rope.scaling.original_context_length", hf["max_position_embeddings"])
        hf["rope_scaling"] = {
            "rope_type": kind,
            "factor": meta("llama.rope.scaling.factor"),
            "original_max_position_embeddings": original,
        }
    return hf


GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [GPT2_SPLIT | {"use_regex": True}],
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        GPT2_SPLIT | {"use_regex": True},
    ],
    "llama-bpe": [
        {
            "type": "Split", "pattern": {"Regex": LLAMA3_SPLIT},
            "behavior": "Isolated", "invert": False,
        },
        GPT2_SPLIT | {"use_regex": False},
    ],
}  # fmt: skip
"""`tokenizer.ggml.pre` -> how a text is cut before the merges."""
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # tokenizer.ggml.token_type
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""What a tokenizer_config.json calls them -> tokenizer.ggml.*_token_id."""
ENDS = ("eos", "eot", "eom")
"""Tokens that end what the model writes: of a text, a turn, a message."""


def _tokenizer(meta: _Meta) -> dict[str, bytes]:
    """The vocabulary as the files that everybody else keeps it in; {} where it is another kind."""
    kind, pre = meta("tokenizer.ggml.model", ""), meta("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        _log.warning(
            "%s: its tokenizer (%s, %s) is not read; read are gpt2 with %s",
            meta.path, kind or "none", pre, ", ".join(PRE_TOKENIZERS),
        )  # fmt: skip
        return {}
    tokens = meta("tokenizer.ggml.tokens")
    kinds = meta("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(kinds) != len(tokens):
        raise ValueError(
            f"{meta.path}: tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens"
        )
    added = [
        {"id": i, "content": token, "special": of_kind == CONTROL, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False}
        for i, (token, of_kind) in enumerate(zip(tokens, kinds, strict=True))
        if of_kind in (CONTROL, USER_DEFINED)
    ]  # fmt: skip
    file = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": _start(meta, tokens),
        "decoder": GPT2_SPLIT | {"use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": meta("tokenizer.ggml.merges"),
            "ignore_merges": pre == "llama-bpe",
        },
    }
    called = {f"{name}_token": _special(meta, theirs, tokens) for name, theirs in SPECIAL.items()}
    facts = {name: tokens[found] for name, found in called.items() if found is not None}
    if template := meta("tokenizer.chat_template", None):
        facts["chat_template"] = template
    written = {"tokenizer.json": file, "tokenizer_config.json": facts}
    return {name: json.dumps(value, ensure_ascii=False).encode() for name, value in written.items()}


def _special(meta: _Meta, which: str, tokens: list[str]) -> int | None:
    key = f"tokenizer.ggml.{which}_token_id"
    found = meta(key, None)
    if found is not None and found not in range(len(tokens)):
        raise ValueError(f"{meta.path}: {key}={found!r}, but it has {len(tokens)} tokens")
    return found


def _start(meta: _Meta, tokens: list[str]) -> dict[str, Any] | None:
    """What puts the token of the beginning in front of a prompt, where the model was trained so."""
    bos = _special(meta, "bos", tokens)
    usual = meta("tokenizer.ggml.pre", "") == "llama-bpe"
    if bos is None or not meta("tokenizer.ggml.add_bos_token", usual):
        return None
    first = [{"SpecialToken": {"id": tokens[bos], "type_id": 0}}]
    one, two = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [*first, one],
        "pair": [*first, one, *first, two],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
    }
