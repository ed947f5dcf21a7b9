"""BERT (Devlin et al. 2019) as `BertForMaskedLM` and its siblings store it.

Names: https://github.com/huggingface/transformers/blob/main/src/transformers/models/bert/modeling_bert.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.interop.fields import Reader, refuse_others
from jaxlm.interop.mapping import Entry

NAME, KIND = "BERT", "bert"
MODEL_TYPES = ("bert",)
PREFIX = "bert."
ALIASES = (
    ("LayerNorm.weight", "LayerNorm.gamma"),
    ("LayerNorm.bias", "LayerNorm.beta"),
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),  # where only the copy was kept
)
IGNORED = (
    r"embeddings\.(position_ids|token_type_ids)$",  # buffers
    r"^cls\.predictions\.decoder\.",  # copies of the embedding and of cls.predictions.bias
)
COPIES = {
    r"^cls\.predictions\.decoder\.weight$": "embed/embedding",
    r"^cls\.predictions\.decoder\.bias$": "mlm/bias",
}
OPTIONAL = ("pooler", "mlm", "classifier")
HEADS = (r"^(bert\.)?pooler\.", r"^cls\.", r"^classifier\.", r"^qa_outputs\.")

HEAD_OF = {
    "BertForMaskedLM": "mlm",
    "BertForPreTraining": "mlm",
    "BertForSequenceClassification": "sequence",
    "BertForTokenClassification": "token",
    "BertModel": "none",
}
ARCHITECTURES = tuple(HEAD_OF)
MLPS = {
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
}
LABELS = {"0": "LABEL_0", "1": "LABEL_1"}  # where none are named
FIXED = {"norm": "layernorm", "bias": True}
"""What every BERT has."""


def config(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of BERTConfig; without `architectures`, of a bare encoder.

    Raises:
      ValueError: a key has a value that BERT can't represent.
    """
    read = Reader(hf)
    read.only("position_embedding_type", "absolute")
    read.only("is_decoder", False)
    read.only("add_cross_attention", False)
    read.only("tie_word_embeddings", True)
    architecture = (read("architectures", []) or ["BertModel"])[0]
    head = HEAD_OF[architecture]
    labels = 0
    if head in ("sequence", "token"):
        read.only("problem_type", "single_label_classification")
        labels = len(read("id2label", LABELS))
    return {
        "vocab_size": read("vocab_size"),
        "num_layers": read("num_hidden_layers"),
        "d_model": read("hidden_size"),
        "num_heads": read("num_attention_heads"),
        "num_kv_heads": None,
        "head_dim": None,
        "d_ff": read("intermediate_size"),
        "max_len": read("max_position_embeddings"),
        "num_token_types": read("type_vocab_size", 2),
        "norm_eps": read("layer_norm_eps", 1e-12),
        "mlp": read.choice("hidden_act", MLPS, "gelu"),
        "head": head,
        "num_labels": labels,
        "pooler": architecture in ("BertForSequenceClassification", "BertModel"),
        **FIXED,
    }


def hf_config(config: Any) -> dict[str, Any]:
    """config.json; classes are called LABEL_0, LABEL_1, ... where nobody names them.

    Raises:
      ValueError: a field has a value that BERT has not.
    """
    refuse_others(config, FIXED, "BERT")
    if (
        config.kv_heads != config.num_heads
        or config.head_width * config.num_heads != config.d_model
    ):
        raise ValueError(
            f"model.num_kv_heads={config.kv_heads}, model.head_dim={config.head_width}: BERT has "
            "num_heads of each, of width d_model / num_heads"
        )
    if config.head == "sequence" and not config.pooler:
        raise ValueError("model.pooler=False: BERT's sequence classifier has a pooler")
    names = {ours: theirs for theirs, ours in reversed(MLPS.items())}
    if config.mlp not in names:
        raise ValueError(f'model.mlp="{config.mlp}": BERT has {", ".join(names)}')
    architectures = {head: name for name, head in reversed(HEAD_OF.items())}
    found = {
        "architectures": [architectures[config.head]],
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ff_width,
        "max_position_embeddings": config.max_len,
        "type_vocab_size": config.num_token_types,
        "hidden_act": names[config.mlp],
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": config.init_std,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "pad_token_id": None,  # filling is told by the mask; transformers' default freezes token 0
    }
    if config.head in ("sequence", "token"):
        labels = [f"LABEL_{label}" for label in range(config.num_labels)]
        found["id2label"] = {str(label): name for label, name in enumerate(labels)}
        found["label2id"] = {name: label for label, name in enumerate(labels)}
    return found


def entries(config: Any) -> list[Entry]:
    """Every parameter of a BERT with its head."""
    embeddings = f"{PREFIX}embeddings"
    found = [
        Entry("embed/embedding", f"{embeddings}.word_embeddings.weight", vocab_axis=0),
        Entry("positions/embedding", f"{embeddings}.position_embeddings.weight"),
        Entry("token_types/embedding", f"{embeddings}.token_type_embeddings.weight"),
        *_norm("embedding_norm", f"{embeddings}.LayerNorm"),
    ]
    for layer in range(config.num_layers):
        ours, theirs = f"stack/block_{layer}", f"{PREFIX}encoder.layer.{layer}"
        for a, b in {"q": "query", "k": "key", "v": "value"}.items():
            found += _linear(f"{ours}/attention/{a}", f"{theirs}.attention.self.{b}")
        found += _linear(f"{ours}/attention/out", f"{theirs}.attention.output.dense")
        found += _norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm")
        found += _linear(f"{ours}/mlp/in", f"{theirs}.intermediate.dense")
        found += _linear(f"{ours}/mlp/out", f"{theirs}.output.dense")
        found += _norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm")
    if config.pooler:
        found += _linear("pooler", f"{PREFIX}pooler.dense")
    if config.head == "mlm":
        found += _linear("mlm/transform", "cls.predictions.transform.dense")
        found += _norm("mlm/norm", "cls.predictions.transform.LayerNorm")
        found.append(Entry("mlm/bias", "cls.predictions.bias", vocab_axis=0))
    if config.head in ("sequence", "token"):
        found += _linear("classifier", "classifier")
    return found


def _linear(ours: str, theirs: str) -> list[Entry]:
    return [
        Entry(f"{ours}/kernel", f"{theirs}.weight", transpose=True),
        Entry(f"{ours}/bias", f"{theirs}.bias"),
    ]


def _norm(ours: str, theirs: str) -> list[Entry]:
    return [Entry(f"{ours}/scale", f"{theirs}.weight"), Entry(f"{ours}/bias", f"{theirs}.bias")]
