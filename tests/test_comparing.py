"""The tools that compare runs, on folders as runs leave them; their runs are tested where runs are."""

import json
import signal
import time
from types import SimpleNamespace

import compare_distillation
import compare_tuning
import comparing
import numpy as np
import pytest


def leave_run(folder, scores, split="test", **summary):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text('{"val_accuracy": 0.5}\n{"val_accuracy": 0.75}\n{}\n')
    lines = "".join(json.dumps({"score": score}) + "\n" for score in scores)
    (folder / f"predictions_{split}.jsonl").write_text(lines)
    return folder


def test_the_difference_of_two_ways_by_hand():
    right = np.array([[1, 1, 1, 0.0], [1, 1, 1, 1]])
    wrong = np.array([[0, 1, 0, 0.0], [0, 0, 0, 1]])
    said = comparing.difference(("A", "B"), right, wrong)
    # 7/8 - 2/8; of the seeds 0.5 and 0.75, whose t interval is 0.625 +- 12.7062 * 0.125.
    assert said.startswith("4 examples. A - B: +0.6250, ")
    assert said.endswith("; over 2 seeds -0.9633 to +2.2133")
    assert "seeds" not in comparing.difference(("A", "B"), right[:1], wrong[:1])


def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr("jaxlm.run", lambda cfg, workdir: runs.append((cfg, workdir)))
    done = leave_run(tmp_path / "done", [1])
    assert comparing.finish(done, lambda: pytest.fail("its config is not needed")) == done
    comparing.finish(tmp_path / "new", lambda: "cfg")
    assert runs == [("cfg", tmp_path / "new")]


def test_the_run_in_progress_is_told_to_leave():
    told = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append("leave"))
    try:
        with comparing.at_most(0.05):
            time.sleep(0.2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == ["leave"]


def test_the_test_part_counts_where_there_is_one(tmp_path):
    folder = leave_run(tmp_path / "run", [0, 0], split="val")
    assert comparing.hits(folder).tolist() == [0, 0]
    (folder / "predictions_test.jsonl").write_text('{"score": 1}\n')
    assert comparing.hits(folder).tolist() == [1]


def test_the_table_of_distillation(tmp_path):
    found = {"teacher": [leave_run(tmp_path / "t", [1, 1, 1, 1, 0], num_params=1000)]}
    for name, scores in (("with its teacher", [1, 1, 1, 1, 0]), ("alone", [1, 1, 0, 0, 0])):
        found[name] = [leave_run(tmp_path / f"{name}{s}", scores, num_params=500) for s in "01"]
    lines = compare_distillation.table(found).splitlines()
    assert lines[2] == "| teacher | 1,000 | 0.8000 | 100.0% |"
    assert lines[4] == "| alone | 500 | 0.4000 (seeds: 0.4000, 0.4000) | 50.0% |"
    assert "with its teacher - alone: +0.4000" in lines[-1]


def test_the_table_of_tuning_takes_the_rate_that_dev_likes(tmp_path, monkeypatch):
    summary = {"num_params": 1000, "num_trained": 15, "final_step": 10, "train_seconds": 5.0}
    for way in ("full", "LoRA"):
        for rate in compare_tuning.RATES[way]:
            for seed in (0, 1):
                leave_run(tmp_path / f"{way.lower()}_{rate:g}_{seed}", [1, 0], **summary)
    liked = tmp_path / "lora_0.002_0" / "metrics.jsonl"
    liked.write_text('{"val_accuracy": 0.9}\n')
    monkeypatch.setattr(compare_tuning, "peak_memory", lambda way: 1.5)
    options = SimpleNamespace(workdir=tmp_path, seeds=2, epochs=1, memory_steps=1, seconds=0)
    lines = compare_tuning.compare(options, {}).splitlines()
    # dev: 0.9 and 0.75 of the two seeds.
    said = "| LoRA | 15 | 1.50% | 0.002 | 0.8250 | 0.5000; 0.5000, 0.5000 | 2.00 | 1.50 |"
    assert lines[3] == said
    assert lines[2].startswith("| full | 15 | 1.50% | 5e-05 | 0.7500 |")
