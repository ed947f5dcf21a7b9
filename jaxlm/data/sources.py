"""Where text comes from: `data.path` to streams of documents, each with a digest of its content.

One string names one source or a weighted mixture: "a.txt", "big/*.jsonl@0.3,bundled:speeches@0.7".
Splitting follows one rule everywhere: the last `val_fraction`, in characters of texts and in lines
of record files. Turning text into tokens is not done here.
"""

from __future__ import annotations

import functools
import glob
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, Protocol

from jaxlm.data import bundled, cache, libraries, reading

_SCHEMES = (
    "a file or glob, bundled:NAME, tfds:NAME[@SPLIT][:column], hf:NAME[:config][@SPLIT], tokens:DIR"
)


class Part(NamedTuple):
    """One source of a mixture; weight None: in proportion to its size."""

    path: str
    weight: float | None


class Source(Protocol):
    """A stream of documents that can be read again and again."""

    name: str
    in_characters: bool  # how it is split: by characters, or by lines (records)

    def scan(self) -> tuple[str, int]:
        """Digest of the content, and its length in characters or records."""

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """(text, whether a document ends with it): every record ends one; texts are separated."""


class InputFile(NamedTuple):
    """A file to be opened: on disk, or a bundled one."""

    name: str
    open: Callable[[], BinaryIO]


def parse(path: str) -> list[Part]:
    """Split `data.path` into its parts and their weights.

    Raises:
      ValueError: an empty part, a weight that isn't positive, or weights on some parts only.
    """
    if os.path.exists(path):
        return [Part(path, None)]
    parts = [_part(text.strip(), path) for text in path.split(",")]
    if len({part.weight is None for part in parts}) > 1:
        raise ValueError(f"data.path={path}: give every part a weight (part@weight), or none")
    return parts


def _part(text: str, path: str) -> Part:
    if not text:
        raise ValueError(f"data.path={path!r} has an empty part; accepted: {_SCHEMES}, joined by ,")
    name, at, weight = text.rpartition("@")
    if not at or os.path.exists(text) or not re.fullmatch(r"[-+.\de]+", weight):
        return Part(text, None)
    try:
        value = float(weight)
    except ValueError as error:
        raise ValueError(f"data.path={path}: weight {weight!r} is not a number") from error
    if not 0 < value < float("inf"):
        raise ValueError(f"data.path={path}: weight {weight} must be positive")
    return Part(name, value)


def open_source(path: str, text_column: str = "text") -> Source:
    """The source that one part of `data.path` names.

    Args:
      path: one part, without its weight; not "tokens:", which holds no text.
      text_column: which entry of a record is the text.

    Raises:
      ValueError: nothing there, or it can't be used.
    """
    scheme, colon, rest = path.partition(":")
    if colon and scheme == "bundled":
        file = InputFile(path, lambda: io.BytesIO(bundled.read(rest)))
        if bundled.entry(rest)["format"] == "jsonl":
            return RecordFiles(path, [file], text_column)
        return TextFiles(path, [file])
    if colon and scheme in libraries.SCHEMES:
        return _rows(path, text_column)
    return open_files(path, find_files(path, accepted=_SCHEMES), text_column)


def open_files(name: str, paths: Sequence[str], text_column: str) -> Source:
    """Local files as one source: *.jsonl are records, everything else is plain text."""
    files = [InputFile(path, functools.partial(open, path, "rb")) for path in paths]
    is_records = {path.endswith(".jsonl") for path in paths}
    if len(is_records) > 1:
        raise ValueError(
            f"data.path={name} matches .jsonl files and others: name them as two parts, joined by ,"
        )
    return RecordFiles(name, files, text_column) if is_records.pop() else TextFiles(name, files)


def find_files(path: str, what: str = "data.path", accepted: str = "") -> list[str]:
    """The files that a path or glob names, sorted.

    Args:
      path: a file or glob.
      what: the option it came from, for messages.
      accepted: what that option takes, for messages.

    Raises:
      ValueError: none.
    """
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        raise ValueError(f"{what}={path} is a folder: name its files, as in {path}/*.txt")
    if glob.has_magic(path):
        found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        if found:
            return found
        raise ValueError(f"{what}={path}: no file matches")
    raise ValueError(f"{what}={path}: no such file{accepted and f'; accepted: {accepted}'}")


class TextFiles:
    """Plain texts, one document a file, read as one text that <eos> separates."""

    in_characters = True

    def __init__(self, name: str, files: Sequence[InputFile]):
        self.name, self.files = name, files

    def scan(self) -> tuple[str, int]:
        digests, total = [], 0
        for file in self.files:
            with file.open() as opened:
                digest, characters = reading.digest_and_characters(opened, file.name)
            digests.append(digest)
            total += characters
        return cache.digest(["text", digests]), total

    def pieces(self) -> Iterator[tuple[str, bool]]:
        for number, file in enumerate(self.files, 1):
            with file.open() as opened:
                texts = reading.decoded(reading.blocks(opened), file.name)
                yield from ended(reading.pieces(texts), number < len(self.files))


class RecordFiles:
    """JSON Lines, one document a line."""

    in_characters = False

    def __init__(self, name: str, files: Sequence[InputFile], column: str):
        self.name, self.files, self.column = name, files, column

    def scan(self) -> tuple[str, int]:
        digests, total = [], 0
        for file in self.files:
            with file.open() as opened:
                digest, records = reading.digest_and_records(opened)
            digests.append(digest)
            total += records
        return cache.digest(["records", self.column, digests]), total

    def pieces(self) -> Iterator[tuple[str, bool]]:
        for file in self.files:
            with file.open() as opened:
                for text in reading.records(opened, file.name, self.column):
                    yield from ended(reading.document_pieces(text), True)


class RowTexts:
    """Records of a dataset library, one document each."""

    in_characters = False

    def __init__(self, name: str, rows: libraries.Rows, column: str):
        self.name, self._rows, self._column = name, rows, column

    def scan(self) -> tuple[str, int]:
        facts, count = self._rows.scan()
        return cache.digest([self._column, *facts]), count

    def pieces(self) -> Iterator[tuple[str, bool]]:
        for where, row in self._rows:
            text = reading.record_text(row, self._column, where)
            yield from ended(reading.document_pieces(text), True)


def ended(pieces: Iterator[str], ends_document: bool) -> Iterator[tuple[str, bool]]:
    """Mark the last piece of a document as its end, or not."""
    last = None
    for piece in pieces:
        if last is not None:
            yield last, False
        last = piece
    if last is not None or ends_document:
        yield last or "", ends_document


def _rows(path: str, text_column: str) -> RowTexts:
    name, column = path, None
    if path.startswith("tfds:"):
        match = re.fullmatch(r"(tfds:[^:]+(?::\d[\d.*]*)?(?:@[\w.-]+)?)(?::([^:]+))?", path)
        if match is None:
            raise ValueError(f"data.path={path}: expected tfds:NAME[@SPLIT][:column]")
        name, column = match.groups()
    return RowTexts(path, libraries.open_rows("data.path", name, "train"), column or text_column)
