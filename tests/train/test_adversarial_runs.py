"""The game through the loop: logs, scores and samples as of any language model, and a cut-off run goes on bit for bit."""

import json
import shutil

import pytest

from jaxlm import config as configs
from jaxlm.train import loop

PLAIN = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0}
PHASES = {"pretrain_fraction": 0.25, "discriminator_fraction": 0.25}


@pytest.fixture
def make(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. the dog sat on the log.\n" * 12)

    def made(generator="gumbel", **changes):
        cfg = configs.base()
        cfg.model = configs.section(
            "model",
            "gan",
            num_layers=1,
            d_model=8,
            max_len=16,
            discriminator_width=4,
            num_filters=4,
        )
        cfg.data = configs.section(
            "data", "text", path=str(tmp_path / "text.txt"), tokenizer="chars", eval_examples=4
        )
        cfg.objective = configs.section("objective", "adversarial", generator=generator)
        cfg.step = configs.section("step", "adversarial", ema_decay=0.9, **PHASES)
        cfg.optim = {
            name: configs.section("optim", **PLAIN) for name in ("generator", "discriminator")
        }
        cfg.evaluators = ("perplexity", "collapse")
        cfg.num_steps, cfg.batch_size, cfg.log_every, cfg.sample_tokens = 4, 8, 1, 8
        cfg.checkpoint_every = 2
        for key, value in changes.items():
            configs.override(cfg, key.replace("__", "."), value)
        return cfg

    return made


@pytest.mark.usefixtures("quick_compiling")
@pytest.mark.parametrize("generator", ["gumbel", pytest.param("policy", marks=pytest.mark.slow)])
def test_a_run_that_was_cut_off_ends_bit_for_bit_as_one_that_was_not(make, tmp_path, generator):
    """And it logs both losses, scores as any language model's does, and samples."""
    whole = loop.run(make(generator), tmp_path / "whole")
    assert 0 < whole["val_bits_per_byte"] < 10 and 0 <= whole["val_self_bleu"] <= 100
    assert whole["signatures"]["loss"].startswith("windows=16|stride=16|tokenizer=chars")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").open()]
    rows = [row for row in rows if row["split"] == "train"]
    assert [row["generator_loss"] is None for row in rows] == [True, True, False, False]
    assert [row["discriminator_loss"] is None for row in rows] == [True, False, False, False]
    assert all("bits_per_byte" in row and "distinct_2" in row for row in rows)
    assert "=== step 4 ===" in (tmp_path / "whole" / "samples.txt").read_text()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "00000004")
    (tmp_path / "cut" / "summary.json").unlink()
    again = loop.run(make(generator), tmp_path / "cut")
    assert again["state_sha256"] == whole["state_sha256"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"batch_size": "16", "micro_batch_size": "8"},
            "micro_batch_size splits a batch into 2 parts",
        ),
        ({"step__num_rollouts": "2"}, "step.num_rollouts=2 is for"),
    ],
)
def test_what_is_refused_leaves_no_trace(make, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        loop.run(make(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
