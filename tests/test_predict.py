"""A person's own .csv: trained, reported, and asked about new lines; and every kind of answer for lines without answers."""

import json
from types import SimpleNamespace

import pytest

import jaxlm
from jaxlm import api, config, predict
from jaxlm.train import prediction

SMALL = {"num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 24}
ROWS = [
    {
        "text": f"{'good' if n % 2 else 'bad'} film {n}",
        "label": "good" if n % 2 else "bad",
        "labels": ["x"] * (n % 2) + ["y"] * (n % 3 == 0),
        "score": 100 + n % 4,
        "question": "which?",
        "choices": ["one", "two"],
        "answer": n % 2,
        "context": f"it is {n} now",
        "answers": [f"{n}"],
        "starts": [6],
        "tokens": ["Ann", f"{n}"],
        "tags": ["B-PER", "O"],
    }
    for n in range(40)
]
KINDS = {
    "labelled": ("classification", "sequence", "accuracy", "accuracy", ("label",)),
    "multi_labelled": ("multi_label", "sequence", "multi_label", "micro_f1", ("labels",)),
    "scored": ("regression", "sequence", "regression", "mse", ("score",)),
    "choices": ("choice", "token", "choices", "accuracy", ("answer",)),
    "spans": ("span", "token", "spans", "f1", ("answers", "starts")),
    "tagged": ("classification", "token", "tagging", "entity_f1", ("tags",)),
}
"""Kind of data -> objective, head, evaluator, its main score, and what is to be predicted."""


def trained(kind, folder, **data):
    objective, head, evaluator, score, _ = KINDS[kind]
    cfg = config.base()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"path": str(folder / "rows.jsonl"), "seq_len": 24} | data
    cfg.data = config.section("data", kind, **data)
    cfg.model = config.section("model", "bert", head=head, **SMALL)
    cfg.objective = config.section("objective", objective)
    cfg.evaluators, cfg.checkpoint.best_metric = (evaluator,), score
    cfg.num_steps, cfg.batch_size, cfg.micro_batch_size = 1, 8, 8
    cfg.checkpoint_every = cfg.eval_every = cfg.sample_every = 0
    return jaxlm.run(cfg, folder / "run"), folder / "run"


def check(kind, folder):
    """Lines without answers get them; those that have one, a score as well; in the order of the file."""
    summary, run = trained(kind, folder)
    written = [json.loads(line) for line in (run / "predictions_val.jsonl").open()]
    assert [one["id"] for one in written] == [0, 1, 2, 3]
    unanswered = [{k: v for k, v in row.items() if k not in KINDS[kind][-1]} for row in ROWS[-4:-1]]
    found = api.predict(run, [*unanswered, ROWS[-1]])
    assert [one["id"] for one in found] == [0, 1, 2, 3]
    asked = {"input", "prediction"}
    assert all(asked <= one.keys() and "score" not in one for one in found[:3])
    # The same lines as those that training held out.
    assert [one["prediction"] for one in found] == [one["prediction"] for one in written]
    assert found[3] == written[3] | {"id": 3}
    return summary, run


def test_a_person_s_own_labels(tmp_path):
    summary, run = check("labelled", tmp_path)
    assert 0 <= summary["val_accuracy"] <= 1
    with pytest.raises(ValueError, match=r"line 1 has no column 'text' \(it has words\)"):
        api.predict(run, [{"words": "a"}])
    assert [one["input"] for one in api.predict(run, ["a b", "c"])] == ["a b", "c"]
    # Mistakes name the lines as they were given.
    lm, asked = api.load(run), tmp_path / "asked.csv"
    for text, said in (
        ("a,meh\n", "^the lines: .* not in data.labels: meh$"), ("", "asked.csv: no line to predict"),
    ):  # fmt: skip
        asked.write_text(f"text,label\n{text}")
        with pytest.raises(ValueError, match=said):
            prediction.predict(lm, str(asked), str(run / "tokenizer"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "labelled"])
def test_every_kind_of_answer(kind, tmp_path):
    summary, run = check(kind, tmp_path)
    if kind == "scored":  # in the data's own numbers, which the run's folder remembers
        assert 95 < api.predict(run, ["a"])[0]["prediction"] < 110
        assert json.loads((run / "config.json").read_text())["data"]["mean"] == 101.5
    if kind == "spans":
        with pytest.raises(
            ValueError, match="line 1 has no named columns: expected those .* context"
        ):
            api.predict(run, ["a"])
    if kind == "tagged":
        assert api.predict(run, [{"tokens": "Bo 1 a"}])[0]["prediction"].count(" ") == 2


def test_a_run_that_answers_no_lines():
    cfg = config.base()
    cfg.data = config.section("data", "text")
    lm = SimpleNamespace(config=cfg, template=False)
    with pytest.raises(ValueError, match='data.kind=labelled, .* this one has "text"'):
        prediction.predict(lm, ["a"], "")


def test_mistakes_are_one_line(capsys, tmp_path):
    assert predict.main(["--workdir", "x", "--data", "a", "--text", "b"]) == 2
    assert capsys.readouterr().err.strip() == "jaxlm: error: --data and --text: give one of them"
    assert predict.main(["--workdir", str(tmp_path), "--text", "b"]) == 2
    assert "is no run's folder" in capsys.readouterr().err


@pytest.mark.slow
def test_two_commands_from_a_csv_to_a_report(tmp_path, run_cli):
    """As a person types them, and a third one that asks about new lines."""
    lines = [f'{n},"{row["text"]}, really",{row["label"]}' for n, row in enumerate(ROWS * 2)]
    (tmp_path / "own.csv").write_text("\n".join(["id,review,verdict", *lines]))
    (tmp_path / "exp.py").write_text(
        "from jaxlm import config\n\ndef get_config():\n    cfg = config.base()\n"
        '    cfg.data = config.section("data", "labelled", seq_len=24)\n'
        f'    cfg.model = config.section("model", "bert", head="sequence", **{SMALL})\n'
        '    cfg.objective = config.section("objective", "classification")\n'
        '    cfg.evaluators = ("accuracy",)\n    cfg.num_steps = 40\n    return cfg\n'
    )

    def command(module, *options):
        return run_cli(module, "--workdir", "run", *options)

    columns = [
        "--config.data.text_column=review",
        "--config.data.label_column=verdict",
        "--config.data.path=own.csv",
    ]
    launched = command("launch", "--config", "exp.py", *columns, "--config.optim.learning_rate=0.01")  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["val_accuracy"] == 1.0
    assert command("evaluate").returncode == 0
    report = (tmp_path / "run" / "evaluations" / "run" / "report.html").read_text()
    assert "val_accuracy" in report and "film" in report
    new = 'review,verdict\n"bad film 7, really",bad\n"good film 8, really",\n'  # one has no answer yet
    (tmp_path / "new.csv").write_text(new)
    asked = command("predict", "--data", "new.csv", "--output", "out.jsonl")
    assert asked.returncode == 0 and asked.stderr.endswith("out.jsonl: 2 lines\n")
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert [one["prediction"] for one in answers] == ["bad", "good"]
    assert all(0.5 < one["probability"] <= 1 for one in answers)
    assert ["score" in one for one in answers] == [True, False]
    wrong = command("launch", "--config", "exp.py", "--config.data.path=own.csv")
    assert wrong.returncode == 2
    assert wrong.stderr.strip().endswith(
        "own.csv line 2 has no column 'text' (it has id, review, verdict); set data.text_column"
    )
