"""The launcher as a person meets it: what it shows, bit-exact resume after kill -9, and one clear line for mistakes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TEXT = "the quick brown fox jumps over the lazy dog. " * 200

EXPERIMENT = """
from jaxlm import config

def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model", "gpt", num_layers=2, d_model=32, num_heads=2, max_len=16, positions="rotary", dropout=0.1
    )
    cfg.data = config.section("data", "text", path="text.txt", tokenizer="chars", seq_len=16)
    cfg.optim = config.section("optim", "muon", learning_rate=0.02, warmup_steps=2)
    cfg.step = config.section("step", "gradient", ema_decay=0.9)
    cfg.num_steps = 40
    cfg.batch_size = 8
    cfg.micro_batch_size = 4
    cfg.log_every = 1
    cfg.eval_every = 20
    cfg.checkpoint_every = 5
    cfg.sample_every = 0
    cfg.sample_tokens = 20
    return cfg
"""


def prepare(folder):
    (folder / "text.txt").write_text(TEXT)
    (folder / "exp.py").write_text(EXPERIMENT)
    return folder


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, run_cli_in):
    """Where the experiment ran to its end, as it stands, and what it said."""
    folder = prepare(tmp_path_factory.mktemp("finished"))
    profile = ("--profile_steps", "2:4")
    return folder, run_cli_in("launch", "--config", "exp.py", *profile, cwd=folder, check=True)


@pytest.fixture
def run(finished, folder):
    """A copy of that run, in a folder of this test's own."""
    return Path(shutil.copytree(finished[0] / "runs" / "exp", folder / "run"))


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def losses(workdir, key="loss"):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row[key]) for row in rows if row.get("split") == "train" or "lr" in row]


def test_a_run_leaves_what_it_promises(finished):
    folder, result = finished
    workdir = folder / "runs" / "exp"
    last = json.loads(result.stdout.strip().splitlines()[-1])
    assert last == summary(workdir)
    named = "final_step val_loss val_bits_per_byte tokens_seen tokens_per_second train_seconds compile_seconds"
    named += " num_params mfu peak_flops device state_sha256 workdir val_weights"
    assert set(named.split()) <= set(last)
    assert last["final_step"] == 40 and last["tokens_seen"] == 40 * 8 * 16
    assert last["val_weights"] == "ema"
    for name in ("config.json", "metrics.jsonl", "samples.txt", "plots/loss.png", "tokenizer"):
        assert (workdir / name).exists(), name
    assert list(workdir.glob("**/events.out.tfevents*"))
    first_lines = result.stdout.split("compiled")[0]
    for said in (
        "device",
        "mesh data=1",
        "parameters",
        "training FLOPs a token",
        "tokens (8 x 16)",
        "time ",
        "blockwise (auto",
    ):
        assert said in first_lines, said
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    losses_seen = losses(workdir)
    assert len(losses_seen) == 40 and losses_seen[-1][1] < losses_seen[0][1] - 0.5


def test_killed_at_random_moments_it_ends_as_if_it_never_was(run, folder, run_cli, cli_env):
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    line = [sys.executable, "-m", "jaxlm.launch", "--config", "exp.py", "--workdir", "killed"]
    checkpoints, live = folder / "killed" / "checkpoints", 0
    for _ in range(3):
        process = subprocess.Popen(line, cwd=folder, env=cli_env, stdout=subprocess.DEVNULL)
        before = set(checkpoints.glob("*")) if checkpoints.exists() else set()
        while process.poll() is None and not (
            checkpoints.exists() and set(checkpoints.glob("*")) - before
        ):
            time.sleep(0.002)  # a save begins: orbax is writing, or the manifest is not there yet
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        live += process.wait() == -signal.SIGKILL
    run_cli("launch", "--config", "exp.py", "--workdir", "killed", check=True)
    assert live, "no kill met a running process"
    whole, killed = summary(run), summary(folder / "killed")
    assert whole["state_sha256"] == killed["state_sha256"], f"seed {seed}"
    assert whole["val_loss"] == killed["val_loss"]
    assert losses(run) == losses(folder / "killed")
    assert losses(run, "grad_norm") == losses(folder / "killed", "grad_norm")


def test_a_flipped_byte_in_the_newest_checkpoint_is_reported_and_an_older_one_used(run, run_cli):
    good = summary(run)["state_sha256"]
    newest = max((run / "checkpoints").glob("0*"))
    victim = max(
        (path for path in newest.rglob("*") if path.is_file() and "manifest" not in path.name),
        key=lambda p: p.stat().st_size,
    )
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    (run / "summary.json").unlink()
    result = run_cli("launch", "--config", "exp.py", "--workdir", "run", check=True)
    assert "checkpoint of step 40 is damaged" in result.stdout
    assert "resumed    step 35" in result.stdout
    assert summary(run)["state_sha256"] == good


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_says_how_to_go_on(folder, run_cli, cli_env, number):
    line = [
        sys.executable,
        "-m",
        "jaxlm.launch",
        "--config",
        "exp.py",
        "--config.num_steps=100000",
        "--config.checkpoint_every=0",
        "--workdir",
        "run",
    ]
    process = subprocess.Popen(line, cwd=folder, env=cli_env, stdout=subprocess.PIPE, text=True)
    for text in process.stdout:
        if "step" in text and "loss" in text:
            break
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(60) == 128 + number
    assert "the same command goes on" in rest
    steps = [int(path.name) for path in (folder / "run" / "checkpoints").glob("0*")]
    assert len(steps) == 1 and f"at step {steps[0]} of" in rest


def test_another_config_in_the_same_folder_is_refused_with_the_keys(run, run_cli):
    wider = "--config.model.d_model=64"
    result = run_cli("launch", "--config", "exp.py", wider, "--workdir", "run")
    assert result.returncode == 2
    assert "model.d_model: 32 -> 64" in result.stderr


def test_a_refused_config_leaves_the_folder_free_for_the_corrected_one(folder, run_cli):
    wrong = ["--config", "exp.py", "--config.num_steps=1", "--workdir", "run"]
    assert run_cli("launch", *wrong, "--config.optim.schedule=cosin").returncode == 2
    run_cli("launch", *wrong, check=True)


def test_a_changed_text_is_refused(run, folder, run_cli):
    (folder / "text.txt").write_text(TEXT.replace("dog", "cat"))
    result = run_cli("launch", "--config", "exp.py", "--workdir", "run")
    assert result.returncode == 2 and "run was" in result.stderr


MISTAKES = {
    "misspelt key": (["--config.modle.d_model=3"], 'did you mean "model.d_model"'),
    "wrong type": (["--config.num_steps=many"], "expected int"),
    "heads": (
        ["--config.model.num_heads=5"],
        "model.d_model=32 must be a multiple of model.num_heads=5",
    ),
    "missing config": (["--config", "nowhere.py"], "no file nowhere.py"),
    "broken config": (["--config", "broken.py"], "broken.py:1"),
    "misspelt option": (["--workdirr", "x"], 'did you mean "--workdir"'),
    "missing text": (["--config.data.path=nowhere.txt"], "nowhere.txt"),
    "empty text": (["--config.data.path=empty.txt"], "empty.txt"),
    "short text": (["--config.data.path=short.txt"], "too short"),
    "not UTF-8": (["--config.data.path=latin.txt"], "UTF-8"),
    "mesh": (["--config.mesh.data=3"], "mesh.data=3"),
    "micro batch": (["--config.micro_batch_size=3"], "micro_batch_size=3"),
    "attention": (["--config.model.attention=cudnn"], "cudnn"),
    "profile": (["--profile_steps", "5"], "FIRST:END"),
    "unwritable": (["--workdir", "text.txt/run"], "can't be written"),
    "no value": (["--config.seed"], "needs a value"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line_and_exit_code_2(folder, capfd, monkeypatch, name):
    from jaxlm import launch

    (folder / "broken.py").write_text("def get_config(:\n")
    (folder / "empty.txt").write_text("")
    (folder / "short.txt").write_text("abc")
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 2000)
    monkeypatch.chdir(folder)
    arguments, message = MISTAKES[name]
    try:
        whole = "--config.micro_batch_size=8"  # this process has eight devices
        code = launch.main(["--config", "exp.py", whole, *arguments])
    except SystemExit as error:
        code = error.code
    shown = capfd.readouterr()
    lines = [line for line in shown.err.splitlines() if "error" in line]
    assert code == 2
    assert len(lines) == 1 and message in lines[0], shown.err
    assert "Traceback" not in shown.err


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root"
)
def test_a_full_disk_stops_the_run_and_the_last_checkpoint_stays_good(folder, run_cli):
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine does not let us mount a disk")
    try:
        big = [
            "--config",
            "exp.py",
            "--config.model.d_model=64",
            "--config.checkpoint.keep_last=9",
            "--workdir",
            disk / "run",
        ]
        result = run_cli("launch", *big)
        assert result.returncode == 2, result.stdout + result.stderr
        assert "No space left" in result.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        again = run_cli("launch", *big, check=True)
        assert "resumed" in again.stdout
    finally:
        subprocess.run(["umount", disk], check=True)


def test_show_batch_shows_and_trains_nothing(folder, run_cli):
    result = run_cli("launch", "--config", "exp.py", "--show_batch", check=True)
    assert "example 0: 16 tokens, 16 scored" in result.stdout and "->" in result.stdout
    assert not (folder / "runs").exists()


def test_generate_writes_on_as_a_process_of_its_own(run, run_cli):
    command = ["--workdir", "run", "--prompt", "the qu", "--max_tokens", "30", "--seed", "3"]
    written = json.loads(run_cli("generate", *command, check=True).stdout)
    assert written["prompt"] == "the qu" and written["text"] and written["num_tokens"] <= 30
    result = run_cli("generate", *command, "--workdir", "nowhere")
    assert result.returncode == 2 and "no run's folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_nonfinite_step_stops_and_names_step_and_batch(folder, run_cli):
    wild = [
        "--config",
        "exp.py",
        "--config.optim.learning_rate=1e38",
        "--config.optim.clip_norm=0",
        "--workdir",
        "run",
    ]
    result = run_cli("launch", *wild)
    assert result.returncode == 2
    assert "is not finite" in result.stderr and "batch" in result.stderr
    saved = list((folder / "run").glob("nonfinite_step_*.npz"))
    assert len(saved) == 1
