"""Files of rows: *.jsonl, *.json, *.csv and *.tsv; rows are dicts by column, of a TSV file without a header lists.

What the columns mean is for records.py and the tasks.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxlm.data import bundled, reading
from jaxlm.data.sources import InputFile, find_files
from jaxlm.registry import nearest

_log = logging.getLogger(__name__)
_LONGEST = 1 << 27  # characters of an entry; Python's own limit is shorter than a long document
_SCHEMES = "a file or glob, bundled:NAME, tfds:NAME[@SPLIT], hf:NAME[:config][@SPLIT]"


class Files:
    """The rows of files of one form."""

    def __init__(self, option: str, path: str, columns: Mapping[str, str]):
        self._option = option
        scheme, _, name = path.partition(":")
        if scheme == "bundled":
            form = bundled.entry(name)["format"]
            self._files = [InputFile(path, lambda: io.BytesIO(bundled.read(name)))]
        else:
            paths = find_files(path, option, _SCHEMES)
            forms = {file.rpartition(".")[2] for file in paths}
            form = forms.pop() if len(forms) == 1 else ", ".join(sorted(forms))
            self._files = [InputFile(file, functools.partial(open, file, "rb")) for file in paths]
        if form not in _READERS:
            raise ValueError(
                f"{option}={path} is {form}: expected *.jsonl, *.json, *.csv or *.tsv, or bundled:NAME of one"
            )
        self._read = _READERS[form]
        if form == "tsv" and scheme != "bundled" and columns:
            names = "none of its columns, which are read in order"
            if self._headers(columns):
                self._read, names = tsv_rows, "its columns"
            _log.info("%s=%s: its first line names %s", option, path, names)

    def _headers(self, columns: Mapping[str, str]) -> bool:
        """Whether every file, or none, begins with the names of these columns."""
        found = set()
        for file in self._files:
            with file.open() as opened:
                found.add(has_header(opened, f"{self._option}={file.name}", columns))
        if len(found) > 1:
            raise ValueError(f"{self._option}: some of these files begin with a header, others not")
        return found == {True}

    def scan(self) -> tuple[list[Any], int]:
        """What determines the lines, as JSON values; and how many rows they are."""
        digests, total = [], 0
        for file in self._files:
            with file.open() as opened:
                digest, count = reading.digest_and_records(opened)
            digests.append(digest)
            total += count
        if self._read not in (reading.objects, reading.rows):
            total = sum(1 for _ in self)
        return [self._read.__name__, digests], total

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any] | list[str]]]:
        for file in self._files:
            with file.open() as opened:
                yield from self._read(opened, f"{self._option}={file.name}")


def csv_rows(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a comma-separated file behind its header, each with what messages call it.

    Entries with commas, quotes or line breaks in them stand in double quotes (RFC 4180); blank lines are no rows.

    Args:
      lines: the file's lines, as bytes.
      name: the file, for messages.

    Raises:
      ValueError: not UTF-8, no header, a row with other columns, or quotes that don't match; file and line are named.
    """
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(reading.text_lines(lines, name), strict=True)
    header: list[str] | None = None
    while True:
        where = f"{name} line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{where} is no row of a .csv file: {error} (entries with commas, quotes or line breaks stand in "
                'double quotes, a quote in them as "")'
            ) from error
        if row is None:
            return
        if not any(map(str.strip, row)) and len(row) < 2:
            continue
        if header is None:
            header = _checked_header(row, where)
            continue
        yield where, _named(header, row, where)


def tsv_rows(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a TSV file behind its header; no quoting, blank lines are no rows. See `csv_rows`."""
    rows = reading.rows(lines, name)
    first = next(rows, None)
    if first is None:
        return
    header = _checked_header(first[1], first[0])
    for where, row in rows:
        yield where, _named(header, row, where)


def json_rows(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON file: those of a list, or the questions of a file as SQuAD's are.

    A question is {"id", "question", "context", "answers": list of texts, "starts": their first characters}.

    Raises:
      ValueError: no JSON, or none of the two.
    """
    try:
        body = json.loads(b"".join(lines))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    if isinstance(body, list) and all(isinstance(row, dict) for row in body):
        yield from ((f"{name} object {number}", row) for number, row in enumerate(body, 1))
        return
    try:
        asked = [
            (paragraph["context"], question)
            for article in body["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        for context, question in asked:
            answers = question.get("answers", [])
            yield (
                f"{name} question {question['id']}",
                {
                    "id": question["id"],
                    "question": question["question"],
                    "context": context,
                    "answers": [answer["text"] for answer in answers],
                    "starts": [answer["answer_start"] for answer in answers],
                },
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name} is neither a list of objects nor of SQuAD's form (data, paragraphs, qas): {error!r}"
        ) from error


def has_header(lines: Iterable[bytes], name: str, columns: Mapping[str, str]) -> bool:
    """Whether the first line of a TSV file names all of these columns.

    Args:
      lines: the file's lines, as bytes.
      name: the file, for messages.
      columns: name -> the config's option that says it.

    Raises:
      ValueError: it names some and not others.
    """
    _, first = next(reading.rows(lines, name), ("", []))
    missing = [column for column in columns if column not in first]
    if missing and len(missing) < len(columns):
        raise ValueError(
            f"{name} line 1 has no column {missing[0]!r} (it has {', '.join(first)}); "
            f"set {columns[missing[0]]}{nearest(missing[0], first)}"
        )
    return bool(columns) and not missing


_READERS = {
    "jsonl": reading.objects,
    "json": json_rows,
    "csv": csv_rows,
    "tsv": reading.rows,
}


def entries(
    record: Mapping[str, Any], column: str, where: str, option: str, separator: str | None = None
) -> list[Any]:
    """The list in a column; where files have only text, a JSON list or parts between separators.

    Args:
      record: a row.
      column: its entry; several, joined by +, are a list of theirs.
      where: what messages call the row.
      option: the config's key that chose the column.
      separator: between the parts of a text; None: white space; "": a text is one part.

    Raises:
      ValueError: no such column, or one that holds something else.
    """
    if "+" in column and column not in record:
        return [reading.record_column(record, one, where, option) for one in column.split("+")]
    value = reading.record_column(record, column, where, option)
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("["):
            parts = [value] if separator == "" else text.split(separator)
            return [part.strip() for part in parts] if text else []
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: column {column!r} begins as a JSON list and is none: {error.msg}"
            ) from error
    if not isinstance(value, list):
        raise ValueError(
            f"{where}: column {column!r} is {type(value).__name__}, no list; set {option}"
        )
    return value


def _checked_header(row: list[str], where: str) -> list[str]:
    if twice := [name for place, name in enumerate(row) if name and name in row[:place]]:
        raise ValueError(f"{where}, its header, names the column {twice[0]!r} twice")
    return row


def _named(header: list[str], row: list[str], where: str) -> dict[str, str]:
    if len(row) != len(header):
        counts = [f"{len(one)} column{'s' if len(one) != 1 else ''}" for one in (row, header)]
        raise ValueError(
            f"{where} has {counts[0]}, and the header {counts[1]}: {', '.join(header)}"
        )
    return dict(zip(header, row, strict=True))
