"""docs/tasks.md: its commands run in order, shrunken, on a BERT and a chat model of a few numbers."""

import importlib
import io
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests" / "interop"))

import chatting  # noqa: E402

from jaxlm import api, config  # noqa: E402

PAGE = (REPO / "docs" / "tasks.md").read_text(encoding="utf-8")
SHRINK = [
    "--config.num_steps=2", "--config.batch_size=8", "--config.log_every=1", "--config.sample_tokens=4",
]  # fmt: skip
FEW = "eval_examples=8"
OF_ONE = {
    "experiments/distil_classify.py": ["init_layers=(1,)"],  # BERT has two
    # A token of CHAT_MODEL is little more than a character.
    "experiments/dpo.py": ["data.seq_len=512", f"data.{FEW}"],
    "experiments/dpo.py:reward": ["data.seq_len=512", f"data.{FEW}"],
    "experiments/rlhf.py": ["data.seq_len=256", "step.max_tokens=8", f"data.{FEW}"],
    "experiments/multi_task.py": [
        f"data.tasks.{name}.{FEW}" for name in ("ner", "section", "topic", "genre", "poet", "exam")
    ],
    "experiments/multi_task.py:text_to_text": [
        f"data.tasks.{name}.{FEW}"
        for name in ("translate", "summarize", "section", "define", "genre", "poet")
    ],
}
"""Experiment -> overrides of its own."""
SMALL = [f"--config.model.{field}" for field in ("num_layers=1", "d_model=16", "num_heads=2")]


def commands():
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch, quick_compiling):
    """Models of a few numbers, and a file of each form."""
    monkeypatch.chdir(tmp_path)
    sizes = {"num_layers": "2", "d_model": "16", "num_heads": "2", "max_len": "512"}
    overrides = {f"model.{name}": value for name, value in sizes.items()}
    overrides |= {
        "num_steps": "1",
        "batch_size": "8",
        "data.eval_examples": "8",
        "data.tokenizer": "bpe:300",
        "sample_tokens": "0",
    }
    api.run(config.load(str(REPO / "experiments/bert_base.py"), overrides), tmp_path / "BERT")
    chatting.write(tmp_path / "CHAT_MODEL", max_len=512)
    for name in ("experiments", "tools"):
        (tmp_path / name).symlink_to(REPO / name)
    rows = [f"the cat sat number {n},{'good' if n % 2 else 'bad'},{n % 5}" for n in range(40)]
    (tmp_path / "own.csv").write_text("review,verdict,stars\n" + "\n".join(rows) + "\n")
    (tmp_path / "new.csv").write_text("review\nthe cat sat\na dog\n")
    (tmp_path / "scores.csv").write_text(
        "text,score\n" + "".join(f"cat {n},{n % 5}\n" for n in range(40))
    )
    (tmp_path / "labels.csv").write_text(
        "text,labels\n" + "".join(f'cat {n},"a,b"\ndog {n},a\nbird {n},\n' for n in range(20))
    )
    span = {"context": "the cat sat on a mat", "question": "who sat?", "answers": ["the cat"], "starts": [0]}  # fmt: skip
    (tmp_path / "spans.jsonl").write_text((json.dumps(span) + "\n") * 40)
    (tmp_path / "long.jsonl").write_text('{"description": "a package of cats"}\n')
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text(
        "The library is open from nine to five.\n\nA cat sat.\n"
    )
    return tmp_path


def run(command, monkeypatch):
    """The exit code of one line of the page."""
    typed, _, command = command.rpartition(" | ")
    monkeypatch.setattr(sys, "stdin", io.StringIO(" ".join(shlex.split(typed)[1:]) + "\n"))
    _, *words = shlex.split(command)
    if words[0] == "-m":
        main, arguments = importlib.import_module(words[1]).main, words[2:]
    else:
        main, arguments = runpy.run_path(words[0])["main"], words[1:]
    if "jaxlm.launch" in words:
        arguments += SHRINK
        if not any(word.startswith("--config.init_from") for word in words):
            arguments += SMALL
        experiment = words[words.index("--config") + 1]
        arguments += [f"--config.{override}" for override in OF_ONE.get(experiment, [])]
    return main(arguments)


def test_it_works_from_top_to_bottom(folder, monkeypatch, capsys):
    for command in commands():
        assert run(command, monkeypatch) == 0, f"{command}\n{capsys.readouterr().err[-3000:]}"
    summary = json.loads((folder / "runs/mine/summary.json").read_text())
    assert 0 <= summary["val_accuracy"] <= 1
    assert (folder / "runs/mine/evaluations/run/report.html").is_file()
    assert (folder / "runs/mine/predictions_val.jsonl").is_file()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert "://" in target or (REPO / "docs" / target).exists(), target
