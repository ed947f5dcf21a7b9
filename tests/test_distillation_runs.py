"""A teacher and its students through the command line: resumed bit for bit, taught by nobody else's vocabulary or classes."""

import json
import shutil
from pathlib import Path

import pytest

from jaxlm.train import manifest

REPO = Path(__file__).resolve().parent.parent
LINES = [f"{n} is {n} times one, and {n * n} is {n} squared." for n in range(200)]
LOOP = {"num_steps": 4, "batch_size": 8, "micro_batch_size": 4, "log_every": 1, "eval_every": 2,
        "checkpoint_every": 2, "sample_every": 0}  # fmt: skip
BERT = {"model.num_layers": 4, "model.d_model": 16, "model.num_heads": 2, "model.max_len": 32,
        "data.path": "labelled.tsv", "data.seq_len": 32, "data.min_count": 1, "data.tokenizer": "bytes"}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Labelled lines, and a teacher of four layers that has learnt from them."""
    for name, labels in (("labelled", ("even", "odd")), ("other", ("even", "uneven"))):
        lines = "".join(f"{line}\t{labels[n % 2]}\n" for n, line in enumerate(LINES))
        (tmp_path / f"{name}.tsv").write_text(lines)
    return tmp_path


def command(variant, workdir, **more):
    spec = REPO / "experiments" / f"distil_classify.py{variant}"
    options = [f"--config.{key}={value}" for key, value in (LOOP | BERT | more).items()]
    return ["launch", "--config", spec, *options, "--workdir", workdir]


def summary(folder, name):
    return json.loads((folder / name / "summary.json").read_text())


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_and_goes_on_where_it_stopped(folder, run_cli):
    run_cli(*command(":teacher", "teacher"), check=True)
    before = (folder / "teacher" / "checkpoints").rglob("*")
    files = {path: path.read_bytes() for path in before if path.is_file()}
    taught = {"init_from": "teacher", "init_layers": "(1,3)", "data.tokenizer": "init_from"}
    taught |= {"objective.teacher": "teacher", "objective.attention_coef": 0.5}
    line = command("", "whole", **taught)
    shown = run_cli(*line, check=True).stdout
    assert "teacher    BERT of " in shown and "layers     1, 3 of its 4" in shown
    shutil.copytree(folder / "whole", folder / "cut")
    shutil.rmtree(folder / "cut" / "checkpoints" / "00000004")
    (folder / "cut" / "summary.json").unlink()
    assert "resumed    step 2" in run_cli(*line[:-1], "cut", check=True).stdout
    assert summary(folder, "whole")["state_sha256"] == summary(folder, "cut")["state_sha256"]
    assert all(path.read_bytes() == content for path, content in files.items())
    leaves = manifest.read(folder / "whole" / "checkpoints" / "00000004")["leaves"]
    assert leaves and not any("teacher" in name or name.startswith("frozen") for name in leaves)
    row = json.loads((folder / "whole" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"loss", "soft_loss", "hidden_loss", "attention_loss"} <= row.keys()

    other = run_cli(*command("", "no", **taught | {"data.path": "other.tsv"}))
    assert other.returncode == 2 and "['odd', 'uneven']" in other.stderr
    own = {"data.tokenizer": "gpt2", "init_from": "", "init_layers": "()"}
    other = run_cli(*command("", "no", **taught | own))
    assert other.returncode == 2 and "has another vocabulary" in other.stderr
    assert "model.vocab_size" not in other.stderr


@pytest.mark.slow
def test_a_multi_task_run_goes_on_where_it_stopped(folder, run_cli):
    small = {"model.d_model": 16, "model.num_layers": 1, "model.max_len": 32, "data.seq_len": 32}
    small |= {
        f"data.tasks.{name}.eval_examples": 8 for name in ("ner", "section", "topic", "genre")
    }
    small |= {"data.tokenizer": "bytes", "data.tasks.poet.eval_examples": 8}
    small |= {"data.tasks.exam.eval_examples": 8}
    options = [f"--config.{key}={value}" for key, value in (LOOP | small).items()]
    line = [
        "launch",
        "--config",
        REPO / "experiments" / "multi_task.py:tiny",
        *options,
        "--workdir",
    ]
    run_cli(*line, "whole", check=True)
    shutil.copytree(folder / "whole", folder / "cut")
    shutil.rmtree(folder / "cut" / "checkpoints" / "00000004")
    (folder / "cut" / "summary.json").unlink()
    assert "resumed    step 2" in run_cli(*line, "cut", check=True).stdout
    assert summary(folder, "whole")["state_sha256"] == summary(folder, "cut")["state_sha256"]
    row = json.loads((folder / "whole" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"ner_loss", "ner_accuracy", "grad_norm/ner", "grad_norm/poet"} <= row.keys()
    assert "val_ner_entity_f1" in summary(folder, "whole")
    with (folder / "whole" / "predictions_val.jsonl").open() as file:
        assert {json.loads(line)["task"] for line in file} == {
            "ner", "section", "topic", "genre", "poet", "exam",
        }  # fmt: skip
