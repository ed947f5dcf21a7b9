"""BERT against transformers: logits and gradients, with padding, odd lengths, token types; and there and back."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from against import (  # noqa: E402
    assert_same_gradients,
    assert_same_logits,
    exported,
    imported,
    random_weights,
)

from jaxlm.models.bert import BERT  # noqa: E402

VOCAB, LENGTH = 57, 11
CASES = {
    "mlm": ("BertForMaskedLM", "AutoModelForMaskedLM", {"hidden_act": "gelu"}),
    "mlm with tanh": ("BertForMaskedLM", "AutoModelForMaskedLM", {"hidden_act": "gelu_new"}),
    "sequence": ("BertForSequenceClassification", "AutoModelForSequenceClassification", {}),
    "token": (
        "BertForTokenClassification",
        "AutoModelForTokenClassification",
        {"hidden_act": "relu"},
    ),
}


def small(**changes):
    """Three heads of width 7, three token types, five classes."""
    return transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=21,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=34,
        max_position_embeddings=16,
        type_vocab_size=3,
        num_labels=5,
        attn_implementation="eager",
        **changes,
    )


def batch():
    """Two rows of 11 and 7 real tokens."""
    rng = np.random.default_rng(0)
    mask = np.ones((2, LENGTH), np.int32)
    mask[1, 7:] = 0
    tokens = rng.integers(1, VOCAB, mask.shape).astype(np.int32) * mask
    types = rng.integers(0, 3, mask.shape).astype(np.int32)
    return tokens, types, mask


def their_inputs(tokens, types, mask):
    parts = {"input_ids": tokens, "token_type_ids": types, "attention_mask": mask}
    return {name: torch.tensor(value).long() for name, value in parts.items()}


def our_inputs(tokens, types, mask):
    return {"tokens": tokens, "token_types": types, "segment_ids": mask}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_export(tmp_path, name):
    made, auto, changes = CASES[name]
    tokens, types, mask = arrays = batch()
    theirs = random_weights(getattr(transformers, made)(small(**changes)))
    ours = imported(BERT, theirs, tmp_path / "theirs", our_inputs(*arrays))
    assert not ours.matched.fresh and not ours.matched.unused
    whole = name == "sequence"
    one_each = None if whole else mask

    expected = theirs(**their_inputs(*arrays)).logits
    found = jax.jit(ours.model.apply)({"params": ours.params}, **our_inputs(*arrays)).logits()
    assert_same_logits(found[:, 0] if whole else found, expected, one_each)

    rng = np.random.default_rng(1)
    shape = (2, 1) if whole else mask.shape
    targets = rng.integers(0, expected.shape[-1], shape).astype(np.int32)
    weights = np.ones(shape, np.float32) if whole else rng.integers(0, 2, shape) * mask
    labels = torch.tensor(np.where(weights, targets, -100)).long()

    def loss(params):
        output = ours.model.apply({"params": params}, **our_inputs(*arrays))
        return jnp.sum(output.token_nll(targets) * weights) / weights.sum()

    their_loss = theirs(**their_inputs(*arrays), labels=labels[:, 0] if whole else labels).loss
    assert_same_gradients(ours, loss, theirs, their_loss)

    again = exported(ours, getattr(transformers, auto), tmp_path / "ours")
    assert type(again) is type(theirs)
    assert_same_logits(expected.detach(), again(**their_inputs(*arrays)).logits)


def test_hidden_states_and_pooler_of_a_bare_encoder(tmp_path):
    arrays = batch()
    theirs = random_weights(transformers.BertModel(small()))
    ours = imported(BERT, theirs, tmp_path / "theirs", our_inputs(*arrays))
    expected = theirs(**their_inputs(*arrays))
    found = jax.jit(ours.model.apply)({"params": ours.params}, **our_inputs(*arrays))
    assert_same_logits(found.hidden, expected.last_hidden_state, arrays[2])
    assert_same_logits(found.aux["pooled_BD"], expected.pooler_output)
    again = exported(ours, transformers.AutoModel, tmp_path / "ours")
    hidden = again(**their_inputs(*arrays)).last_hidden_state
    assert_same_logits(expected.last_hidden_state.detach(), hidden)


def test_a_pretraining_file_gives_its_masked_lm_and_names_what_is_not_used(tmp_path):
    """As bert-base-uncased is stored: both pretraining heads."""
    arrays = batch()
    theirs = random_weights(transformers.BertForPreTraining(small()))
    ours = imported(BERT, theirs, tmp_path / "theirs", our_inputs(*arrays))
    expected = theirs(**their_inputs(*arrays)).prediction_logits
    found = jax.jit(ours.model.apply)({"params": ours.params}, **our_inputs(*arrays)).logits()
    assert_same_logits(found, expected, arrays[2])
    assert not ours.matched.fresh
    assert set(ours.matched.unused) == {
        f"{name}.{part}"
        for name in ("bert.pooler.dense", "cls.seq_relationship")
        for part in ("weight", "bias")
    }
