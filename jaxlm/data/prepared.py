"""Token sets made ahead by `python -m jaxlm.prepare`: how they are cut, made, resumed and opened.

A set is a folder: plan.json (what is being made), tokenizer/, shard-00000.bin with
shard-00000.json, ..., and, once all shards are there, meta.json, without which the folder is not a
set. A shard is a byte range of one file that begins and ends where a document, or a piece of text
that can be tokenised apart (reading.py), does: so the shards, one after the other, are the tokens
of the whole, and the number of processes changes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxlm.data import cache, reading, sources, store, tokenizers

PLAN_FILE, META_FILE = "plan.json", "meta.json"
_FORMAT = "jaxlm tokens 1"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A byte range of one input file."""

    number: int
    file: str
    start: int
    stop: int
    ends_file: bool  # and another file follows: a text's <eos> comes here

    @property
    def stem(self) -> str:
        return f"shard-{self.number:05d}"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A finished set, opened."""

    directory: Path
    files: tuple[Path, ...]
    tokenizer_name: str
    tokenizer_digest: str
    num_bytes: int
    digest: str

    def tokenizer(self) -> Any:
        """The tokenizer it was made with."""
        return tokenizers.load(self.directory / "tokenizer")


def load(directory: str) -> Prepared:
    """Open a finished set; sizes are checked, contents were when it was finished.

    Raises:
      ValueError: there is none, it isn't finished, or a file of it is missing or torn.
    """
    folder = Path(directory)
    where = f"data.path=tokens:{directory}"
    if not (folder / META_FILE).is_file():
        state = "is not finished: run the same jaxlm.prepare again"
        missing = "is no token set: make one with python -m jaxlm.prepare"
        raise ValueError(f"{where} {state if (folder / PLAN_FILE).is_file() else missing}")
    try:
        meta = json.loads((folder / META_FILE).read_bytes())
        if meta["format"] != _FORMAT:
            raise ValueError(f"{where} has format {meta['format']!r}; accepted: {_FORMAT!r}")
        width = store.dtype_for(meta["vocab_size"]).itemsize
        files = []
        for shard in meta["shards"]:
            files.append(folder / shard["file"])
            if os.path.getsize(files[-1]) != shard["num_tokens"] * width:
                raise ValueError(
                    f"{where}: {shard['file']} is torn: run the same jaxlm.prepare again"
                )
        name, digest = meta["tokenizer"]["name"], meta["tokenizer"]["digest"]
        return Prepared(folder, tuple(files), name, digest, meta["num_bytes"], meta["digest"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{where} is damaged ({error!r}): run the same jaxlm.prepare again"
        ) from error


def make_plan(source: sources.Source, text_column: str, tokenizer: Any, shard_bytes: int) -> dict:
    """What is to be made, as JSON values: the same plan gives the same set, byte for byte.

    Raises:
      ValueError: an empty file.
    """
    files = [file.name for file in source.files]
    sizes = [os.path.getsize(file) for file in files]
    for file, size in zip(files, sizes, strict=True):
        if not size:
            raise ValueError(f"{file} is empty")
    return {
        "format": _FORMAT,
        "files": [[os.path.abspath(f), size] for f, size in zip(files, sizes, strict=True)],
        "in_characters": source.in_characters,
        "text_column": text_column,
        "tokenizer": {"name": tokenizer.name, "digest": tokenizer.digest},
        "vocab_size": tokenizer.vocab_size,
        "shard_bytes": shard_bytes,
    }


def shards(plan: dict[str, Any]) -> list[Shard]:
    """The byte ranges of a plan, in order."""
    result: list[Shard] = []
    for number, (file, size) in enumerate(plan["files"], 1):
        start = 0
        while start < size:
            stop = _boundary(file, start + plan["shard_bytes"], size, plan["in_characters"])
            ends_file = stop == size and number < len(plan["files"])
            result.append(Shard(len(result), file, start, stop, ends_file))
            start = stop
    return result


def _boundary(file: str, target: int, size: int, in_characters: bool) -> int:
    """The first place from about `target` on where the file can be cut, bytes."""
    with open(file, "rb") as opened:
        opened.seek(min(target, size))
        if not in_characters:
            for block in reading.blocks(opened):
                if (newline := block.find(b"\n")) >= 0:
                    return opened.tell() - len(block) + newline + 1
            return size
        while block := opened.read(reading.BLOCK):
            inside = next((i for i, byte in enumerate(block[:4]) if byte & 0xC0 != 0x80), 0)
            text = block[inside:].decode("utf-8", "surrogateescape")
            if cut := reading.cut_point(text):
                begin = opened.tell() - len(block) + inside
                return begin + len(text[:cut].encode("utf-8", "surrogateescape"))
    return size


def make_shard(shard: Shard, plan: dict[str, Any], tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Tokenise one shard into `folder`, replacing what is there; its facts."""
    temporary = folder / f"{shard.stem}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        writer = store.Writer(file, tokenizer)
        store.write_all(_pieces(shard, plan), writer)
        file.flush()
        os.fsync(file.fileno())
    facts = {**dataclasses.asdict(shard), **writer.facts(), "source_sha256": _source_digest(shard)}
    temporary.rename(folder / f"{shard.stem}.bin")
    cache.write_synced(temporary, json.dumps(facts).encode())
    temporary.rename(folder / f"{shard.stem}.json")  # last: it says that the shard is whole
    return facts


def finished_shard(shard: Shard, folder: Path) -> dict[str, Any] | None:
    """The facts of a shard made earlier, if it is whole and its input hasn't changed."""
    try:
        facts = json.loads((folder / f"{shard.stem}.json").read_bytes())
        same = dataclasses.asdict(shard) == {key: facts[key] for key in dataclasses.asdict(shard)}
        if same and cache.file_digest(folder / f"{shard.stem}.bin") == facts["sha256"]:
            return facts if _source_digest(shard) == facts["source_sha256"] else None
    except (OSError, KeyError, TypeError, ValueError):
        pass
    return None


def _pieces(shard: Shard, plan: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    with open(shard.file, "rb") as opened:
        if plan["in_characters"]:
            opened.seek(shard.start)
            raw = reading.blocks(opened, shard.stop - shard.start)
            texts = reading.decoded(raw, shard.file, shard.start)
            yield from sources.ended(reading.pieces(texts), shard.ends_file)
            return
        try:
            for text in _records(opened, shard, plan, first_line=1 + bool(shard.start)):
                yield from sources.ended(reading.document_pieces(text), True)
        except ValueError:  # read the bad line again, now that its number is worth counting
            opened.seek(0)
            before = sum(block.count(b"\n") for block in reading.blocks(opened, shard.start))
            for _ in _records(opened, shard, plan, first_line=1 + before):
                pass
            raise


def _records(opened: Any, shard: Shard, plan: dict[str, Any], first_line: int) -> Iterator[str]:
    opened.seek(shard.start)
    lines = _lines(opened, shard.stop)
    return reading.records(lines, shard.file, plan["text_column"], first_line)


def _lines(opened: Any, stop: int) -> Iterator[bytes]:
    position = opened.tell()
    while position < stop:
        line = opened.readline()
        position += len(line)
        yield line


def _source_digest(shard: Shard) -> str:
    digest = hashlib.sha256()
    with open(shard.file, "rb") as opened:
        opened.seek(shard.start)
        for block in reading.blocks(opened, shard.stop - shard.start):
            digest.update(block)
    return digest.hexdigest()


def publish(plan: dict[str, Any], made: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Write meta.json, which makes the folder a set; the summary."""
    made = sorted(made, key=lambda facts: facts["number"])
    kept = ("num_tokens", "num_bytes", "num_documents", "sha256")
    totals = {name: sum(facts[name] for facts in made) for name in kept[:3]}
    totals["num_documents"] += plan[
        "in_characters"
    ]  # <eos> stands between texts, not after the last
    listed = [{"file": f"shard-{f['number']:05d}.bin", **{k: f[k] for k in kept}} for f in made]
    meta = {
        "format": _FORMAT,
        "tokenizer": plan["tokenizer"],
        "vocab_size": plan["vocab_size"],
        "dtype": store.dtype_for(plan["vocab_size"]).name,
        **totals,
        "digest": cache.digest([plan["tokenizer"], [f["sha256"] for f in made]]),
        "shards": listed,
    }
    temporary = folder / f"{META_FILE}.tmp"
    cache.write_synced(temporary, json.dumps(meta, indent=1).encode())
    temporary.rename(folder / META_FILE)
    return meta
