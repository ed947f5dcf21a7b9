"""Every command of README.md runs, in order, in one folder, shrunken; its Python blocks run too."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")
TIMEOUT = 300

TINY_LOOP = ["--config.num_steps=2", "--config.batch_size=4", "--config.micro_batch_size=4",
             "--config.log_every=1", "--config.sample_tokens=4", "--config.data.eval_examples=2"]  # fmt: skip
TINY_GPT = [*TINY_LOOP, "--config.model.num_layers=1", "--config.model.d_model=16",
            "--config.model.num_heads=2", "--config.model.max_len=32"]  # fmt: skip
SHRINK = {  # what is appended to a launch command, by its --config
    "experiments/quickstart.py": TINY_GPT,
    "experiments/gpt_small.py": [*TINY_GPT, "--config.data.path=my_text.txt"],
    "experiments/finetune_classify.py:tiny": [*TINY_LOOP, "--config.data.tokenizer=bytes"],
    "my_experiment.py": [*TINY_LOOP, "--config.data.seq_len=16"],
}
REPLACE = {"--profile_steps=10:13": "--profile_steps=0:1"}
AS_THEY_ARE = (
    "jaxlm.evaluate",
    "jaxlm.generate",
    "jaxlm.predict",
    "jaxlm.prepare",
    "jaxlm.train_tokenizer",
)
SKIP = {  # commands that are not run, and why
    "make demo": "installs; its training command stands below it in the README and is run",
    "make test": "it is what runs this test",
    "python3 -m venv .venv": "installs",
    ". .venv/bin/activate": "changes the shell",
    "pip install -e . -c constraints.txt": "installs; test_wheel.py installs the package",
}
# A block of Python that trains: the same run, on the same config, shrunken.
PRELUDE = """
import jaxlm
_run = jaxlm.run
def run(cfg, workdir):
    for key, value in {overrides!r}:
        jaxlm.config.override(cfg, key, value)
    return _run(cfg, workdir)
jaxlm.run = run
"""


def blocks(language: str) -> list[tuple[int, str]]:
    """(offset, text) of every fenced block of a language."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [(match.start(), match[1]) for match in found]


def commands(block: str) -> list[str]:
    """One line each, continued lines joined, comments left out."""
    lines = block.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def to_run(command: str) -> list[str] | None:
    """The argument list that tests a command; None if it is not to be run.

    Raises:
      ValueError: nothing here says how to run it.
    """
    if command in SKIP:
        return None
    for old, new in REPLACE.items():
        command = command.replace(old, new)
    words = shlex.split(command)
    if words[:2] == ["python", "-m"] and words[2] in AS_THEY_ARE:
        return [sys.executable, *words[1:]]
    if words[:2] == ["python", "tools/bench.py"] and words[2] in SHRINK:
        return [sys.executable, *words[1:], "--steps", "2", *SHRINK[words[2]]]
    if words[:3] == ["python", "-m", "jaxlm.launch"]:
        config = words[words.index("--config") + 1]
        if config in SHRINK:
            return [sys.executable, *words[1:], *SHRINK[config]]
    raise ValueError(f"README.md has a command that tests/test_readme.py can't run: {command}")


def steps() -> list[tuple[str, list[str] | None]]:
    """All that README.md asks a reader to do, in order: (what it says, what is run instead)."""
    found = [(at, line, to_run(line)) for at, block in blocks("bash") for line in commands(block)]
    overrides = [item.removeprefix("--config.").split("=") for item in TINY_GPT]
    for at, block in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", block)
        code = block if name else PRELUDE.format(overrides=overrides) + block
        run = ["write", name[1], code] if name else [sys.executable, "-c", code]
        found.append((at, block, run))
    return [step[1:] for step in sorted(found, key=lambda step: step[0])]


@pytest.mark.slow
def test_it_works_from_top_to_bottom(tmp_path, cli_env):
    for name in ("experiments", "tools"):
        (tmp_path / name).symlink_to(REPO / name)
    text = "".join(f"The {n}th line says that {n} times {n} is {n * n}.\n" for n in range(400))
    (tmp_path / "my_text.txt").write_text(text)
    rows = [f"the {n}th of them,{'good' if n % 2 else 'bad'}\n" for n in range(60)]
    (tmp_path / "own.csv").write_text("review,verdict\n" + "".join(rows))
    (tmp_path / "new.csv").write_text("review\nthe last of them\n")
    ran = 0
    for said, run in steps():
        if run is None:
            continue
        if run[0] == "write":
            (tmp_path / run[1]).write_text(run[2])
            continue
        result = subprocess.run(
            run, cwd=tmp_path, env=cli_env, capture_output=True, text=True, timeout=TIMEOUT
        )
        if result.returncode:
            pytest.fail(
                f"README.md: {said}\nexit {result.returncode}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
            )
        ran += 1
    assert ran >= 10
    written = {path.name for path in (tmp_path / "runs" / "quickstart").iterdir()}
    promised = {
        name
        for cell in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
        for name in files_in(cell)
    }
    assert promised and promised <= written, f"README.md promises {sorted(promised - written)}"


def files_in(cell: str) -> set[str]:
    """First path parts that a cell of the table of files names."""
    names = re.findall(r"`([\w.]+)[^`]*`", cell)
    return {name for name in names if name.split(".")[0] in FILES_STEMS}


FILES_STEMS = {
    "plots", "samples", "metrics", "tensorboard", "summary", "config", "log", "tokenizer", "checkpoints",
}  # fmt: skip


def test_nothing_is_skipped_that_is_not_there():
    said = {line for _, block in blocks("bash") for line in commands(block)}
    assert set(SKIP) <= said, "SKIP names commands that README.md no longer has"


def test_an_unknown_command_is_noticed():
    for command in (
        "python -m jaxlm.nosuch --x 1",
        "python -m jaxlm.launch --config other.py",
        "ls",
    ):
        with pytest.raises(ValueError, match="can't run"):
            to_run(command)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (REPO / target).exists(), f"README.md links to {target}"


def test_fences_are_all_read():
    """A block of a language that is neither run nor plain output would go untested."""
    assert set(re.findall(r"^```(\w+)", README, re.MULTILINE)) <= {"bash", "python"}
