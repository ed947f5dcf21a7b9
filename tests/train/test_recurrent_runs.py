"""Runs whose rows go on from batch to batch: cut off and gone on with, and what being carried changes."""

import shutil

import numpy as np
import pytest

import jaxlm
from jaxlm import config as configs

pytestmark = pytest.mark.usefixtures("quick_compiling")
TEXT = "the cat sat on the mat and the dog sat on the log. " * 30
MODELS = {
    "awd-lstm": ("rnn", {"d_hidden": 12, "locked_dropout": True, "dropout": 0.2, "word_dropout": 0.1,
                         "weight_dropout": 0.3, "activation_reg": 1.0, "temporal_reg": 1.0}),
    "nplm": ("nplm", {"order": 4, "d_hidden": 8, "dropout": 0.2}),
}  # fmt: skip


def settings(tmp_path, name, **overrides):
    """Of 1,376 tokens in 8 streams: 11 batches an epoch."""
    (tmp_path / "text.txt").write_text(TEXT)
    kind, fields = MODELS[name]
    cfg = configs.base()
    cfg.model = configs.section("model", kind, d_model=8, **fields)
    cfg.data = configs.section(
        "data", "stream_text", path=str(tmp_path / "text.txt"), tokenizer="chars", seq_len=16
    )
    cfg.batch_size = cfg.micro_batch_size = 8
    cfg.num_steps, cfg.log_every, cfg.checkpoint_every = 14, 1, 5
    cfg.eval_every = cfg.sample_every = cfg.sample_tokens = 0
    for key, value in overrides.items():
        cfg.data[key] = value
    return cfg


@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_was_cut_off_ends_bit_for_bit_as_one_that_was_not(name, tmp_path):
    """Gone on with in the middle of an epoch, where every row stands in the middle of its text."""
    cfg = settings(tmp_path, name)
    whole = jaxlm.run(cfg, tmp_path / "whole")
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    for step in ("00000010", "00000014"):
        shutil.rmtree(cut / "checkpoints" / step)
    (cut / "summary.json").unlink()
    assert jaxlm.run(cfg, cut)["state_sha256"] == whole["state_sha256"]


def test_what_is_carried_counts(tmp_path):
    found = {}
    for carry in (True, False):
        cfg = settings(tmp_path, "nplm", carry=carry)
        found[carry] = jaxlm.run(cfg, tmp_path / str(carry))["val_loss"]
    assert all(np.isfinite(list(found.values()))) and found[True] != found[False]
