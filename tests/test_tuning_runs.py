"""Runs that train a part of a model, through the command line: cut off and gone on with, loaded, asked, exported, begun from."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import config, convert
from jaxlm.core import partition
from jaxlm.train import manifest

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO / "tests" / "interop"))
import stored  # noqa: E402

LINES = [f"{'abcdefgh'[n % 8]} {'the cat' if n % 2 else 'a dog'} ran.\t{n % 2}" for n in range(80)]
LOOP = {"num_steps": 4, "batch_size": 8, "micro_batch_size": 4, "log_every": 1, "eval_every": 2, "checkpoint_every": 2,
        "sample_every": 0, "sample_tokens": 4, "step.ema_decay": 0.9, "optim.warmup_steps": 1}  # fmt: skip
BERT = {"data.path": "labelled.tsv", "data.min_count": 1, "data.seq_len": 20, "data.tokenizer": "init_from",
        "init_from": "bert", "model.dropout": 0.1}  # fmt: skip
CASES = {
    "lora": {"tuning.dropout": 0.1},
    "probe": {},
    "last": {},
    "unfreeze": {"tuning.unfreeze_every": 1},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "labelled.tsv").write_text("\n".join(LINES) + "\n")
    stored.write(tmp_path / "bert", stored.bert_config(), stored.bert_tensors())
    return tmp_path


def options(settings):
    return [f"--config.{key}={value}" for key, value in settings.items()]


@pytest.mark.slow
@pytest.mark.parametrize("variant", CASES)
def test_resumed_is_uninterrupted(variant, folder, run_cli):
    spec = REPO / "experiments" / f"finetune_classify.py:{variant}"
    line = ["launch", "--config", spec, *options(LOOP | BERT | CASES[variant]), "--workdir"]
    said = run_cli(*line, "whole", check=True).stdout
    assert "trains     " in said
    shutil.copytree(folder / "whole", folder / "cut")
    shutil.rmtree(folder / "cut" / "checkpoints" / "00000004")
    (folder / "cut" / "summary.json").unlink()
    result = run_cli(*line, "cut", check=True)
    assert "resumed    step 2" in result.stdout
    whole, cut = (
        json.loads((folder / run / "summary.json").read_text()) for run in ("whole", "cut")
    )
    assert whole["state_sha256"] == cut["state_sha256"]
    assert whole["val_accuracy"] == cut["val_accuracy"]
    if variant == "unfreeze":
        return
    # The weights that did not train were replaced: neither a resume nor a load takes others for them.
    shutil.rmtree(folder / "cut" / "checkpoints" / "00000004")
    stored.write(folder / "bert", stored.bert_config(), stored.bert_tensors(seed=1))
    refused = run_cli(*line, "cut")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert (
        "the frozen weights (base) are not those that this run was started with" in refused.stderr
    )
    with pytest.raises(
        ValueError,
        match="the weights that did not train are not those that this run was started with",
    ):
        jaxlm.load(folder / "whole")
    shutil.rmtree(folder / "bert")
    with pytest.raises(
        ValueError,
        match=r"bert: no such file or folder \(this run's checkpoint holds only what was trained",
    ):
        jaxlm.load(folder / "whole")


def gpt_config(folder, **settings):
    cfg = config.base()
    cfg.model = config.section("model", "gpt")
    cfg.data = config.section(
        "data", "text", path=str(folder / "text.txt"), tokenizer="init_from", seq_len=16
    )
    cfg.init_from = str(folder / "hf")
    cfg.optim = config.section("optim", "adamw", learning_rate=0.05, warmup_steps=1)
    cfg.num_steps, cfg.batch_size, cfg.micro_batch_size, cfg.sample_tokens = 2, 8, 8, 4
    for key, value in settings.items():
        config.override(cfg, key.replace("__", "."), value)
    return cfg


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    (folder / "text.txt").write_text("the cat sat on the mat. a dog ran.\n" * 60)
    # Untied, but with a table for itself: most of the model does not train.
    stored.write(folder / "hf", stored.LLAMA, stored.llama_tensors())
    return folder


def size(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_lora_run_is_small_and_used_as_any_run(llama, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(llama)
    cfg = gpt_config(llama, init_from="hf")  # also from another folder, see below
    cfg.tuning = config.section("tuning", "lora", rank=1, targets=("attention/q$",))
    summary = jaxlm.run(cfg, tmp_path / "run")
    said = capsys.readouterr().out
    base = jaxlm.load(llama / "hf")
    count = sum(leaf.size for leaf in jax.tree.leaves(base.params))
    assert summary["num_params"] == count + 128 and summary["num_trained"] == 2 * (32 + 32) == 128
    assert (
        f"trains     128 of {count + 128:,} parameters (" in said
        and "LoRA of rank 1 beside 2 kernels" in said
    )

    monkeypatch.chdir(tmp_path)
    lm = jaxlm.load("run")
    moved = {
        path
        for path, leaf in partition.flatten(lm.params).items()
        if not np.array_equal(leaf, partition.flatten(base.params)[path])
    }
    assert moved == {f"stack/block_{layer}/attention/q/kernel" for layer in (0, 1)}
    assert lm.generate("the", max_tokens=3) and lm.step == 2
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("0*"))
    leaves = manifest.read(checkpoint)["leaves"]
    held = [name for name in leaves if name.startswith("params/")]
    assert (
        len(held) == 4
        and all("lora_" in name for name in held)
        and not any("frozen" in n for n in leaves)
    )
    values = sum(int(np.prod(one["shape"])) for one in leaves.values())
    assert values < 4 * 128 and size(checkpoint) < 4 * count

    # The merged model, by itself and as another run's start.
    assert convert.main(["export", "run", "merged"]) == 0
    tokens = np.array([[3, 1, 4, 1, 5]])
    merged = jaxlm.load("merged")
    np.testing.assert_allclose(merged.logits(tokens), lm.logits(tokens), atol=1e-5)
    assert np.abs(base.logits(tokens) - lm.logits(tokens)).max() > 1e-4
    cfg = gpt_config(
        llama, init_from="run", optim__learning_rate="1e-9", optim__weight_decay="0", num_steps="1"
    )
    jaxlm.run(cfg, tmp_path / "next")
    again = jaxlm.load(tmp_path / "next")
    np.testing.assert_allclose(again.logits(tokens), lm.logits(tokens), atol=1e-5)


@pytest.mark.slow
def test_a_prompt_run_is_small_writes_and_is_no_start(llama, tmp_path):
    cfg = gpt_config(llama)
    cfg.tuning = config.section("tuning", "prompt", num_tokens=3)
    summary = jaxlm.run(cfg, tmp_path / "run")
    assert summary["num_trained"] == 3 * 32
    lm = jaxlm.load(tmp_path / "run")
    base = jaxlm.load(llama / "hf")
    assert lm.params["prompt"].shape == (3, 32)
    assert lm.generate("the", max_tokens=3, temperature=0.0)
    tokens = np.array([[3, 1, 4, 1, 5]])
    assert np.abs(base.logits(tokens) - lm.logits(tokens)).max() > 1e-4
    with pytest.raises(ValueError, match="learned a prompt, which is no part of a model"):
        jaxlm.run(gpt_config(llama, init_from=str(tmp_path / "run")), tmp_path / "next")
    with pytest.raises(ValueError, match="Llama has no place for prompt"):
        convert.export_model(str(tmp_path / "run"), tmp_path / "hf")
    # A run that goes on is the one that never stopped.
    cfg.num_steps, cfg.checkpoint_every = 4, 2
    whole = jaxlm.run(cfg, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "00000004")
    (tmp_path / "cut" / "summary.json").unlink()
    assert jaxlm.run(cfg, tmp_path / "cut")["state_sha256"] == whole["state_sha256"]


@pytest.mark.slow
def test_a_student_begins_as_some_of_its_teachers_layers(llama, tmp_path):
    cfg = gpt_config(llama, optim__learning_rate="1e-9", optim__weight_decay="0", num_steps="1")
    cfg.init_layers = (1,)
    jaxlm.run(cfg, tmp_path / "run")
    student, teacher = (jaxlm.load(path).params for path in (tmp_path / "run", llama / "hf"))
    assert set(student["stack"]) == {"block_0"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
        student["stack"]["block_0"],
        teacher["stack"]["block_1"],
    )
    np.testing.assert_allclose(
        student["embed"]["embedding"], teacher["embed"]["embedding"], atol=1e-7
    )
    cfg.init_layers = (2,)
    with pytest.raises(
        ValueError, match=r"init_layers=\(2,\): the model of init_from has layers 0 to 1"
    ):
        jaxlm.run(cfg, tmp_path / "other")


def test_what_is_drawn_and_frozen_is_refused(folder, tmp_path):
    """A pooler that the pretrained model lacks would stay noise."""
    tensors = {n: x for n, x in stored.bert_tensors().items() if not n.startswith("pooler")}
    stored.write(folder / "bert", stored.bert_config(), tensors)
    spec = f"{REPO / 'experiments' / 'finetune_classify.py'}:lora"
    settings = (
        LOOP
        | BERT
        | {
            "model.pooler": True,
            "micro_batch_size": 8,
            "data.path": folder / "labelled.tsv",
            "init_from": folder / "bert",
        }
    )
    cfg = config.load(spec, {key: str(value) for key, value in settings.items()})
    with pytest.raises(
        ValueError,
        match=r"tuning freezes what init_from has no weights for \(pooler/bias, pooler/kernel\)",
    ):
        jaxlm.run(cfg, tmp_path / "run")
