"""A content-addressed cache on local disk: made once, published whole, verified when opened.

An entry is a folder whose name is the digest of everything that its content depends on. Processes
that want the same one at the same time wait for the first (a lock file), and a rename publishes it,
so no reader ever sees half of one. A torn or altered entry is noticed (sizes and digests are in its
meta.json), reported and made again. Not for checkpoints, and not for sets too large to tokenise at
the start of a run: that is `jaxlm.prepare`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

META_FILE = "meta.json"
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A published folder and the facts that its builder returned."""

    path: Path
    facts: dict[str, Any]


def root() -> Path:
    """$JAXLM_CACHE, or ~/.cache/jaxlm."""
    return Path(os.environ.get("JAXLM_CACHE") or Path.home() / ".cache" / "jaxlm")


def fetch(key: Mapping[str, Any], build: Callable[[Path], dict[str, Any]]) -> Entry:
    """The entry for `key`, building it where it is missing or damaged.

    Args:
      key: everything that the content depends on, as JSON values.
      build: writes the files into the empty folder it is given and returns facts, as JSON values.

    Raises:
      ValueError: the cache can't be written.
    """
    name = digest(key)
    path = root() / name[:2] / name
    facts, _ = verify(path)
    if facts is not None:  # without the lock: a cache that can only be read will do
        return Entry(path, facts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f"{name}.lock")):
            facts, fault = verify(path)
            if facts is None:
                if path.exists():
                    _log.warning("token cache: %s is damaged (%s), building it again", path, fault)
                facts = _publish(key, path, build)
    except OSError as error:
        raise ValueError(
            f"the token cache in {root()} can't be used: {error.strerror or error} "
            "(set JAXLM_CACHE to a folder that can be written and has room)"
        ) from error
    return Entry(path, facts)


def digest(value: Any) -> str:
    """SHA-256 of JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The facts of a published folder, or None and what is wrong with it."""
    try:
        meta = json.loads((path / META_FILE).read_bytes())
        body = {"key": meta["key"], "facts": meta["facts"], "files": meta["files"]}
        if digest(body) != meta["sha256"]:
            return None, f"{META_FILE} was altered"
        for name, (size, sha256) in meta["files"].items():
            if os.path.getsize(path / name) != size:
                return None, f"{name} has {os.path.getsize(path / name)} bytes, not {size}"
            if file_digest(path / name) != sha256:
                return None, f"{name} was altered"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{type(error).__name__}: {error}"
    return meta["facts"], ""


def write_meta(path: Path, key: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Record every file of a folder, so that `verify` can check it later."""
    files = {
        str(file.relative_to(path)): [os.path.getsize(file), file_digest(file)]
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != META_FILE
    }
    body = {"key": dict(key), "facts": dict(facts), "files": files}
    write_synced(path / META_FILE, json.dumps({**body, "sha256": digest(body)}, indent=1).encode())


def write_synced(path: Path, data: bytes) -> None:
    """Write a file so that a rename that follows can't be on disk before it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _publish(key: Mapping[str, Any], path: Path, build: Callable[[Path], dict]) -> dict[str, Any]:
    _sweep(path)  # what a killed process left: we hold the lock
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        facts = build(temporary)
        write_meta(temporary, key, facts)
        if path.exists():
            path.rename(path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}"))
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sweep(path)
    return json.loads(json.dumps(facts))


def _sweep(path: Path) -> None:
    for left_over in path.parent.glob(f"{path.name}.tmp-*"):
        shutil.rmtree(left_over, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file; it is freed by the system if we are killed."""
    with open(path, "wb") as file:
        try:
            import fcntl
        except (
            ModuleNotFoundError
        ):  # Windows: two builders then race, and the rename still is whole
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
