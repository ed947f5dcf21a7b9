"""Faults are injected into real checkpoints: flipped bytes, lost files, kills, a full disk."""

import errno
import json
import random
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import TARGET, assert_restores, make_state, save, target_of
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.train import manifest as manifests
from jaxlm.train.checkpoint import CheckpointError, Config
from jaxlm.train.leaves import state_digest


def test_round_trip_is_bit_exact(tmp_path, opened):
    checkpointer = opened(tmp_path)
    assert checkpointer.restore(TARGET) is None
    assert checkpointer.latest_step() is None
    save(checkpointer, 7)
    state, _, _ = found = checkpointer.restore(TARGET)
    assert_restores(found, 7)
    assert jax.tree.structure(state) == jax.tree.structure(make_state(7))
    np.testing.assert_array_equal(
        jax.random.normal(state.key, (3,)), jax.random.normal(jax.random.key(7), (3,))
    )


def test_the_random_key_keeps_its_implementation(tmp_path, opened):
    key = jax.random.key(3, impl="rbg")
    checkpointer = opened(tmp_path)
    checkpointer.save({"key": key}, {}, 1, blocking=True)
    found, _, _ = checkpointer.restore({"key": jax.ShapeDtypeStruct(key.shape, key.dtype)})
    assert found["key"].dtype == key.dtype
    other = {"key": jax.eval_shape(lambda: jax.random.key(0))}
    with pytest.raises(ValueError, match="key is saved as key<rbg>"):
        checkpointer.restore(other)


def test_arrays_may_be_donated_or_overwritten_after_save(tmp_path, opened):
    checkpointer = opened(tmp_path, keep_last=9)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = {f"{i}": jnp.full((300_000,), 0.0) for i in range(4)}
    host = np.zeros(300_000, np.float32)
    for i in range(5):
        checkpointer.save({"device": state, "host": host}, {}, i)
        state = step(step(state))
        host += 2
    checkpointer.wait()
    target = target_of({"device": state, "host": host})
    for i in range(5):
        found, _, _ = checkpointer.restore(target, step=i)
        for x in jax.tree.leaves(found):
            np.testing.assert_array_equal(x, np.full(300_000, 2.0 * i))


def test_extra_is_copied_at_the_call(tmp_path, opened):
    checkpointer = opened(tmp_path)
    extra = {"data": {"step": 1}}
    checkpointer.save(make_state(1), extra, 1)
    extra["data"]["step"] = 2
    assert checkpointer.restore(TARGET)[1] == {"data": {"step": 1}}
    with pytest.raises(TypeError):
        checkpointer.save(make_state(2), {"x": object()}, 2)
    assert checkpointer.all_steps() == [1]


def test_one_save_in_flight(tmp_path, opened, monkeypatch):
    running, most = [], []
    write = manifests.write

    def slow(*args):
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        write(*args)
        running.pop()

    monkeypatch.setattr(manifests, "write", slow)
    checkpointer = opened(tmp_path, keep_last=3)
    for step in (1, 2, 3):
        checkpointer.save(make_state(step), {}, step)
        assert checkpointer.all_steps() == list(range(1, step))  # published in the background
    checkpointer.wait()
    assert checkpointer.all_steps() == [1, 2, 3] and max(most) == 1


def test_keep_last_and_keep_best(tmp_path, opened):
    checkpointer = opened(tmp_path, keep_last=2, keep_best=1)
    for step, metric in ((1, 3.0), (2, 1.0), (3, float("nan")), (4, None), (5, 2.0), (6, 1.5)):
        save(checkpointer, step, metric=metric)
    assert checkpointer.all_steps() == [2, 5, 6]
    assert checkpointer.latest_step() == 6
    assert_restores(checkpointer.restore_best(TARGET), 2)
    assert_restores(checkpointer.restore(TARGET), 6)
    assert_restores(checkpointer.restore(TARGET, step=5), 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000002", "00000005", "00000006"]


def test_old_ones_are_deleted_only_when_the_new_one_is_published(tmp_path, opened, monkeypatch):
    checkpointer = opened(tmp_path, keep_last=1, keep_best=0)
    save(checkpointer, 1)

    def failing(*_):
        assert checkpointer.all_steps() == [1]
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(manifests, "write", failing)
    with pytest.raises(CheckpointError, match="Input/output error; step 1 is the newest good one"):
        save(checkpointer, 2)
    monkeypatch.undo()
    assert_restores(checkpointer.restore(TARGET), 1)
    save(checkpointer, 3)
    assert checkpointer.all_steps() == [3]


def test_restore_best_without_metrics_says_so(tmp_path, opened):
    checkpointer = opened(tmp_path)
    assert checkpointer.restore_best(TARGET) is None
    save(checkpointer, 1)
    with pytest.raises(ValueError, match="saved with a metric"):
        checkpointer.restore_best(TARGET)


def test_saving_a_step_again_keeps_the_first(tmp_path, opened):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1)
    before = (tmp_path / "00000001" / "manifest.json").stat().st_mtime_ns
    save(checkpointer, 1)
    assert (tmp_path / "00000001" / "manifest.json").stat().st_mtime_ns == before


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def files_of(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.stat().st_size)


def test_one_flipped_byte_in_any_file_is_found(tmp_path, opened):
    checkpointer = opened(tmp_path / "run")
    save(checkpointer, 1, 2)
    newest, aside = tmp_path / "run" / "00000002", tmp_path / "run" / "invalid-00000002"
    shutil.copytree(newest, tmp_path / "good")
    files = files_of(newest)
    assert len(files) > 5
    for file in files:
        flip(file, random.Random(str(file.name)).randrange(file.stat().st_size))
        opened.lines.clear()
        assert_restores(checkpointer.restore(TARGET), 1)
        (line,) = opened.lines
        assert "step 2 is damaged" in line and str(file) in line and aside.name in line
        assert aside.exists() and not newest.exists()
        shutil.copytree(tmp_path / "good", newest)
    assert_restores(checkpointer.restore(TARGET), 2)


def test_every_byte_of_the_manifest_counts(tmp_path):
    manifests.write(manifests.epath.Path(tmp_path), {"step": 1, "extra": {"lr": 0.1}})
    path = tmp_path / "manifest.json"
    for at in range(path.stat().st_size):
        for bit in (1, 32):
            good = path.read_bytes()
            path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
            with pytest.raises(manifests.Invalid, match="manifest.json"):
                manifests.read(manifests.epath.Path(tmp_path))
            path.write_bytes(good)


def test_truncated_and_lost_files(tmp_path, opened):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1, 2)
    largest = max(files_of(tmp_path / "00000002" / "state"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert_restores(checkpointer.restore(TARGET), 1)
    assert f"{largest} has" in opened.lines[-1] and "bytes" in opened.lines[-1]
    save(checkpointer, 2)  # the step can be saved again
    assert_restores(checkpointer.restore(TARGET), 2)
    largest = max(files_of(tmp_path / "00000002" / "state"), key=lambda p: p.stat().st_size)
    largest.unlink()
    assert_restores(checkpointer.restore(TARGET), 1)
    assert f"{largest} is missing" in opened.lines[-1]


def test_an_unfinished_save_is_reported_and_ignored(tmp_path, opened):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1)
    (tmp_path / "00000002" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    assert_restores(checkpointer.restore(TARGET), 1)
    assert "step 2 has no manifest" in opened.lines[-1]
    assert checkpointer.all_steps() == [1]
    save(checkpointer, 2)
    assert_restores(checkpointer.restore(TARGET), 2)
    (tmp_path / "00000001" / "manifest.json").unlink()
    save(checkpointer, 3)
    assert not (tmp_path / "00000001").exists()  # what was left of it went with the next save


def test_only_unfinished_saves_are_no_checkpoint(tmp_path, opened):
    (tmp_path / "00000002").mkdir()
    assert opened(tmp_path).restore(TARGET) is None
    with pytest.raises(ValueError, match="step 2 has no manifest"):
        opened(tmp_path).restore(TARGET, step=2)


def test_no_valid_checkpoint_raises_and_touches_nothing(tmp_path, opened):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1, 2)
    for step in ("00000001", "00000002"):
        flip(tmp_path / step / "state" / "_METADATA", 3)
    with pytest.raises(ValueError, match=r"no valid checkpoint in .*step 2: .*step 1: .*sha256"):
        checkpointer.restore(TARGET)
    assert checkpointer.all_steps() == [1, 2]
    with pytest.raises(ValueError, match="no valid checkpoint"):  # and no other in its place
        checkpointer.restore(TARGET, step=2)
    with pytest.raises(ValueError, match=r"no checkpoint of step 9 .*\[1, 2\]"):
        checkpointer.restore(TARGET, step=9)


def test_another_format_version_is_an_error(tmp_path, opened, monkeypatch):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1)
    monkeypatch.setattr(manifests, "FORMAT", 2)
    save(checkpointer, 2)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 2; this jaxlm reads 1"):
        checkpointer.restore(TARGET)
    assert checkpointer.all_steps() == [1, 2]


def test_a_tree_that_does_not_fit_names_the_leaves(tmp_path, opened):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1)
    wider = target_of(make_state(1, width=24))
    with pytest.raises(ValueError) as error:
        checkpointer.restore(wider)
    assert (
        "params/blocks/q/kernel is saved as float32[2, 8, 16], wanted as float32[2, 8, 24]"
        in str(error.value)
    )
    without = TARGET.replace(vars={}, ema={"head": jax.ShapeDtypeStruct((2,), jnp.float32)})
    with pytest.raises(ValueError, match="ema/head is saved as missing") as error:
        checkpointer.restore(without)
    assert "vars/carry is saved as bfloat16[3, 4], wanted as missing" in str(error.value)


def test_partial_restore_takes_the_parameters_only(tmp_path, opened):
    checkpointer = opened(tmp_path)
    save(checkpointer, 1)
    found, _, _ = checkpointer.restore({"params": TARGET.params}, partial=True)
    np.testing.assert_array_equal(
        found["params"]["blocks"]["q"]["kernel"], make_state(1).params["blocks"]["q"]["kernel"]
    )
    with pytest.raises(ValueError, match="parameters/x is saved as missing"):
        checkpointer.restore({"parameters": {"x": TARGET.step}}, partial=True)


def test_sharded_state_restores_into_any_sharding(tmp_path, opened):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("fsdp", "tensor"))

    def place(state, *spec):
        def sharding(x):
            fits = x.ndim == 3 and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            return NamedSharding(mesh, PartitionSpec(*spec) if fits else PartitionSpec())

        return jax.tree.map(sharding, state)

    state = make_state(1)
    sharded = jax.device_put(state, place(state, None, "fsdp", "tensor"))
    checkpointer = opened(tmp_path)
    checkpointer.save(sharded, {"of": 1}, 1, blocking=True)
    assert state_digest(sharded) == state_digest(state)
    for spec in ((None, "fsdp", "tensor"), ("tensor", None, "fsdp"), ()):
        shardings = place(state, *spec)
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), TARGET, shardings
        )
        found = checkpointer.restore(target)
        assert_restores(found, 1)
        for x, sharding in zip(jax.tree.leaves(found[0]), jax.tree.leaves(shardings), strict=True):
            assert x.sharding.is_equivalent_to(sharding, x.ndim)


def test_digest_sees_every_difference():
    state = {"a": jnp.arange(4.0), "b": jnp.int32(1), "key": jax.random.key(0)}
    digest = state_digest(state, {"step": 1, "x": [2]})
    assert digest == state_digest(dict(reversed(state.items())), {"x": [2], "step": 1})
    assert digest == state_digest(
        {**state, "a": np.arange(4, dtype=np.float32)}, {"step": 1, "x": [2]}
    )
    others = [
        {**state, "a": state["a"].at[3].add(1e-6)},
        {**state, "a": state["a"].reshape(2, 2)},
        {**state, "a": state["a"].astype(jnp.bfloat16)},
        {**state, "b": jnp.uint32(1)},
        {**state, "key": jax.random.key(1)},
        {"a": state["a"], "c": state["b"], "key": state["key"]},
        {"a": state["a"], "b": state["b"]},
    ]
    digests = {state_digest(other, {"step": 1, "x": [2]}) for other in others}
    digests |= {digest, state_digest(state, {"step": 2, "x": [2]}), state_digest(state)}
    assert len(digests) == len(others) + 3
    assert state_digest({"z": jnp.float32(0.0)}) != state_digest({"z": jnp.float32(-0.0)})


def test_names_that_collide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same path"):
        state_digest({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})


def test_manifest_can_be_read_by_a_person(tmp_path, opened):
    save(opened(tmp_path), 1, metric=0.5)
    content = json.loads((tmp_path / "00000001" / "manifest.json").read_text())["manifest"]
    assert content["format"] == 1 and content["step"] == 1 and content["metric"] == 0.5
    assert content["leaves"]["params/blocks/q/kernel"] == {"dtype": "float32", "shape": [2, 8, 16]}
    assert "state/_METADATA" in content["files"]


@pytest.mark.parametrize("field, value", [("keep_last", 0), ("keep_best", -1)])
def test_config_errors_name_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"checkpoint\.{field}={value}"):
        Config(**{field: value})
