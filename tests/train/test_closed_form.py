"""Runs without a gradient at the edges: no text, one symbol, what was never seen, less text than an n-gram has words."""

import math

import numpy as np
import pytest

import jaxlm
from jaxlm import config as configs

pytestmark = pytest.mark.usefixtures("quick_compiling")
FAMILIES = ("ngram", "hmm")


def settings(tmp_path, family, text, **data):
    (tmp_path / "text.txt").write_text(text)
    cfg = configs.base()
    common = {"path": str(tmp_path / "text.txt"), "tokenizer": "chars", "seq_len": 4} | data
    if family == "ngram":
        cfg.model = configs.section("model", "ngram", order=6)
        cfg.data = configs.section("data", "stream_text", **{"num_streams": 1} | common)
        cfg.step = configs.section("step", "counting")
        cfg.batch_size, cfg.num_steps = 64, 1
    else:
        cfg.model = configs.section("model", "hmm", num_states=2)
        cfg.data = configs.section("data", "stream_text", carry=False, **common)
        cfg.step = configs.section("step", "em", batches_per_update=1)
        cfg.batch_size, cfg.num_steps = 8, 2
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = cfg.sample_tokens = 0
    return cfg


def logits_of(folder, ids):
    """Of every token behind each of these, by the run's model."""
    lm = jaxlm.load(folder)
    return np.asarray(lm.model.apply({"params": lm.params}, np.array([ids], np.int32)).logits()[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_text_is_refused_in_a_line_that_names_it(tmp_path, family):
    with pytest.raises(ValueError, match=r"data\.path=.*text\.txt") as error:
        jaxlm.run(settings(tmp_path, family, ""), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_one_symbol_is_learned(tmp_path, family):
    summary = jaxlm.run(settings(tmp_path, family, "a" * 200), tmp_path / "run")
    assert 0 <= summary["val_loss"] < 0.2
    probs = np.exp(logits_of(tmp_path / "run", [0, 0]))
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_that_training_never_saw_has_a_probability(tmp_path, family):
    text = "abcab" * 40 + "axbza" * 10  # x and z: in the held-out part only
    summary = jaxlm.run(settings(tmp_path, family, text, val_fraction=0.2), tmp_path / "run")
    assert math.isfinite(summary["val_loss"])
    logits = logits_of(tmp_path / "run", range(4))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_shorter_than_an_n_gram_is_learned(tmp_path, family):
    """Five characters, n-grams of up to six."""
    cfg = settings(tmp_path, family, "abcab", seq_len=3, val_fraction=0.0, num_streams=1)
    cfg.batch_size, cfg.num_steps = 8, 1
    jaxlm.run(cfg, tmp_path / "run")
    probs = np.exp(logits_of(tmp_path / "run", [0, 1, 2, 0, 1, 2]))
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
    assert (probs > 0).all()
