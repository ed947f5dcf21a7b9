"""Tokens on disk: flat little-endian files of 16- or 32-bit ids, streamed in, memory-mapped out.

Knows ids and files only; what the tokens mean and where files lie is for cache.py, prepare.py and
tasks.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_BATCH_CHARACTERS = 1 << 20  # what a tokenizer gets at once; it may use threads


def dtype_for(vocab_size: int) -> np.dtype:
    """The narrowest of uint16 and uint32 that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class Writer:
    """Appends pieces of text to a token file, many at a time, and counts what it wrote."""

    def __init__(self, file: BinaryIO, tokenizer: Any):
        self._file, self._tokenizer = file, tokenizer
        self._dtype = dtype_for(tokenizer.vocab_size)
        self._held: list[tuple[str, bool]] = []
        self._held_characters = 0
        self._digest = hashlib.sha256()
        self.num_tokens = self.num_bytes = self.num_documents = 0

    def add(self, text: str, ends_document: bool) -> None:
        """Append a piece, and <eos> if a document ends with it and the tokenizer has one."""
        self._held.append((text, ends_document))
        self._held_characters += len(text)
        if self._held_characters >= _BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Tokenise and write what is held back."""
        eos = self._tokenizer.eos_id
        ids = self._tokenizer.encode_batch([text for text, _ in self._held])
        for (text, ends_document), piece in zip(self._held, ids, strict=True):
            self._write(piece)
            if ends_document and eos is not None:
                self._write(np.array([eos]))
            self.num_bytes += len(text.encode("utf-8"))
            self.num_documents += ends_document
        self._held, self._held_characters = [], 0

    def _write(self, ids: np.ndarray) -> None:
        data = ids.astype(self._dtype).tobytes()
        self._file.write(data)
        self._digest.update(data)
        self.num_tokens += len(ids)

    def facts(self) -> dict[str, Any]:
        """Counts and digest of everything written; call `flush` first."""
        return {
            "num_tokens": self.num_tokens,
            "num_bytes": self.num_bytes,
            "num_documents": self.num_documents,
            "sha256": self._digest.hexdigest(),
        }


def write_all(pieces: Iterable[tuple[str, bool]], writer: Writer) -> None:
    """Tokenise a stream of (text, whether a document ends here) to the end."""
    for text, ends_document in pieces:
        writer.add(text, ends_document)
    writer.flush()


def cut(
    pieces: Iterable[tuple[str, bool]], count: int, in_characters: bool
) -> tuple[Iterator[tuple[str, bool]], Iterator[tuple[str, bool]]]:
    """Split a stream after `count` characters or documents; read the first part out first."""
    stream = iter(pieces)
    rest: list[tuple[str, bool]] = []

    def first() -> Iterator[tuple[str, bool]]:
        left = count
        while left > 0:
            piece = next(stream, None)
            if piece is None:
                return
            text, ends_document = piece
            if in_characters and len(text) > left:
                rest.append((text[left:], ends_document))
                text, ends_document = text[:left], False
            left -= len(text) if in_characters else ends_document
            yield text, ends_document

    def second() -> Iterator[tuple[str, bool]]:
        yield from rest
        yield from stream

    return first(), second()


class Store:
    """Consecutive token files as one long array of ids, mapped, not read."""

    def __init__(self, files: Sequence[Path], vocab_size: int):
        dtype = dtype_for(vocab_size)
        # A plain view: slicing np.memmap itself costs several times more.
        self._arrays = [
            np.asarray(np.memmap(file, dtype, "r")) for file in files if os.path.getsize(file)
        ]
        self._ends = list(itertools.accumulate(len(array) for array in self._arrays))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def fill(self, start: int, out: np.ndarray) -> None:
        """Copy the ids from `start` on into `out`, int32 [N]; a window may cross files."""
        number = bisect.bisect_right(self._ends, start)
        done = 0
        while done < len(out):
            array = self._arrays[number]
            offset = start + done - (self._ends[number] - len(array))
            part = array[offset : offset + len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)
            number += 1
