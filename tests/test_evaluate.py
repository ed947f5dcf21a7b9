"""`python -m jaxlm.evaluate` as a user types it: a run is scored, verified, and what is wrong is one line."""

import json
import shutil

import pytest

from jaxlm import api, compare, config, evaluate
from jaxlm.eval import Row, metric, results


def small_config(text):
    cfg = config.base()
    cfg.model = config.section("model", "gpt", num_layers=1, d_model=16, num_heads=2, max_len=64)
    cfg.data = config.section("data", "text", path=str(text), tokenizer="bytes", seq_len=64)
    cfg.step = config.section("step", "gradient", ema_decay=0.9)
    cfg.batch_size, cfg.num_steps, cfg.sample_tokens, cfg.checkpoint_every = 8, 2, 0, 1
    cfg.micro_batch_size = 8
    return cfg


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps with its own evaluators' result, and the summary that its training wrote."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    summary = api.run(small_config(folder / "text.txt"), folder / "run")
    assert evaluate.main(["--workdir", str(folder / "run")]) == 0
    return folder / "run", summary


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy, in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_run_scores_what_its_training_said(trained):
    run = trained[0]
    folder = run / "evaluations" / "run"
    found = results.load(folder)
    for row in found.scores.rows:
        assert row.value == pytest.approx(trained[1][row.name], rel=1e-6), row.name
        assert row.stderr == pytest.approx(trained[1][f"{row.name}_stderr"], rel=1e-4)
    assert {row.name for row in found.scores.rows} >= {
        "val_loss",
        "val_perplexity",
        "val_bits_per_byte",
    }
    assert (found.model["weights"], found.model["step"]) == ("ema", 2)
    assert found.command == ["python", "-m", "jaxlm.evaluate", "--workdir", str(run)]
    assert "quick" in found.scores.examples[0]["input"]
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_a_result_is_verified_and_a_changed_model_is_found(run, capsys):
    asked = ["--suite", "qa", "--limit", "3", "--max_tokens", "4"]
    assert evaluate.main(["--model", str(run), *asked]) == 0
    out = capsys.readouterr().out
    assert "exact_match" in out and "evaluations/run-qa/report.html" in out
    folders = str(run / "evaluations" / "run"), "evaluations/run-qa"
    found = results.load(folders[1])
    assert found.suite["options"] == {
        "data": "bundled:trivia", "examples": "", "shots": [0], "limit": 3, "seed": 0,
        "batch_size": 8, "max_tokens": 4, "temperature": 0.0,
    }  # fmt: skip
    assert len(found.scores.examples) == 3
    for folder in folders:
        assert evaluate.main(["--verify", folder]) == 0
    assert "same weights, same data, equal values" in capsys.readouterr().out
    # The same run a step earlier is another model.
    shutil.copytree(run, "other")
    shutil.rmtree("other/checkpoints/00000002")
    assert evaluate.main(["--verify", folders[0], "--model", "other"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERS    sha256 of the weights" in out and "DIFFERS    val_loss, value" in out
    assert evaluate.main(["--workdir", "other"]) == 0
    assert compare.main([folders[0], "other/evaluations/run"]) == 0
    assert "run is better" in capsys.readouterr().out  # it has learned a step more
    assert compare.main(folders) == 2
    assert "suite: run and qa" in capsys.readouterr().err


def test_out_option_and_a_suite_of_ones_own(run, tmp_path, monkeypatch):
    (tmp_path / "my_suites.py").write_text(
        "import dataclasses\n"
        "from jaxlm.eval import Row, Scores\n"
        "from jaxlm.eval.suites import Found\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Vocabulary:\n"
        "    scale: float = 1.0\n"
        "    def run(self, lm):\n"
        "        size = self.scale * lm.tokenizer.vocab_size\n"
        "        return Found(Scores([Row('size', size, 'tokens', float('nan'), '')]), {})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ["--model", str(run), "--suite", "my_suites:Vocabulary", "--option", "scale=2"]
    assert evaluate.main([*line, "--out", "here"]) == 0
    assert results.load("here").scores.rows[0].value == 514.0
    assert evaluate.main(["--verify", "here"]) == 0


def test_what_two_evaluators_call_alike_is_the_same_score_or_refused():
    one, same, other = (
        Row("val_accuracy", value, "fraction", 0.1, "") for value in (0.5, 0.5, 0.6)
    )
    assert metric.each_once([one, same]) == [one]
    with pytest.raises(ValueError, match="two of them give a val_accuracy, 0.5 and 0.6"):
        metric.each_once([one, other])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "name a model: --workdir DIR of a run, or --model PATH"),
        (["--workdir", "a", "--model", "b"], "--workdir and --model: name one"),
        (["--verify", "x", "--limit", "2"], "--verify runs what the file says"),
        (["--verify", "x", "--best"], "--verify runs what the file says"),
        (["--model", "x", "--sweet", "qa"], "no such option --sweet"),
    ],
)
def test_a_wrong_command_line_exits_with_2(line, message, capsys):
    with pytest.raises(SystemExit) as caught:
        evaluate.main(line)
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--model", "{run}"], "--suite: name one of run, language_modelling"),
        (["--workdir", "{run}", "--suite", "choise"], 'did you mean "choice"'),
        (
            ["--workdir", "{run}", "--suite", "choice", "--stride", "3"],
            "--stride: --suite choice has no",
        ),
        (["--workdir", "{run}", "--suite", "qa", "--option", "limit"], "expected NAME=VALUE"),
        (["--workdir", "nothing"], "nothing is no run's folder"),
        (["--workdir", "{run}", "--option", "splits=test"], "the data has train, val"),
        (["--workdir", "{run}", "--out", "{run}/config.json"], "config.json is a file"),
        (["--verify", "nothing.json"], "no such result"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(run, line, message, capsys):
    assert evaluate.main([part.replace("{run}", str(run)) for part in line]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_run_whose_text_has_changed_is_refused(trained, run, capsys):
    path = run / "config.json"
    saved = json.loads(path.read_text())
    saved["data"]["tokenizer"] = "chars"
    path.write_text(json.dumps(saved))
    assert evaluate.main(["--workdir", str(run)]) == 2
    assert "not the one that this run was trained with" in capsys.readouterr().err
