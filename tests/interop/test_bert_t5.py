"""What a config.json of BERT or T5 says, and which tensor is which parameter; the numbers are in tests/parity/."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxlm.interop import bert, mapping, t5
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.models.t5 import T5, T5Config

BASE = {  # bert-base-uncased
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
SMALL = {  # t5-v1_1-small
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 1024,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6,
    "model_type": "t5",
    "num_decoder_layers": 8,
    "num_heads": 6,
    "num_layers": 8,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 32128,
}


def shapes(model):
    row = jnp.zeros((1, 4), jnp.int32)
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), *[row] * len(model.inputs)))
    return mapping.flatten(nn.unbox(tree)["params"])


def count(model):
    return sum(leaf.size for leaf in shapes(model).values())


def test_the_published_bert_has_its_published_size():
    config = BERTConfig(**bert.config(BASE), vocab_multiple=1)
    assert (config.head, config.pooler, config.mlp) == ("mlm", False, "gelu_exact")
    assert count(BERT(config)) == 109_514_298  # BertForMaskedLM
    bare = BERTConfig(**bert.config(BASE | {"architectures": ["BertModel"]}), vocab_multiple=1)
    assert count(BERT(bare)) == 109_482_240  # BertModel


def test_the_published_t5_has_its_published_size():
    config = T5Config(**t5.config(SMALL))
    assert count(T5(config)) == 76_961_152
    assert (config.mlp, config.tie_embeddings, config.relative_max_distance) == (
        "geglu",
        False,
        128,
    )


@pytest.mark.parametrize(
    ("tied", "scaled", "expected"),
    [(None, None, True), (False, None, False), (True, False, False), (True, True, True)],
)
def test_a_t5_of_either_release_of_transformers_is_told_by_its_head(tied, scaled, expected):
    """transformers 4 writes tie_word_embeddings, 5 writes it true always and scale_decoder_outputs beside it."""
    hf = SMALL | {"tie_word_embeddings": tied, "scale_decoder_outputs": scaled}
    assert t5.config(hf)["tie_embeddings"] is expected


@pytest.mark.parametrize("architecture", bert.ARCHITECTURES)
def test_bert_there_and_back(architecture):
    hf = BASE | {"architectures": [architecture], "id2label": {"0": "A", "1": "B", "2": "C"}}
    fields = bert.config(hf)
    assert fields["num_labels"] == (3 if "Classification" in architecture else 0)
    config = dataclasses.replace(BERTConfig(**fields), vocab_size=50, d_model=12, d_ff=8)
    back = bert.config(bert.hf_config(config))
    assert back == {name: getattr(config, name) for name in back}
    assert {entry.ours for entry in bert.entries(config)} == set(shapes(BERT(config)))


@pytest.mark.parametrize("change", [{}, {"feed_forward_proj": "relu", "tie_word_embeddings": True}])
def test_t5_there_and_back(change):
    config = T5Config(**t5.config(SMALL | change | {"d_model": 12, "num_decoder_layers": 2}))
    back = t5.config(t5.hf_config(config))
    assert back == {name: getattr(config, name) for name in back}
    assert {entry.ours for entry in t5.entries(config)} == set(shapes(T5(config)))


@pytest.mark.parametrize(
    ("family", "hf", "change"),
    [
        (bert, BASE, {"position_embedding_type": "relative_key"}),
        (bert, BASE, {"is_decoder": True}),
        (bert, BASE, {"add_cross_attention": True}),
        (bert, BASE, {"tie_word_embeddings": False}),
        (bert, BASE, {"hidden_act": "mish"}),
        (bert, BASE | {"architectures": ["BertForSequenceClassification"]}, {"problem_type": "regression"}),
        (t5, SMALL, {"feed_forward_proj": "gated-silu"}),
        (t5, SMALL, {"is_encoder_decoder": False}),
        (t5, SMALL, {"scale_decoder_outputs": True}),
    ],
)  # fmt: skip
def test_what_can_not_be_represented_is_refused_by_its_key(family, hf, change):
    (key, value), *_ = change.items()
    with pytest.raises(ValueError, match=f"config.json: {key}={value!r}.* can't be represented"):
        family.config(hf | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp": "swiglu"}, "model.mlp"),
        ({"bias": False}, "model.bias"),
        ({"num_kv_heads": 4}, "model.num_kv_heads=4"),
        ({"head": "sequence", "num_labels": 2}, "model.pooler=False"),
    ],
)
def test_a_bert_that_transformers_has_not_is_not_exported(change, message):
    with pytest.raises(ValueError, match=message):
        bert.hf_config(BERTConfig(vocab_size=50, **change))


def test_a_t5_with_experts_is_not_exported():
    with pytest.raises(ValueError, match="model.num_experts=4"):
        t5.hf_config(T5Config(vocab_size=50, num_experts=4))


def test_names_of_older_files_and_of_bare_encoders_are_found():
    config = BERTConfig(vocab_size=50, num_layers=1)
    old = "embeddings.LayerNorm.gamma"
    names = {entry.theirs for entry in bert.entries(config)} - {"bert.embeddings.LayerNorm.weight"}
    spelt = {name.removeprefix("bert.") for name in names} | {old, "embeddings.position_ids"}

    class Held:
        where = "old"
        shapes = dict.fromkeys(spelt, (1,))
        dtypes = dict.fromkeys(spelt, "F32")

    matched = mapping.match(bert, config, Held())
    assert matched.names["embedding_norm/scale"] == old
    assert not matched.fresh and not matched.unused


def test_a_t5_file_may_hold_copies_of_its_embedding():
    config = T5Config(vocab_size=50, num_layers=1)
    names = {entry.theirs for entry in t5.entries(config)}
    names |= {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}

    class Held:
        where = "old"
        shapes = dict.fromkeys(names, (1,))
        dtypes = dict.fromkeys(names, "F32")

    assert not mapping.match(t5, config, Held()).unused


def test_the_bias_of_a_masked_head_is_found_under_either_of_its_names():
    names = mapping.spelled(bert, "cls.predictions.bias")
    assert names == ["cls.predictions.bias", "cls.predictions.decoder.bias"]
