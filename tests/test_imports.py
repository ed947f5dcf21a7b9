"""`import jaxlm` is cheap and touches no device: what is heavy comes with the first use."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "array_record", "datasets", "flax", "grain", "jax", "jaxlib", "matplotlib", "optax", "orbax",
    "sentencepiece", "tensorboardX", "tensorflow", "tensorflow_datasets", "tensorstore", "tokenizers", "torch",
}  # fmt: skip


def loaded(statement: str, env: dict[str, str]) -> set[str]:
    """Libraries in sys.modules after a statement in a process of its own."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "statement",
    [
        "import jaxlm",
        "import jaxlm; jaxlm.__version__; dir(jaxlm)",
        "import jaxlm; jaxlm.MODELS; jaxlm.OBJECTIVES; jaxlm.TASKS",
        "import jaxlm.config",
        "import jaxlm.launch",
        "import jaxlm.generate",
    ],
)
def test_stays_light(statement, cli_env):
    assert not loaded(statement, cli_env) & HEAVY


def test_the_check_can_fail(cli_env):
    assert "optax" in loaded("import optax", cli_env)


def test_data_needs_no_jax_of_its_own(cli_env):
    """Tokenising in many processes must not start jax in each."""
    assert not loaded("from jaxlm.data import sources, tokenizers, cache", cli_env) & {
        "jax",
        "flax",
    }


def test_importing_everything_touches_no_device(cli_env):
    statement = (
        "import jaxlm; jaxlm.run; jaxlm.load\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a device was opened'"
    )
    assert "jax" in loaded(statement, cli_env)
