"""Logistic regression over words: what is counted, on which lines, and a run beside it."""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("snowballstemmer")

TOOLS = Path(__file__).resolve().parent.parent / "tools"
EXPERIMENT = TOOLS.parent / "experiments" / "classify_bag.py"
KIND = ["a fast compiler for old games", "the slow library of numbers"]


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location(
        "classify_baseline", TOOLS / "classify_baseline.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(tmp_path):
    """40 lines; of the 10 that are held out two have the other text's label."""
    wrong = (33, 36)
    lines = [f"{KIND[n % 2]}\t{'gl'[(n + (n in wrong)) % 2]}\n" for n in range(40)]
    (tmp_path / "a.tsv").write_text("".join(lines))
    options = {"path": f"{tmp_path}/a.tsv", "val_fraction": 0.25, "min_count": 1}
    return [str(EXPERIMENT), *(f"--config.data.{key}={value}" for key, value in options.items())]


def test_words_and_pairs(tool):
    counted = tool.word_counter("english", pairs=True, cleaned=True)
    assert counted("The compilers, and games!") == ["compil", "game", "compil game"]
    assert tool.word_counter("english", pairs=False, cleaned=True)("the compilers") == ["compil"]
    assert tool.word_counter("english", False, cleaned=False)("The compilers") == [
        "the",
        "compilers",
    ]
    with pytest.raises(ValueError, match='language="elvish" is not known'):
        tool.word_counter("elvish", pairs=True, cleaned=True)


def test_scores_of_an_experiment(tool, command, capsys):
    assert tool.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lines"], found["train_lines"], found["labels"]) == (10, 30, 2)
    assert found["C"] == min(tool.GRID)  # all are right in training
    assert found["features"] == (4 + 3) + (3 + 2)
    assert found["accuracy"]["value"] == 0.8
    assert found["accuracy"]["stderr"] == pytest.approx((0.8 * 0.2 / 10) ** 0.5, rel=0.1)
    assert tool.main([*command, "--words_only"]) == 0
    assert json.loads(capsys.readouterr().out)["features"] == 4 + 3


def test_a_run_beside_it(tool, command, tmp_path, capsys):
    command += ["--run", str(tmp_path)]
    assert tool.main(command) == 2
    assert "no finished run" in capsys.readouterr().err
    true = ["gl"[(n + (n in (33, 36))) % 2] for n in range(30, 40)]
    lines = [{"id": n, "prediction": one, "reference": one} for n, one in enumerate(true)]
    file = tmp_path / "predictions_val.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[::-1]))
    assert tool.main(command) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert (accuracy["value"], accuracy["run"]) == (0.8, 1.0)
    assert accuracy["run_ahead_by"] == pytest.approx(0.2)
    assert accuracy["interval"][0] <= 0.2 <= accuracy["interval"][1]
    file.write_text(json.dumps(lines[0]))
    assert tool.main(command) == 2
    assert "other lines" in capsys.readouterr().err


def test_other_data_are_refused(tool, capsys):
    assert tool.main([str(TOOLS.parent / "experiments" / "finetune_tags.py")]) == 2
    assert 'data.kind="tagged": expected "labelled"' in capsys.readouterr().err
