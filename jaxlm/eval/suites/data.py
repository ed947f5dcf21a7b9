"""The texts and lines that suites score, which of them are held out, and their digests. The only file of eval that reads data.

Of bundled data the last part is scored, by the rule that it was published with: 5 % of the lines, 10 % of a file with
fewer than 1,000 or of the characters of a plain text. A user's own file is scored whole.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxlm.data import bundled, corpus, reading, sources, tables

BUNDLED = "bundled:"
_FEW = 1000  # a file with fewer lines holds out a tenth


class Domain(NamedTuple):
    """Documents of one origin; `name` is the file's, or its path where several files have that name."""

    name: str
    documents: list[str]
    digest: str


class Lines(NamedTuple):
    """Records to score, and others to take few-shot examples from."""

    scored: list[dict[str, Any]]
    examples: list[dict[str, Any]]
    digests: dict[str, str]


def held_out(count: int) -> int:
    """The first of `count` lines that is scored."""
    return corpus.train_units(count, 0.1 if count < _FEW else 0.05)


def domains(path: str, text_column: str = "text", limit: int = 0) -> list[Domain]:
    """The documents of every part of `path`; bundled ones: the held-out part.

    Args:
      path: as `data.path`: files, globs or bundled:NAME, joined by commas.
      text_column: the text of a record.
      limit: at most so many characters of each; 0: all.

    Raises:
      ValueError: nothing there, a weight, or a part that holds no text.
    """
    found = []
    for part in sources.parse(path):
        if part.weight is not None:
            raise ValueError(f"--data {path}: every part is scored whole, so weights mean nothing")
        source = sources.open_source(part.path, text_column)
        documents = list(_documents(source))
        if part.path.startswith(BUNDLED):
            documents = _held_out_documents(documents, source.in_characters)
        documents = [text for text in _limited(documents, limit) if text]
        if not documents:
            raise ValueError(f"--data {part.path} holds no text")
        found.append(Domain(part.path, documents, source.scan()[0]))
    if len({one.name for one in found}) < len(found):
        raise ValueError(f"--data {path} names a part twice")
    short = collections.Counter(_name(one.name) for one in found)
    unique = {one.name for one in found if short[_name(one.name)] == 1}
    return [one._replace(name=_name(one.name)) if one.name in unique else one for one in found]


def lines(path: str, examples: str = "") -> Lines:
    """The records to score, and those for examples: of bundled data its training part, else of the file `examples`.

    Args:
      path: *.jsonl (objects), *.csv (with a header) or *.tsv (source TAB target), or bundled:NAME of one.
      examples: another such file.

    Raises:
      ValueError: nothing there, or no line to score.
    """
    rows, digest = _rows(path, "--data")
    first = held_out(len(rows)) if path.startswith(BUNDLED) else 0
    scored, before, digests = rows[first:], rows[:first], {path: digest}
    if examples:
        before, digests[examples] = _rows(examples, "--examples")
    if not scored:
        raise ValueError(f"--data {path} holds no line to score")
    return Lines(scored, before, digests)


def _rows(path: str, option: str) -> tuple[list[dict[str, Any]], str]:
    name = path.removeprefix(BUNDLED)
    if path.startswith(BUNDLED):
        raw, form = bundled.read(name), bundled.entry(name)["format"]
    else:
        files = sources.find_files(path, option, "a .jsonl, .csv or .tsv file, bundled:NAME")
        if len(files) > 1:
            raise ValueError(f"{option} {path} matches {len(files)} files: name one")
        with open(files[0], "rb") as file:
            raw = file.read()
        form = files[0].rpartition(".")[2]
    if form not in ("jsonl", "csv", "tsv"):
        raise ValueError(f"{option} {path} is {form}: expected .jsonl, .csv or .tsv")
    split = [line for line in raw.split(b"\n") if line.strip()]
    if form == "jsonl":
        found = [record for _, record in reading.objects(split, path)]
    elif form == "csv":
        found = [record for _, record in tables.csv_rows(raw.splitlines(keepends=True), path)]
    else:
        found = [_pair(columns, where) for where, columns in reading.rows(split, path)]
    return found, hashlib.sha256(raw).hexdigest()


def _pair(columns: list[str], where: str) -> dict[str, str]:
    if len(columns) != 2:
        raise ValueError(f"{where} has {len(columns)} columns: expected source TAB target")
    return {"source": columns[0], "target": columns[1]}


def column(record: dict[str, Any], name: str, kind: type | tuple[type, ...], path: str) -> Any:
    """One column of a record.

    Raises:
      ValueError: it is missing or of another type.
    """
    if name not in record or not isinstance(record[name], kind):
        raise ValueError(
            f'--data {path}: a record has no "{name}" of the expected type; its columns are '
            f"{', '.join(record)}"
        )
    return record[name]


def _documents(source: sources.Source) -> Iterator[str]:
    held = ""
    for text, ends in source.pieces():
        held += text
        if ends:
            yield held
            held = ""
    if held:
        yield held


def _held_out_documents(documents: list[str], in_characters: bool) -> list[str]:
    if not in_characters:
        return documents[held_out(len(documents)) :]
    text = "".join(documents)
    return [text[corpus.train_units(len(text), 0.1) :]]


def _limited(documents: list[str], limit: int) -> Iterator[str]:
    left = limit or sum(map(len, documents))
    for text in documents:
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)


def _name(path: str) -> str:
    """bundled:poetry as poetry, /a/b.jsonl as b."""
    if path.startswith(BUNDLED):
        return path.removeprefix(BUNDLED)
    return path.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or path
