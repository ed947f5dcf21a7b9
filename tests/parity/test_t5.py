"""T5 1.0 and 1.1 against transformers: logits and gradients, with padding and odd sizes; and there and back."""

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

from jaxlm.models.t5 import T5  # noqa: E402

VOCAB, SOURCE, TARGET = 61, 37, 23


def small(version, decoder_layers=3):
    """Five heads of width 7 on a width of 18; distances reach into every bucket."""
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=18,
        d_kv=7,
        d_ff=29,
        num_layers=2,
        num_decoder_layers=decoder_layers,
        num_heads=5,
        relative_attention_max_distance=30,
        feed_forward_proj="relu" if version == "1.0" else "gated-gelu",
        tie_word_embeddings=version == "1.0",
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    model = transformers.T5ForConditionalGeneration(config)
    if (
        version == "1.1"
    ):  # transformers 5 ties a fresh model's head all the same; published ones are not tied
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 18))
    return random_weights(model)


def batch():
    """Sources of 37 and 20 tokens, targets of 23 and 9; decoder inputs shifted right by hand."""
    rng = np.random.default_rng(0)
    source_mask, mask = np.ones((2, SOURCE), np.int32), np.ones((2, TARGET), np.int32)
    source_mask[1, 20:], mask[1, 9:] = 0, 0
    source = rng.integers(1, VOCAB, source_mask.shape).astype(np.int32) * source_mask
    targets = rng.integers(1, VOCAB, mask.shape).astype(np.int32) * mask
    tokens = np.concatenate([np.zeros((2, 1), np.int32), targets[:, :-1]], axis=1)
    return source, source_mask, tokens, targets, mask


def their_inputs(source, source_mask, tokens, targets, mask):
    parts = {
        "input_ids": source,
        "attention_mask": source_mask,
        "labels": np.where(mask, targets, -100),
    }
    return {name: torch.tensor(value).long() for name, value in parts.items()}


def our_inputs(source, source_mask, tokens, targets, mask):
    return {
        "tokens": tokens,
        "source": source,
        "segment_ids": mask,
        "source_segment_ids": source_mask,
    }


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_logits_gradients_and_export(tmp_path, version):
    arrays = batch()
    targets, mask = arrays[3:]
    theirs = small(version)
    ours = imported(T5, theirs, tmp_path / "theirs", our_inputs(*arrays))
    assert ours.model.config.tie_embeddings == (version == "1.0")

    expected = theirs(**their_inputs(*arrays))
    found = jax.jit(ours.model.apply)({"params": ours.params}, **our_inputs(*arrays)).logits()
    assert_same_logits(found, expected.logits, mask)

    def loss(params):
        output = ours.model.apply({"params": params}, **our_inputs(*arrays))
        return jnp.sum(output.token_nll(targets) * mask) / mask.sum()

    assert_same_gradients(ours, loss, theirs, expected.loss)

    again = exported(ours, transformers.AutoModelForSeq2SeqLM, tmp_path / "ours")
    assert_same_logits(expected.logits.detach(), again(**their_inputs(*arrays)).logits)


def test_greedy_decoding_gives_the_same_tokens(tmp_path):
    """Theirs with `generate`, ours with the cache."""
    source, source_mask, *rest = arrays = batch()
    theirs = small("1.0", decoder_layers=2)  # their cache is made for as many layers as the encoder
    ours = imported(T5, theirs, tmp_path / "theirs", our_inputs(*arrays))
    expected = theirs.generate(
        torch.tensor(source).long(),
        attention_mask=torch.tensor(source_mask).long(),
        max_new_tokens=12,
        min_new_tokens=12,
        do_sample=False,
    )
    cache = ours.model.init_cache(ours.params, 2, 12, source, source_mask)
    extend, one = jax.jit(ours.model.extend), jnp.ones(2, jnp.int32)
    token = jnp.full((2, 1), ours.model.config.decoder_start_id, jnp.int32)
    found = [token]
    for _ in range(12):
        output, cache = extend(ours.params, cache, token, one)
        logits = output.logits()[:, 0].at[:, 1].set(-jnp.inf)  # theirs may not end early either
        token = jnp.argmax(logits, axis=-1)[:, None].astype(jnp.int32)
        found.append(token)
    np.testing.assert_array_equal(jnp.concatenate(found, axis=1), expected.numpy())
