"""Runs of EM: the same windows every epoch, cut off and gone on with, and what is refused before a run begins."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import config as configs

pytestmark = pytest.mark.usefixtures("quick_compiling")
TEXT = "the cat sat on the mat and the dog sat on the log. " * 30


def settings(tmp_path, **overrides):
    (tmp_path / "text.txt").write_text(TEXT)
    cfg = configs.base()
    cfg.model = configs.section("model", "hmm", num_states=4)
    cfg.data = configs.section(
        "data",
        "stream_text",
        path=str(tmp_path / "text.txt"),
        tokenizer="chars",
        seq_len=16,
        carry=False,
    )
    cfg.step = configs.section("step", "em", smoothing=0.0)
    cfg.batch_size = cfg.micro_batch_size = 8
    cfg.num_steps, cfg.log_every = 55, 1
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = cfg.sample_tokens = 0
    for name, value in overrides.items():
        section, _, key = name.rpartition("__")
        (cfg[section] if section else cfg)[key] = value
    return cfg


def test_through_the_loop_the_training_likelihood_never_falls(tmp_path):
    """The same windows come every epoch: 1,376 tokens in 8 streams are 11 batches of 16."""
    jaxlm.run(settings(tmp_path), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    train = [row for row in rows if row["split"] == "train"]
    assert train[9]["log_likelihood"] is None and train[10]["num_updates"] == 1
    passes = [row["log_likelihood"] for row in train[10::11]]
    assert len(passes) == 5 and (np.diff(passes) >= -1e-6).all() and passes[-1] > passes[0]


def test_what_is_not_finite_is_one_line_and_its_batch_is_kept(tmp_path, monkeypatch):
    from jaxlm.models.hmm import HMM

    counted = HMM.expected_counts

    def broken(self, params, batch):
        counts, loss = counted(self, params, batch)
        return counts | {"initial": counts["initial"] * jnp.nan}, loss

    monkeypatch.setattr(HMM, "expected_counts", broken)
    with pytest.raises(FloatingPointError, match=r"^step 0 .* is not finite: .*on_nonfinite=skip"):
        jaxlm.run(settings(tmp_path), tmp_path / "run")
    assert (tmp_path / "run" / "nonfinite_step_0.npz").is_file()


def test_a_run_that_was_cut_off_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    cfg = settings(tmp_path, num_steps=22, checkpoint_every=8)
    whole = jaxlm.run(cfg, tmp_path / "whole")
    stopped = tmp_path / "cut"
    jaxlm.run(cfg, stopped)
    for name in ("00000016", "00000022"):  # as if killed in the middle of a pass
        for path in sorted((stopped / "checkpoints" / name).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (stopped / "checkpoints" / name).rmdir()
    (stopped / "summary.json").unlink()
    assert jaxlm.run(cfg, stopped)["state_sha256"] == whole["state_sha256"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"optim__learning_rate": 0.5},
            "no optimizer, so optim.learning_rate=0.5 would do nothing",
        ),
        ({"data__carry": True}, "set data.carry=False"),
        ({"model__parameters": "neural"}, 'writes the tables of model.parameters="table"'),
        ({"objective__z_loss": 0.1}, "objective.z_loss=0.1 means nothing"),
        (
            {"num_steps": 12},
            "the last 1 of num_steps=12 would count for nothing: set num_steps to 11 or 22",
        ),
        (
            {"data__num_streams": 3},
            "no whole number of batches of batch_size=8: take data.num_streams=0",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        jaxlm.run(settings(tmp_path, **overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
