"""Bytes of files to pieces of text, streamed: memory stays flat however long a file is.

A piece is cut where a tokenizer would cut anyway, so that tokenising the pieces equals tokenising
the whole: after a line break between two characters that are no white space, else between a word
and a single space. That is exact for bytes, characters and byte-level BPE that splits words as
GPT-2 or cl100k do; for any other tokenizer, and where a megabyte has no such place, the tokens
*are* those of the pieces. Which files to read is decided in sources.py.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from jaxlm.registry import nearest

BLOCK = 1 << 15
"""Bytes read at once, and about the characters of a piece; BPE is slower on longer ones."""
_LONGEST = 1 << 20
_LINE = re.compile(r"(?<=\S\n)(?=\S)")
_SPACE = re.compile(r"(?<=\S)(?= \S)")


def cut_point(text: str) -> int:
    """The last place where `text` can be cut without changing its tokens, or 0."""
    for pattern in (_LINE, _SPACE):
        for start in (max(1, len(text) - 4096), 1):
            places = [match.start() for match in pattern.finditer(text, start)]
            if places:
                return places[-1]
    return 0


def blocks(file: BinaryIO, limit: int | None = None) -> Iterator[bytes]:
    """What is left of an open file, or its next `limit` bytes, in blocks."""
    while limit is None or limit > 0:
        block = file.read(BLOCK if limit is None else min(BLOCK, limit))
        if not block:
            return
        limit = None if limit is None else limit - len(block)
        yield block


def decoded(raw: Iterable[bytes], name: str, offset: int = 0) -> Iterator[str]:
    """Blocks of UTF-8 as text; a byte-order mark at the start of a file is dropped.

    Args:
      raw: consecutive blocks, which may end inside a character.
      name: the file, for messages.
      offset: position in the file of the first block, bytes.

    Raises:
      ValueError: not UTF-8; the file and the position are named.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, at_start = offset, offset == 0
    for block in itertools.chain(raw, (b"",)):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} is not UTF-8: byte {position - pending + error.start} can't be decoded "
                "(convert it, for example with iconv)"
            ) from error
        position += len(block)
        if text:
            yield text.removeprefix("\ufeff") if at_start else text
            at_start = False


def pieces(texts: Iterable[str]) -> Iterator[str]:
    """Consecutive parts of one document, regrouped into pieces that can be tokenised apart."""
    held = ""
    for text in texts:
        held += text
        if len(held) < BLOCK:
            continue
        cut = cut_point(held) or (len(held) if len(held) > _LONGEST else 0)
        if cut:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def document_pieces(text: str) -> Iterator[str]:
    """One document that is in memory, in pieces."""
    if len(text) <= BLOCK:
        return iter((text,))
    return pieces(text[start : start + BLOCK] for start in range(0, len(text), BLOCK))


def records(lines: Iterable[bytes], name: str, column: str, first_line: int = 1) -> Iterator[str]:
    """The `column` of each line of a JSON Lines file; blank lines are no records.

    Args:
      lines: the file's lines, as bytes.
      name: the file, for messages.
      column: which entry holds the text.
      first_line: number of the first line, for messages.

    Raises:
      ValueError: a line that isn't UTF-8 or JSON, or has no such text; file and line are named.
    """
    for where, record in objects(lines, name, first_line):
        yield record_text(record, column, where)


def objects(
    lines: Iterable[bytes], name: str, first_line: int = 1
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a JSON Lines file, each with what messages call it.

    Raises:
      ValueError: a line that isn't UTF-8 or no JSON object; file and line are named.
    """
    for where, line in _numbered(lines, name, first_line):
        record = _parsed(line, where)
        if not isinstance(record, dict):
            raise ValueError(f"{where} is not a JSON object: expected {{...}} with named columns")
        yield where, record


def rows(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, list[str]]]:
    """The columns of each line of a TSV file: no header, no quoting; blank lines are no rows.

    Raises:
      ValueError: a line that isn't UTF-8; file and line are named.
    """
    for where, line in _numbered(lines, name, 1):
        yield where, _utf8(line, where).rstrip("\r\n").split("\t")


def text_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Every line with its line break, the blank ones too.

    Raises:
      ValueError: a line that isn't UTF-8; file and line are named.
    """
    for number, line in enumerate(lines, 1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        yield _utf8(line, f"{name} line {number}")


def _numbered(lines: Iterable[bytes], name: str, first_line: int) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(lines, first_line):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield f"{name} line {number}", line


def _utf8(raw: bytes, where: str, what: str = "the line") -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8: byte {error.start} of {what}") from error


def _parsed(line: bytes, where: str) -> Any:
    text = _utf8(line, where)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise ValueError(f"{where} is not JSON that can be read: {error}") from error


def record_text(
    record: dict[str, Any], column: str, where: str, option: str = "data.text_column"
) -> str:
    """The text of one record; `option` is what chose the column.

    Raises:
      ValueError: no such column, or it holds something else than text.
    """
    text = record_column(record, column, where, option)
    if isinstance(text, bytes):
        text = _utf8(text, f"{where}: column {column!r}", "it")
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(f"{where}: column {column!r} is {kind}, not text; set {option}")
    return encodable(text, f"{where}: column {column!r}")


def encodable(text: str, where: str) -> str:
    """The text itself.

    Raises:
      ValueError: it can't be written as UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds half a surrogate pair") from error
    return text


def record_column(record: dict[str, Any], column: str, where: str, option: str) -> Any:
    """The entry of a record; "a.b" is also the entry b of the entry a.

    Raises:
      ValueError: no such column; those that are there are named.
    """
    if column in record:
        return record[column]
    value: Any = record
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            known = column_names(record)
            raise ValueError(
                f"{where} has no column {column!r} (it has {', '.join(known) or 'none'}); "
                f"set {option}{nearest(column, known)}"
            )
        value = value[name]
    return value


def column_names(record: dict[str, Any]) -> list[str]:
    """The columns of a record, those of its entries as "a.b"."""
    names = []
    for name, value in record.items():
        inner = column_names(value) if isinstance(value, dict) else []
        names += [f"{name}.{one}" for one in inner] or [name]
    return names


def digest_and_characters(file: BinaryIO, name: str) -> tuple[str, int]:
    """SHA-256 and number of characters of a text file.

    Raises:
      ValueError: not UTF-8.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for block in blocks(file):
            digest.update(block)
            yield block

    characters = sum(map(len, decoded(hashed(), name)))
    return digest.hexdigest(), characters


def digest_and_records(file: BinaryIO) -> tuple[str, int]:
    """SHA-256 and number of lines that aren't blank of a JSON Lines file."""
    digest, count = hashlib.sha256(), 0
    for number, line in enumerate(file):
        digest.update(line)
        count += bool((line if number else line.removeprefix(codecs.BOM_UTF8)).strip())
    return digest.hexdigest(), count
