"""Examples of several parts (pairs, labels, tags): lines of files or records of a library, tokenised once.

A table holds, for every line, ids of its texts and numbers of its labels; both are mapped, not
read. What the columns mean, which lines are for which split, and what a model is given of them, is
for the tasks.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data import arithmetic, cache, libraries, reading, special_tokens, tables
from jaxlm.data.offsets import token_offsets

_log = logging.getLogger(__name__)
_FORMAT = 2  # of the cached tables: change it when the same input gives other columns
_BATCH = 1024  # lines that a tokenizer gets at once


class Record(NamedTuple):
    """One line: texts to be tokenised, labels that are not, and columns of numbers that are kept as they are."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    numbers: Mapping[str, np.ndarray] = MappingProxyType({})  # uint8, float32, or int32's range


Row = dict[str, Any] | list[str]
"""A line as it was read: by column, or the list that a TSV file without a header has."""


class Source:
    """The lines of files, all *.jsonl, *.json, *.csv or *.tsv, or the records of a dataset library.

    As a `sources.Source`, each of them is a document. A *.csv file begins with a header; a *.tsv file does where its first
    line names all of `columns`, which is logged.

    Args:
      option: the config's key, for messages.
      path: a file or glob, bundled:NAME, tfds:NAME[@SPLIT] or hf:NAME[:config][@SPLIT].
      parse: from a row, and what messages call it, to a record.
      kind: what else than the lines `parse` depends on, as JSON values.
      split: of a library's dataset, where the path names none; "": it must.
      columns: that a line must have, each with the config's key that names it.

    Raises:
      ValueError: nothing there, or another form of file.
    """

    in_characters = False

    def __init__(
        self,
        option: str,
        path: str,
        parse: Callable[[Row, str], Record],
        kind: Sequence[Any],
        split: str = "",
        columns: Mapping[str, str] = MappingProxyType({}),
    ):
        self.option, self.path, self._parse, self._kind = option, path, parse, list(kind)
        scheme = path.partition(":")[0]
        if scheme in libraries.SCHEMES:
            self._rows: Any = libraries.open_rows(option, path, split)
        elif scheme == arithmetic.SCHEME:
            self._rows = arithmetic.open_rows(option, path, split)
        else:
            self._rows = tables.Files(option, path, columns)

    def scan(self) -> tuple[str, int]:
        """Digest of the records, and their number: that of lines that aren't blank.

        Raises:
          ValueError: none.
        """
        found, total = self._rows.scan()
        if not total:
            raise ValueError(f"{self.option}={self.path} is empty: no line in it")
        return cache.digest([found[0], self._kind, *found[1:]]), total

    def records(self) -> Iterator[Record]:
        """Every line, in order."""
        for where, row in self._rows:
            yield self._parse(row, where)

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The texts, as `sources.Source` gives them."""
        for record in self.records():
            for number, text in enumerate(record.texts, 1):
                yield text, number == len(record.texts)


class Ragged:
    """Rows of numbers, each of its own length, mapped from two files."""

    def __init__(self, folder: Path, name: str, dtype: str = "<i4"):
        self.ends = np.fromfile(folder / f"{name}.ends.bin", "<i8")
        size = self.ends[-1] if len(self.ends) else 0
        path = folder / f"{name}.bin"
        # A plain view: slicing np.memmap itself costs several times more.
        self._values = np.asarray(np.memmap(path, dtype, "r")) if size else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> np.ndarray:
        start = self.ends[row - 1] if row else 0
        return self._values[start : self.ends[row]]

    def lengths(self) -> np.ndarray:
        """Int64 [rows]."""
        return np.diff(self.ends, prepend=0)

    def values(self) -> np.ndarray:
        """All rows, one after the other."""
        return self._values


class Table(NamedTuple):
    """The tokenised lines of a source."""

    source: Source
    columns: dict[str, Ragged]  # the task's, and num_bytes: of a line's texts
    labels: list[str]  # in the order of their first lines; label columns count in them
    digest: str

    def __len__(self) -> int:
        return len(self.columns["num_bytes"])


class Lines:
    """Texts of a source's lines as they stand there; a table holds ids only. Read once if asked for in order."""

    def __init__(self, source: Source):
        self._source, self._found, self._next = source, {}, 0
        self._left = source.records()

    def __getitem__(self, row: int) -> tuple[str, ...]:
        if row not in self._found:
            if row < self._next:
                self._left, self._next = self._source.records(), 0
            line = next(itertools.islice(self._left, row - self._next, None), None)
            if line is None:
                raise ValueError(f"{self._source.option}={self._source.path} lost lines meanwhile")
            self._found[row], self._next = line.texts, row + 1
        return self._found[row]


Columns = Callable[[Sequence[np.ndarray], Sequence[int]], dict[str, Sequence[int]]]
"""From the ids of a record's texts and the numbers of its labels to a row of every column."""


def fetch(
    source: Source,
    tokenizer: Any,
    columns: Columns,
    offsets: Mapping[str, int] = MappingProxyType({}),
) -> Table:
    """The table of a source, from the cache or made now.

    Args:
      source: what to read.
      tokenizer: what to read it with; special tokens that were appended play no part.
      columns: see Columns; the source's `kind` says what it depends on.
      offsets: further columns -> which text of a record they are of: the first character and the end of each of its
        tokens, [2 N] (offsets.py); the source's `kind` says this, too.

    Raises:
      ValueError: a line that can't be used.
    """
    tokenizer = special_tokens.base(tokenizer)
    digest, _ = source.scan()
    key = {"format": _FORMAT, "records": digest, "tokenizer": tokenizer.digest}
    entry = cache.fetch(key, lambda folder: _tokenise(source, tokenizer, columns, offsets, folder))
    opened = {name: Ragged(entry.path, name, dtype) for name, dtype in entry.facts["columns"]}
    return Table(source, opened, entry.facts["labels"], cache.digest(key))


def _tokenise(
    source: Source, tokenizer: Any, columns: Columns, offsets: Mapping[str, int], folder: Path
) -> dict[str, Any]:
    _log.info("tokenising %s with %s", source.path, tokenizer.name)
    labels: dict[str, int] = {}
    writers: dict[str, _Writer] = {}
    records = source.records()
    with contextlib.ExitStack() as stack:
        while batch := list(itertools.islice(records, _BATCH)):
            ids = iter(tokenizer.encode_batch([text for record in batch for text in record.texts]))
            rows = []
            for record in batch:
                own = list(itertools.islice(ids, len(record.texts)))
                numbers = [labels.setdefault(label, len(labels)) for label in record.labels]
                rows.append(columns(own, numbers))
                rows[-1]["num_bytes"] = [sum(len(text.encode()) for text in record.texts)]
                rows[-1] |= record.numbers
                for name, text in offsets.items():
                    rows[-1][name] = token_offsets(tokenizer, record.texts[text]).ravel()
            for name, values in rows[0].items():
                if name not in writers:
                    writers[name] = _Writer(stack, folder, name, values)
                writers[name].add([row[name] for row in rows])
    columns = sorted((name, writer.dtype) for name, writer in writers.items())
    return {"columns": columns, "labels": list(labels)}


class _Writer:
    """Appends to the two files of a column, whose first values say whether bytes are enough."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path, name: str, values: Any):
        self.dtype = {"uint8": "|u1", "float32": "<f4"}.get(
            str(getattr(values, "dtype", "")), "<i4"
        )
        self._values = stack.enter_context(open(folder / f"{name}.bin", "wb"))
        self._ends = stack.enter_context(open(folder / f"{name}.ends.bin", "wb"))
        self._size = 0

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        ends = self._size + np.cumsum([len(row) for row in rows])
        self._values.write(np.concatenate(rows).astype(self.dtype).tobytes())
        self._ends.write(ends.astype("<i8").tobytes())
        self._size = int(ends[-1])


def check_columns(row: Sequence[str], where: str, names: Sequence[str], because: str = "") -> None:
    """Refuse a line of a TSV file with another number of columns; `because` says why these.

    Raises:
      ValueError: it has.
    """
    if len(row) != len(names):
        count = "1 column" if len(row) == 1 else f"{len(row)} columns"
        raise ValueError(f"{where} has {count}: expected {' TAB '.join(names)}{because}")


def label(value: Any, where: str, what: str) -> str:
    """A label as text.

    Raises:
      ValueError: it is missing, or neither text nor a whole number.
    """
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise ValueError(f"{where} has no label: {what} is {value!r}, not text or a whole number")
    return reading.encodable(str(value), f"{where}: {what}")
