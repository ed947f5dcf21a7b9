"""The cache: built once, whole or not at all, noticed when damaged, shared by processes."""

import json
import logging
import subprocess
import sys
import time

import pytest

from jaxlm.data import cache


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def builder(calls, content=b"tokens"):
    def build(folder):
        calls.append(1)
        (folder / "tokens.bin").write_bytes(content)
        return {"num": len(content)}

    return build


def test_built_once(root):
    calls = []
    first = cache.fetch({"a": 1}, builder(calls))
    again = cache.fetch({"a": 1}, builder(calls))
    assert first == again and again.facts == {"num": 6} and len(calls) == 1
    assert first.path.is_relative_to(root)
    assert cache.fetch({"a": 2}, builder(calls)).path != first.path and len(calls) == 2


def test_root_is_home_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXLM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "jaxlm"


def _truncate(path):
    (path / "tokens.bin").write_bytes(b"tok")


def _flip(path):
    (path / "tokens.bin").write_bytes(b"tokenz")


def _torn_meta(path):
    meta = (path / "meta.json").read_bytes()
    (path / "meta.json").write_bytes(meta[: len(meta) // 2])


def _altered_meta(path):
    meta = (path / "meta.json").read_text()
    assert '"num": 6' in meta
    (path / "meta.json").write_text(meta.replace('"num": 6', '"num": 7'))


def _lost(path):
    (path / "tokens.bin").unlink()


def _no_meta(path):
    (path / "meta.json").unlink()


@pytest.mark.parametrize("damage", [_truncate, _flip, _torn_meta, _altered_meta, _lost, _no_meta])
def test_damage_is_reported_and_repaired(damage, caplog):
    calls = []
    entry = cache.fetch({"a": 1}, builder(calls))
    damage(entry.path)
    with caplog.at_level(logging.WARNING):
        again = cache.fetch({"a": 1}, builder(calls))
    assert len(calls) == 2 and again == entry
    assert (again.path / "tokens.bin").read_bytes() == b"tokens"
    assert "is damaged" in caplog.text and "building it again" in caplog.text
    cache.fetch({"a": 1}, builder(calls))
    assert len(calls) == 2


def test_a_failed_build_leaves_nothing(root):
    def fail(folder):
        (folder / "half").write_bytes(b"x")
        raise ValueError("bad corpus")

    with pytest.raises(ValueError, match="bad corpus"):
        cache.fetch({"a": 1}, fail)
    assert [
        path.name for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"
    ] == []
    assert cache.fetch({"a": 1}, builder([])).facts == {"num": 6}


def test_a_cache_that_can_only_be_read_is_read(root, monkeypatch):
    cache.fetch({"a": 1}, builder([]))

    def no_lock(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "lock", no_lock)
    assert cache.fetch({"a": 1}, builder([])).facts == {"num": 6}
    with pytest.raises(ValueError, match="can't be used: Permission denied .set JAXLM_CACHE"):
        cache.fetch({"a": 2}, builder([]))


BUILD = """
import sys, time
from jaxlm.data import cache

def build(folder):
    with open(cache.root() / "builds", "a") as file:
        file.write("x")
    (folder / "tokens.bin").write_bytes(b"half")
    time.sleep(float(sys.argv[1]))
    (folder / "tokens.bin").write_bytes(b"whole")
    return {}

print((cache.fetch({"shared": 1}, build).path / "tokens.bin").read_text())
"""


def start(seconds):
    return subprocess.Popen([sys.executable, "-c", BUILD, seconds], stdout=subprocess.PIPE)


def test_processes_build_it_once_between_them(root):
    root.mkdir()
    workers = [start("0.5") for _ in range(4)]
    assert [worker.communicate(timeout=60)[0] for worker in workers] == [b"whole\n"] * 4
    assert (root / "builds").read_text() == "x"


def test_a_killed_builder_is_replaced_and_its_leftovers_go(root):
    root.mkdir()
    worker = start("60")
    deadline = time.monotonic() + 60
    while not list(root.rglob("tokens.bin")):
        assert time.monotonic() < deadline and worker.poll() is None
        time.sleep(0.01)
    worker.kill()
    worker.communicate()
    assert list(root.rglob("*.tmp-*"))
    entry = cache.fetch({"shared": 1}, builder([]))
    assert (entry.path / "tokens.bin").read_bytes() == b"tokens"
    assert not list(root.rglob("*.tmp-*"))


def test_digest_ignores_the_order_of_keys():
    assert cache.digest({"a": 1, "b": [2]}) == cache.digest(json.loads('{"b": [2], "a": 1}'))
    assert cache.digest({"a": 1}) != cache.digest({"a": "1"})
