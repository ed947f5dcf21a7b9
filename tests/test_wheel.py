"""A built wheel, installed outside the repository, carries the bundled data and runs a user's own config."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

CONFIG = '''
"""A user's own run."""
from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "gpt", num_layers=1, d_model=16, num_heads=2, max_len=16)
    cfg.data = config.section("data", "text", path="bundled:shakespeare", tokenizer="gpt2")
    cfg.data.seq_len = cfg.model.get_ref("max_len")
    cfg.data.eval_examples = 2
    cfg.num_steps, cfg.batch_size, cfg.log_every, cfg.sample_tokens = 2, 4, 1, 4
    return cfg
'''


def execute(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    line = [str(word) for word in command]
    result = subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, so that no build folder appears in the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = ["setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "jaxlm"]
    execute("cp", "-r", *(REPO / name for name in names), source, cwd=out)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", out]
    execute(*pip, "wheel", *options, source, cwd=out)
    (built,) = out.glob("jaxlm-*.whl")
    return built


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder elsewhere, and an environment in which jaxlm is the wheel's."""
    folder = tmp_path_factory.mktemp("outside")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    execute(
        *pip, "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel, cwd=folder
    )
    env = os.environ | {"PYTHONPATH": str(site), "XLA_FLAGS": ""}
    where = execute(
        sys.executable, "-c", "import jaxlm; print(jaxlm.__file__)", cwd=folder, env=env
    )
    assert Path(where.strip()).is_relative_to(site), "the repository's own jaxlm came first"
    return folder, env


@pytest.mark.slow
def test_it_holds_every_module_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(REPO)) for path in (REPO / "jaxlm").rglob("*.py")}
    assert modules <= names, sorted(modules - names)
    packaged = ("data/bundled/*.*", "interop/lm_eval_tasks/*.yaml")
    data = {
        str(path.relative_to(REPO)) for some in packaged for path in (REPO / "jaxlm").glob(some)
    }
    assert data <= names, sorted(data - names)
    assert {Path(name).name for name in names} >= {"LICENSE", "NOTICE"}
    foreign = {name.split("/")[0] for name in names} - {"jaxlm"}
    assert all(name.endswith(".dist-info") for name in foreign), foreign


@pytest.mark.slow
def test_bundled_data_is_readable(outside):
    folder, env = outside
    code = (
        "import json; from jaxlm.data import bundled\n"
        "print(json.dumps({name: len(bundled.read(name)) for name in bundled.index()}))"
    )
    sizes = json.loads(execute(sys.executable, "-c", code, cwd=folder, env=env))
    assert len(sizes) >= 12 and sizes["shakespeare"] == 999_985


@pytest.mark.slow
def test_a_users_config_runs(outside):
    folder, env = outside
    (folder / "my_run.py").write_text(CONFIG)
    command = [sys.executable, "-m", "jaxlm.launch", "--config", "my_run.py"]
    summary = json.loads(execute(*command, cwd=folder, env=env).splitlines()[-1])
    assert summary["final_step"] == 2 and 8 < summary["val_loss"] < 13  # about ln 50257 = 10.8
    assert (folder / "runs" / "my_run" / "summary.json").exists()
