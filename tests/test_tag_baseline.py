"""The commonest tag of each word by hand, and of words that training lacks."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "tools" / "tag_baseline.py"
EXPERIMENT = PATH.parent.parent / "experiments" / "finetune_tags.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("tag_baseline", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_by_hand(tool):
    train = [
        (["Ann", "sees", "Ben"], "nvn"),
        (["the", "saw", "saw", "saw", "saw"], "dvvvv"),
        (["it"], "p"),
    ]
    tag_of = tool.conditional(train)
    assert [tag_of(word) for word in ("Ann", "saw", "the")] == ["n", "v", "d"]
    assert tag_of("Yann") == "n"  # as Ann: upper case, ann
    assert tag_of("foresees") == "v"  # as sees: ees
    # Of Ann, sees, Ben, the and it, which are there once, most are n; of all words v.
    assert tag_of("zzz") == "n"


def test_scores_of_an_experiment(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    rows = [{"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"]}] * 9
    rows += [{"tokens": ["Ann", "Bob", "ran"], "tags": ["B-PER", "B-PER", "O"]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = f"--config.data.path={tmp_path}/a.jsonl"
    assert tool.main([str(EXPERIMENT), path]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sentences"] == 1 and found["unknown_words"] == pytest.approx(1 / 3)
    assert (
        found["entity_recall"]["value"] == 1.0
    )  # Bob, an upper-case word, as the commonest tag of all
    assert tool.main([f"{EXPERIMENT}:pos", path]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"]["value"] == 1.0


def test_a_run_beside_it(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    rows = [{"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"]}] * 9
    rows += [{"tokens": ["ran", "Ann", "off"], "tags": ["B-PER", "B-PER", "O"]}] * 2
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [str(EXPERIMENT), f"--config.data.path={tmp_path}/a.jsonl"]
    command += ["--config.data.val_fraction=0.18", "--run", str(tmp_path)]
    assert tool.main(command) == 2
    assert "no finished run" in capsys.readouterr().err
    # The run read two words of each sentence, the second one first, and found both names.
    read = {"prediction": "B-PER B-PER", "reference": "B-PER B-PER"}
    lines = [json.dumps(read | {"id": number}) + "\n" for number in (1, 0)]
    (tmp_path / "predictions_val.jsonl").write_text("".join(lines))
    assert tool.main(command) == 0
    accuracy = json.loads(capsys.readouterr().out)["token_accuracy"]
    assert (accuracy["value"], accuracy["run"]) == (0.5, 1.0)
    assert accuracy["run_ahead_by"] == 0.5 and accuracy["interval"] == [0.5, 0.5]
    (tmp_path / "predictions_val.jsonl").write_text(lines[0])
    assert tool.main(command) == 2
    assert "other sentences" in capsys.readouterr().err
