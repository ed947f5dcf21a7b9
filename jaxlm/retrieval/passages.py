"""Documents of files, cut into passages that know where they stand.

Not for finding them (words.py, vectors.py, index.py).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from jaxlm.data import reading, records, sources

_BREAKS = (
    re.compile(r"\n\s*\n"),
    re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)\]])\s+|(?<=[。！？”’」』])(?![。！？”’」』])"),
    re.compile(r"\s+"),
)
"""Where a passage ends, best first: between paragraphs, sentences, words."""


class Document(NamedTuple):
    """A text, and where it came from."""

    source: str  # a file, or "FILE line 3"
    title: str
    text: str


class Passage(NamedTuple):
    """A part of a document: `text` is document[start:end]."""

    id: str
    source: str
    title: str
    start: int
    end: int
    text: str

    @property
    def searched(self) -> str:
        """What is found: the title says what a later part of a document is about."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Documents:
    """The documents of *.txt files, one each, or of the lines of *.jsonl, *.csv or *.tsv with a header.

    Args:
      path: a file or glob, bundled:NAME, tfds:NAME@SPLIT or hf:NAME@SPLIT.
      text_column: the text of a line; several columns, joined by +, make lines of one text.
      title_column: its title; "": none.

    Raises:
      ValueError: nothing there, or another form of file.
    """

    def __init__(self, path: str, text_column: str = "text", title_column: str = ""):
        self._text, self._title = text_column, title_column
        self._lines = self._files = None
        if path.endswith(".txt"):
            self._files = [
                sources.InputFile(name, functools.partial(open, name, "rb"))
                for name in sources.find_files(path, "--documents")
            ]
        else:
            columns = [name for name in (*text_column.split("+"), title_column) if name]
            self._lines = records.Source(
                "--documents",
                path,
                self._parse,
                ["documents", text_column, title_column],
                columns=dict.fromkeys(columns, "--text_column and --title_column"),
            )

    def digest(self) -> str:
        """Of everything that is read."""
        if self._files is not None:
            return sources.TextFiles("--documents", self._files).scan()[0]
        return self._lines.scan()[0]

    def __iter__(self) -> Iterator[Document]:
        for file in self._files or ():
            with file.open() as opened:
                text = "".join(reading.decoded(reading.blocks(opened), file.name))
            yield Document(file.name, "", text)
        if self._lines is not None:
            for record in self._lines.records():
                yield Document(record.labels[0], *record.texts)

    def _parse(self, row: records.Row, where: str) -> records.Record:
        source = where.removeprefix("--documents=")
        if isinstance(row, list):
            raise ValueError(
                f"{where}: a .tsv file of documents begins with a line that names its columns, "
                f"{self._text} among them"
            )
        names = self._text.split("+")
        texts = [reading.record_text(row, name, where, "--text_column") for name in names]
        title = ""
        if self._title:
            title = reading.record_text(row, self._title, where, "--title_column")
        return records.Record((title, "\n".join(texts)), (source,))


def cut(document: Document, max_characters: int, overlap: int = 0) -> Iterator[Passage]:
    """The passages of a document, in order; one without text has none.

    Args:
      document: what to cut.
      max_characters: of a passage; it ends between paragraphs, sentences or words, where there is such a place in
        its second half.
      overlap: characters, at most, that a passage repeats of the one before, from the beginning of a word.

    Raises:
      ValueError: no room, or nothing but overlap.
    """
    if max_characters < 1 or not 0 <= overlap < max(1, max_characters // 2):
        raise ValueError(
            f"--passage_characters {max_characters} --overlap {overlap}: expected at least 1, and less than half of it "
            "as overlap"
        )
    text, start, number = document.text, _first_word(document.text, 0), 0
    while start < len(text):
        end = _end(text, start, max_characters)
        kept = text[start:end].rstrip()
        name = f"{document.source}#{number}"
        yield Passage(name, document.source, document.title, start, start + len(kept), kept)
        number += 1
        if end == len(text):
            return
        begun, start = start, _first_word(text, end)
        if overlap:
            again = _next_word(text, end - overlap)
            start = min(start, again) if again > begun else start


def _end(text: str, start: int, size: int) -> int:
    if len(text) - start <= size:
        return len(text)
    last = start + size
    for pattern in _BREAKS:
        places = [match.start() for match in pattern.finditer(text, start + size // 2, last + 1)]
        if places and places[-1] > start:
            return places[-1]
    while last > start + 1 and unicodedata.combining(text[last]):
        last -= 1
    return last


def _first_word(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _next_word(text: str, place: int) -> int:
    """The first place behind a space, from `place` on."""
    found = re.compile(r"(?<=\s)\S").search(text, place)
    return found.start() if found else len(text)
