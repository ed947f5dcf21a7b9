"""A run's folder: made or recognised, claimed for one config, and what is in it for others to load."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm.core.types import Tokenizer
from jaxlm.data import tokenizers

CONFIG, SUMMARY, TOKENIZER = "config.json", "summary.json", "tokenizer"
LABELS = "labels.json"
CHECKPOINTS = "checkpoints"


def open_workdir(path: Any) -> epath.Path:
    """The folder, made if missing and known to be writable by process 0, which alone writes to it.

    Raises:
      ValueError: it can't be written.
    """
    workdir = _absolute(path)
    if jax.process_index():
        return workdir
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"--workdir {path} can't be written ({error}): choose another folder"
        ) from error
    return workdir


def existing(path: Any) -> epath.Path:
    """The folder of an earlier run.

    Raises:
      ValueError: there is none.
    """
    workdir = _absolute(path)
    if not (workdir / CONFIG).exists():
        raise ValueError(f"{path} is no run's folder: it has no {CONFIG}")
    return workdir


def _absolute(path: Any) -> epath.Path:
    """Orbax takes absolute paths only; a bucket's URL is one."""
    return epath.Path(path if "://" in str(path) else os.path.abspath(path))


def load_tokenizer(workdir: epath.Path) -> Tokenizer | None:
    """The tokenizer that a run was trained with, from the run's own copy.

    Raises:
      ValueError: the copy is damaged or was changed.
    """
    if not (workdir / TOKENIZER).exists():
        return None
    tokenizer = tokenizers.load(workdir / TOKENIZER)
    check_tokenizer(workdir, tokenizer)
    return tokenizer


def read_labels(workdir: epath.Path) -> tuple[str, ...]:
    """The names of a classifier's classes, in id order."""
    path = workdir / LABELS
    return tuple(json.loads(path.read_text())) if path.exists() else ()


def read_summary(workdir: epath.Path) -> dict[str, Any] | None:
    """What a finished run has recorded of itself."""
    path = workdir / SUMMARY
    return json.loads(path.read_text()) if path.exists() else None


def recorded(workdir: epath.Path) -> ConfigDict | None:
    """The config of the run that this folder holds: one that has come to a checkpoint, or may yet."""
    return configs.read(workdir / CONFIG) if _has_checkpoint(workdir) else None


def _has_checkpoint(workdir: epath.Path) -> bool:
    folder = workdir / CHECKPOINTS
    return folder.exists() and any(folder.iterdir()) and (workdir / CONFIG).exists()


def claim(
    workdir: epath.Path,
    cfg: ConfigDict,
    tokenizer: Tokenizer | None,
    labels: Sequence[str] = (),
) -> None:
    """Record config, tokenizer and names of classes in a new folder; in one with checkpoints, insist that they are the same.

    Raises:
      ValueError: the folder belongs to another config or tokenizer; what differs is listed.
    """
    if jax.process_index():
        return
    path = workdir / CONFIG
    if _has_checkpoint(workdir):
        lines = configs.differences(cfg, configs.read(path))
        if lines:
            raise ValueError(
                f"{workdir} holds a run with another config: {'; '.join(lines)}. Take another --workdir, "
                "or the config that the run was started with"
            )
        check_tokenizer(workdir, tokenizer)
        return
    if tokenizer is not None:
        folder = workdir / TOKENIZER
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
        (workdir / "tokenizer.sha256").write_text(tokenizer.digest + "\n")
    if labels:
        (workdir / LABELS).write_text(json.dumps(labels, ensure_ascii=False) + "\n")
    configs.save(cfg, path)


def check_tokenizer(workdir: epath.Path, tokenizer: Tokenizer | None) -> None:
    """Insist that a tokenizer is the one that a run was trained with.

    Raises:
      ValueError: it is another one.
    """
    path = workdir / "tokenizer.sha256"
    if tokenizer is None or not path.exists():
        return
    if path.read_text().strip() != tokenizer.digest:
        raise ValueError(
            f"the data's tokenizer ({tokenizer.name}) is not the one that {workdir} was trained with: the text or "
            "data.tokenizer has changed. Take another --workdir, or the data that the run was started with"
        )
