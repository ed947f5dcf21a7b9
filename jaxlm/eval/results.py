"""A result on disk: everything that running it again and comparing it with another needs.

    FOLDER/results.json      what was run, on what, with what outcome; its own digest, and those of the other files
    FOLDER/examples.jsonl    every input, prediction and reference
    FOLDER/statistics.npz    what error bars and paired comparisons are made of
    FOLDER/report.html       the same for people (report.py)

Not here: loading a model, running a suite (api.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxlm.core.types import PyTree
from jaxlm.eval import Row, Scores

FORMAT = 1  # of a result; raise it when a reader of the old one would misread the new
RESULTS, EXAMPLES, STATISTICS, REPORT = (
    "results.json",
    "examples.jsonl",
    "statistics.npz",
    "report.html",
)
LIBRARIES = (
    "jaxlm", "jax", "jaxlib", "flax", "numpy", "tokenizers", "sacrebleu", "rouge_score",
    "scikit-learn", "seqeval", "nltk", "bm25s", "faiss-cpu", "snowballstemmer",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """One suite on one model.

    `model` is {"path", "best", "kind", "step", "weights", "num_params", "sha256", "tokenizer", "config"}, `suite` {"name",
    "options"}, `data` name -> sha256.
    """

    command: list[str]
    created: str  # ISO 8601, UTC
    seconds: float
    versions: dict[str, str]
    device: str
    model: dict[str, Any]
    suite: dict[str, Any]
    data: dict[str, str]
    scores: Scores

    @property
    def title(self) -> str:
        """The suite and the model, in a few words."""
        return f"{self.suite['name']} · {self.model['name']}"


def versions() -> dict[str, str]:
    """Of Python, and of the installed libraries that a score can depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """What computes here."""
    first = jax.devices()[0]
    return f"{jax.device_count()} x {first.device_kind} ({first.platform}), {platform.machine()}"


def weights_digest(params: PyTree) -> str:
    """sha256 over path, dtype, shape and bytes of every leaf, in the order of the paths."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted(leaves, key=lambda pair: jax.tree_util.keystr(pair[0])):
        array = np.ascontiguousarray(jax.device_get(leaf))
        name = jax.tree_util.keystr(path)
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def check_writable(folder: Any) -> None:
    """That a result can be put here, before it is made.

    Raises:
      ValueError: it is a file, or in a folder that can't be written.
    """
    if "://" in str(folder):
        return
    folder = Path(os.path.abspath(folder))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "may not be written to" if there.is_dir() else "is a file"
        raise ValueError(f"--out {folder} can't be written: {there} {why}")


def save(result: Result, folder: Any, report: str = "") -> epath.Path:
    """Write a result's files, results.json last: what it does not vouch for is not there yet.

    Args:
      result: what to write.
      folder: made if missing; an earlier result in it is replaced.
      report: the HTML page.

    Returns:
      The path of results.json.

    Raises:
      ValueError: the folder can't be written.
    """
    folder = epath.Path(folder)
    rows, arrays = _packed(result.scores.rows)
    files = {
        EXAMPLES: "".join(_json(example) + "\n" for example in result.scores.examples).encode(),
        STATISTICS: _npz(arrays),
    }
    if report:
        files[REPORT] = report.encode()
    body = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    body |= {
        "format": FORMAT,
        "scores": {"rows": rows, "tables": result.scores.tables},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (*files.items(), (RESULTS, _render(json.loads(_json(body))))):
            draft = folder / f".{name}.new"
            draft.write_bytes(content)
            draft.replace(folder / name)
    except OSError as error:
        raise ValueError(f"--out {folder} can't be written ({error})") from error
    return folder / RESULTS


def load(path: Any) -> Result:
    """A result, with its examples and statistics.

    Args:
      path: results.json, or its folder.

    Raises:
      ValueError: there is none, it is not what was written, or of a format that this version does not read.
    """
    path = epath.Path(path)
    path = path / RESULTS if path.is_dir() else path
    try:
        raw = path.read_bytes()
        body = json.loads(raw)["result"]
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such result") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no whole result: it was cut short or changed") from error
    if _render(body) != raw:  # one spelling only, so no byte is free to change
        raise ValueError(f"{path} does not match its own sha256: it was changed")
    if body.pop("format", None) != FORMAT:
        raise ValueError(f"{path} has another format than {FORMAT}, the one that this jaxlm reads")
    contents = {}
    for name, digest in body.pop("files").items():
        try:
            contents[name] = (path.parent / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{path} needs {name} beside it: {error}") from error
        if name != REPORT and hashlib.sha256(contents[name]).hexdigest() != digest:
            raise ValueError(f"{path.parent / name} is not the one that belongs to {path.name}")
    arrays = np.load(io.BytesIO(contents[STATISTICS]), allow_pickle=False)
    scores = body.pop("scores")
    lines = contents[EXAMPLES].decode().split("\n")  # not splitlines: text may hold U+2028
    examples = [json.loads(line) for line in lines if line]
    rows = [_unpacked(row, arrays) for row in scores["rows"]]
    return Result(**body, scores=Scores(rows, examples, scores["tables"]))


def _packed(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Rows as JSON values, with the name of their statistics; equal ones are kept once."""
    packed, arrays, names = [], {}, {}
    for row in rows:
        entry = {
            field.name: getattr(row, field.name)
            for field in dataclasses.fields(row)
            if field.name != "statistics"
        }
        entry["statistics"] = None
        if row.statistics is not None:
            array = np.ascontiguousarray(row.statistics, np.float64)
            digest = hashlib.sha256(array.tobytes()).hexdigest()
            entry["statistics"] = names.setdefault((digest, array.shape), f"s{len(names)}")
            arrays[entry["statistics"]] = array
        packed.append(entry)
    return packed, arrays


def _unpacked(entry: Mapping[str, Any], arrays: Any) -> Row:
    name = entry["statistics"]
    numbers = {
        key: math.nan if entry[key] is None else float(entry[key]) for key in ("value", "stderr")
    }
    return Row(**{**entry, **numbers, "statistics": None if name is None else arrays[name]})


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The same bytes for the same arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.save(part, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """As JSON values: numbers that are not finite as null, tuples and arrays as lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _render(body: Any) -> bytes:
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    text = json.dumps({"result": body, "sha256": digest}, indent=1)
    return (text + "\n").encode()
