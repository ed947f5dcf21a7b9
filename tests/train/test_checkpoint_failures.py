"""Saves that fail: a full disk, failing writes, SIGKILL in mid-save."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import TARGET, assert_restores, make_state, save, target_of

from jaxlm.train import checkpoint
from jaxlm.train import manifest as manifests
from jaxlm.train.checkpoint import CheckpointError
from jaxlm.train.leaves import state_digest


def test_full_disk_is_found_before_writing(tmp_path, opened, monkeypatch):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError) as error:
        checkpointer.save(make_state(2), {}, 2)
    assert str(error.value) == (
        f"the checkpoint of step 2 could not be written to {tmp_path}: No space left on device; "
        "step 1 is the newest good one"
    )
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
    save(checkpointer, 2)
    assert_restores(checkpointer.restore(TARGET), 2)


def test_a_write_that_fails_in_the_background(tmp_path, opened, caplog):
    """A real failed write: files of this process may not grow beyond 64 KiB for a moment."""
    checkpointer = opened(tmp_path)
    save(checkpointer, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="step 2 could not be written .*step 1 is") as e:
            checkpointer.save({"x": jnp.asarray(np.random.rand(100_000), jnp.float32)}, {}, 2)
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "\n" not in str(e.value)
    assert not caplog.records  # orbax's tracebacks are kept out
    assert [p.name for p in tmp_path.iterdir()] == ["00000001"]
    save(checkpointer, 2)
    assert_restores(checkpointer.restore(TARGET), 2)


def test_no_space_in_the_background_is_one_line(tmp_path, opened, monkeypatch):
    checkpointer = opened(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(manifests, "write", full)
    checkpointer.save(make_state(1), {}, 1)
    with pytest.raises(CheckpointError, match="No space left on device; there is none before it"):
        checkpointer.save(make_state(2), {}, 2)  # raises for the one before
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from checkpoint_states import make_state
from jaxlm.train.checkpoint import Checkpointer, Config
with_width = int(sys.argv[2])
checkpointer = Checkpointer(sys.argv[1], Config(keep_last=1, keep_best=0))
step = int(sys.argv[3])
while True:
    step += 1
    checkpointer.save(make_state(step, with_width), {"of": step}, step, blocking=True)
    print(step, flush=True)
"""


def test_killed_in_mid_save(tmp_path, opened):
    """SIGKILL at random moments; keep_last=1 is the hardest: what was published must survive."""
    width, chance, published = 4096, random.Random(), 0
    target = target_of(make_state(0, width))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path + [str(Path(__file__).parent)]),
    }
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(width), str(published)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            published = int(child.stdout.readline())
            time.sleep(chance.uniform(0.0, 0.4))
            child.send_signal(signal.SIGKILL)
            published = int((child.stdout.read().split() or [published])[-1])
        state, extra, step = opened(tmp_path).restore(target)
        assert step >= published and extra == {"of": step}
        assert state_digest(state) == state_digest(make_state(step, width))
        published = step
