"""Eight CPU devices, strict shapes, seeded keys, and caches of this session's own, before jax is imported."""

from __future__ import annotations

import functools
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
NUM_DEVICES = 8
_OWNED = "JAXLM_TEST_CACHE"  # set by the process that made the caches, read by xdist's workers

_device_flag = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
_other_flags = re.sub(
    r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", "")
)
# Eight devices on a busy machine's few cores wait for one another for long: after 40 s XLA would end the process.
_patience_flag = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
# Where optimisations are off (make test), the older emitters of fused loops, too: they compile in less time. Newer ones of jaxlib
# have none, and XLA ends a process that names a flag it does not know.
_quick = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") and version("jaxlib").startswith("0.10.")
_quick_flag = "--xla_cpu_use_fusion_emitters=false" if _quick else ""
_flags = (_other_flags.strip(), _quick_flag, _patience_flag, _device_flag)
os.environ["XLA_FLAGS"] = " ".join(filter(None, _flags))
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["MPLBACKEND"] = "agg"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # torch's threads wait for one another, ten times longer where workers share cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if _OWNED not in os.environ:
    _root = Path(tempfile.mkdtemp(prefix="jaxlm-tests-"))
    os.environ[_OWNED] = f"{os.getpid()}:{_root}"
    os.environ["JAXLM_CACHE"] = str(_root / "tokens")
    # Compiled programs, shared by workers and subprocesses; a folder of your own keeps them for the next time.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_root / "compiled"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402  (what is above must be set first)

# Tracing makes many small objects that live: looking through them took an eighth of the time.
gc.set_threshold(200_000, 20, 100)


def pytest_unconfigure() -> None:
    """The process that made the caches removes them."""
    pid, _, root = os.environ[_OWNED].partition(":")
    if int(pid) == os.getpid():
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def key() -> jax.Array:
    """The same random key in every test."""
    return jax.random.key(0)


@pytest.fixture
def quick_compiling():
    """Two steps are worth no optimising."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def _cli_env() -> dict[str, str]:
    return os.environ | {
        "XLA_FLAGS": _other_flags.strip(),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # a few steps are worth no optimising
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


@pytest.fixture
def cli_env() -> dict[str, str]:
    """An environment for a process of its own: one device, this session's caches, jaxlm importable anywhere."""
    return _cli_env()


@pytest.fixture(scope="session")
def run_cli_in() -> Callable[..., subprocess.CompletedProcess]:
    """`run_cli`, in any folder `cwd`: for what several tests look at."""

    def run(
        command: str,
        *arguments: object,
        cwd: Path,
        env: dict[str, str] | None = None,
        check: bool = False,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", f"jaxlm.{command}", *map(str, arguments)]
        result = subprocess.run(
            line,
            cwd=cwd,
            env=_cli_env() | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and result.returncode:
            pytest.fail(
                f"{' '.join(line)}: exit {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    return run


@pytest.fixture
def run_cli(run_cli_in, tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """`run_cli("launch", "--config", ...)` runs `python -m jaxlm.launch --config ...` and gives its text."""
    return functools.partial(run_cli_in, cwd=tmp_path)
