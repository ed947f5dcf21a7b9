"""Two processes with two devices each train as one process with four does, and resume from each other's checkpoints."""

import json
import socket
import subprocess
import sys

import pytest

EXPERIMENT = """
from jaxlm import config

def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "gpt", num_layers=1, d_model=32, num_heads=2, max_len=16)
    cfg.data = config.section("data", "text", path="text.txt", tokenizer="bytes", seq_len=16)
    cfg.mesh = config.section("mesh", data=2, fsdp=2)
    cfg.num_steps, cfg.batch_size, cfg.micro_batch_size, cfg.log_every = 6, 16, 8, 1
    cfg.checkpoint_every, cfg.sample_tokens = 3, 5
    return cfg
"""


def launch(folder, env, workdir, processes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for index in range(processes):
        cluster = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(index),
        }
        devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}"}
        line = [sys.executable, "-m", "jaxlm.launch", "--config", "exp.py", "--workdir", workdir]
        full = env | devices | (cluster if processes > 1 else {})
        started.append(
            subprocess.Popen(
                line,
                cwd=folder,
                env=full,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in started:
        text = process.communicate(timeout=300)[0]
        assert process.returncode == 0, text
    rows = (folder / workdir / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows if "lr" in json.loads(row)]
    return losses, json.loads((folder / workdir / "summary.json").read_text())


@pytest.mark.slow
def test_two_processes_are_one(tmp_path, cli_env):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    alone, alone_summary = launch(tmp_path, cli_env, "alone", 1)
    both, both_summary = launch(tmp_path, cli_env, "both", 2)
    assert len(both) == 6
    assert both == pytest.approx(alone, rel=1e-5)
    assert both_summary["val_loss"] == pytest.approx(alone_summary["val_loss"], rel=1e-5)
