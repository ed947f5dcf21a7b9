"""The VAE from end to end: a run that was cut off, its scores, what it writes from the prior and between two texts."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import config, interpolate

TEXTS = [f"{n} is {('even', 'odd')[n % 2]}." for n in range(200)]


def make_config(folder):
    cfg = config.base()
    sizes = {"d_model": 8, "d_hidden": 16, "d_encoder": 16, "d_latent": 4, "max_len": 16}
    cfg.model = config.section("model", "vae", word_dropout=0.3, dropout=0.1, **sizes)
    cfg.objective = config.section("objective", "elbo", kl_warmup_fraction=0.75, free_bits=0.1)
    path = str(folder / "texts.jsonl")
    cfg.data = config.section("data", "lines", path=path, tokenizer="chars", eval_examples=9)
    cfg.evaluators = ("perplexity", "latent", "iw_bound")
    cfg.num_steps, cfg.batch_size, cfg.micro_batch_size = 4, 16, 8
    cfg.log_every, cfg.checkpoint_every, cfg.eval_every = 1, 2, 0
    cfg.sample_every, cfg.sample_tokens = 2, 4
    return cfg


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Of all of this file, as the fixture `quick_compiling` is of a test."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick):
    folder = tmp_path_factory.mktemp("vae")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    jaxlm.run(make_config(folder), folder / "whole")
    return folder


def summary(path):
    return json.loads((path / "summary.json").read_text())


def test_scores_are_a_bound_and_say_so(folder):
    found = summary(folder / "whole")
    expected = "texts<=16 tokens|tokenizer=chars|bound=elbo"
    assert found["signatures"]["bits_per_byte"].startswith(expected)
    assert "bound=iw,samples=50" in found["signatures"]["iw_bits_per_byte"]
    assert 0 < found["val_iw_bits_per_byte"] < 20
    assert found["val_kl"] >= 0 and 0 <= found["val_active_units"] <= 4
    assert found["val_shuffled_nll"] > 0
    rows = [json.loads(line) for line in (folder / "whole" / "metrics.jsonl").open()]
    trained = [row for row in rows if row["split"] == "train"]
    assert [row["kl_weight"] for row in trained] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-6)
    assert all(row["loss"] >= row["nll"] - 1e-6 for row in trained)


def test_a_run_that_was_cut_off_ends_bit_for_bit(folder):
    shutil.copytree(folder / "whole", folder / "cut")
    shutil.rmtree(folder / "cut" / "checkpoints" / "00000004")
    (folder / "cut" / "summary.json").unlink()
    jaxlm.run(make_config(folder), folder / "cut")
    whole, cut = summary(folder / "whole"), summary(folder / "cut")
    assert whole["state_sha256"] == cut["state_sha256"]
    scores = [name for name in whole if name.startswith("val_")]
    assert [whole[name] for name in scores] == [cut[name] for name in scores]


def test_it_writes_from_the_prior_and_between_two_texts(folder, capsys):
    lm = jaxlm.load(folder / "whole")
    several = lm.write(["", "", ""], seed=3, max_tokens=5, temperature=0.0)
    (alone,) = lm.write("", seed=5, max_tokens=5, temperature=0.0)
    assert alone == several[2]
    line = ["--workdir", str(folder / "whole"), "--first", "7 is odd.", "--second", "12 is even."]
    assert interpolate.main([*line, "--num_points", "3", "--max_tokens", "4"]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines() if row[0] == "{"]
    assert [row["place"] for row in rows] == [0.0, 0.5, 1.0]
    assert all(np.isfinite(row["score"]) and row["score"] <= 0 for row in rows)
    assert interpolate.main([*line, "--num_points", "1"]) == 2
    assert "num_points=1 must be at least 2" in capsys.readouterr().err


def test_without_a_text_it_is_a_causal_language_model(folder):
    lm = jaxlm.load(folder / "whole")
    assert lm.logits(np.zeros((1, 3), np.int32)).shape[:2] == (1, 3)
    (found,) = lm.loglikelihoods([("7 is", " odd.")])
    assert found.total < 0


def test_other_objectives_refuse_it(folder):
    cfg = make_config(folder)
    cfg.objective = config.section("objective", "causal_lm")
    cfg.evaluators = ("perplexity",)
    with pytest.raises(ValueError, match="VAE is latent.*For this model: elbo"):
        jaxlm.run(cfg, folder / "refused")
