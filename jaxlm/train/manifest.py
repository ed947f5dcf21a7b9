"""The manifest of a checkpoint: what was saved, and the size and sha256 of every file of it.

It is written last and moved into place, so a directory that has one was complete once. It holds its
own digest, so that one changed byte anywhere is found. Not here: arrays (checkpoint.py).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from etils import epath

FORMAT = 1  # of a checkpoint; raise it when a reader of the old one would misread the new
NAME = "manifest.json"

Leaves = dict[str, dict[str, Any]]
"""Path of an array in the state -> its dtype and shape."""


class Invalid(Exception):
    """Why a checkpoint on disk cannot be used; names the file."""


def exists(directory: epath.Path) -> bool:
    """Whether the checkpoint was published."""
    return (directory / NAME).exists()


def write(directory: epath.Path, content: dict[str, Any]) -> None:
    """Publish the checkpoint: digest every file in it, then put the manifest beside them."""
    files = sorted(_files(directory))
    table = {
        file.relative_to(directory).as_posix(): {"size": file.stat().length, "sha256": digest}
        for file, digest in zip(files, _digests(files), strict=True)
    }
    partial = directory / f"{NAME}.tmp"
    partial.write_bytes(_render({**content, "format": FORMAT, "files": table}))
    partial.rename(directory / NAME)


def remove(directory: epath.Path) -> None:
    """Unpublish the checkpoint, before its files are deleted."""
    (directory / NAME).unlink(missing_ok=True)


def read(directory: epath.Path) -> dict[str, Any]:
    """The manifest, itself verified.

    Raises:
      Invalid: it cannot be read, or is not what was written.
      ValueError: it is whole, but of a format that this version does not read.
    """
    path = directory / NAME
    try:
        found = path.read_bytes()
        manifest = json.loads(found)["manifest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{path} cannot be read ({error})") from error
    if _render(manifest) != found:  # one spelling only, so no byte is free to change
        raise Invalid(f"{path} does not match its own sha256")
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}; this jaxlm reads {FORMAT}")
    return manifest


def verify(directory: epath.Path) -> None:
    """Compare every file with the manifest; raises what `read` does, Invalid naming the file."""
    files = read(directory)["files"]
    for name, expected in files.items():  # sizes first: often there is no need to read it all
        file = directory / name
        if not file.exists():
            raise Invalid(f"{file} is missing")
        if file.stat().length != expected["size"]:
            raise Invalid(f"{file} has {file.stat().length} bytes, not {expected['size']}")
    digests = _digests(directory / name for name in files)
    for (name, expected), digest in zip(files.items(), digests, strict=True):
        if digest != expected["sha256"]:
            raise Invalid(f"{directory / name} does not match its sha256")


def differences(saved: Leaves, wanted: Leaves, partial: bool) -> str:
    """What keeps the saved leaves from filling the wanted ones; `partial`: not all are wanted."""

    def show(leaf: dict[str, Any] | None) -> str:
        return f"{leaf['dtype']}{leaf['shape']}" if leaf else "missing"

    paths = sorted(wanted if partial else wanted | saved)
    lines = [
        f"{path} is saved as {show(saved.get(path))}, wanted as {show(wanted.get(path))}"
        for path in paths
        if show(saved.get(path)) != show(wanted.get(path))
    ]
    more = [f"and {len(lines) - 8} more"] if len(lines) > 8 else []
    return "; ".join(lines[:8] + more)


def _render(manifest: Any) -> bytes:
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    whole = {"manifest": manifest, "sha256": digest}
    return (json.dumps(whole, sort_keys=True, indent=1) + "\n").encode()


def _files(directory: epath.Path) -> list[epath.Path]:
    files = []
    for path in directory.iterdir():
        files += _files(path) if path.is_dir() else [path]
    return files


def _digests(files: Iterable[epath.Path]) -> list[str]:
    def digest(file: epath.Path) -> str:
        sha = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
        return sha.hexdigest()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(digest, files))
