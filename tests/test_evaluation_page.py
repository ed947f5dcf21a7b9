"""docs/evaluation.md: its commands run in order, on models of two steps; its Python blocks run too."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests" / "interop"))

import chatting  # noqa: E402

from jaxlm import api, chat, compare, config, evaluate, generate, launch, lm_eval  # noqa: E402

PAGE = (REPO / "docs" / "evaluation.md").read_text(encoding="utf-8")
MAINS = {
    "jaxlm.generate": generate.main,
    "jaxlm.chat": chat.main,
    "jaxlm.evaluate": evaluate.main,
    "jaxlm.compare": compare.main,
    "jaxlm.launch": launch.main,
    "jaxlm.lm_eval": lm_eval.main,
}
INSTALLS = "pip install -e '.[eval,constrain]' -c constraints.txt"
SHRINK = {  # what is appended to the commands of a program
    "jaxlm.launch": [
        "--config.num_steps=2",
        "--config.batch_size=8",
        "--config.model.d_model=16",
        "--config.model.num_layers=1",
        "--config.sample_tokens=0",
    ],
}


def blocks(language):
    return [
        (found.start(), found[1])
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    ]


def steps():
    """All that the page asks a reader to do, in order."""
    lines = [(at, line) for at, block in blocks("bash") for line in block.strip().splitlines()]
    return [text for _, text in sorted(lines + blocks("python"), key=lambda step: step[0])]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two runs of two steps each, a chat model and some prompts."""
    monkeypatch.chdir(tmp_path)
    small = {"num_layers": "1", "d_model": "16", "num_heads": "2", "max_len": "128"}
    overrides = {f"model.{name}": value for name, value in small.items()}
    overrides |= {"num_steps": "2", "batch_size": "8", "sample_tokens": "0"}
    overrides |= {"data.eval_examples": "2"}
    for name, seed in (("quickstart", "0"), ("shallow", "1")):
        cfg = config.load(str(REPO / "experiments/quickstart.py"), overrides | {"seed": seed})
        api.run(cfg, tmp_path / "runs" / name)
    chatting.write(tmp_path / "CHAT_MODEL", max_len=512)
    Path("prompts.txt").write_text("To be\nROMEO:\n")
    assert evaluate.main(["--workdir", "runs/shallow"]) == 0
    return tmp_path


def execute(command, monkeypatch):
    """The exit code of one line of the page."""
    if " | " in command:
        typed, command = command.split(" | ", 1)
        monkeypatch.setattr(sys, "stdin", io.StringIO(" ".join(shlex.split(typed)[1:]) + "\n"))
    python, option, program, *arguments = shlex.split(command)
    assert (python, option) == ("python", "-m"), command
    return MAINS[program]([*arguments, *SHRINK.get(program, [])])


def test_it_works_from_top_to_bottom(folder, monkeypatch, capsys):
    ran = 0
    for step in steps():
        named = re.match(r"# (\w+\.py)\n", step)
        if named:
            Path(named[1]).write_text(step)
        elif "\n" in step:
            exec(step, {})
        elif step != INSTALLS:
            assert execute(step, monkeypatch) == 0, f"{step}\n{capsys.readouterr().err}"
            ran += 1
    assert ran >= 13
    assert len(Path("texts.jsonl").read_text().splitlines()) == 2
    said = capsys.readouterr().out
    assert "verified" in said and "jaxlm_choice" in said


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (REPO / "docs" / target).exists(), target
