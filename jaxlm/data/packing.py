"""Which documents lie in which window: planned once with grain's packer, kept in the cache.

Groups are whole examples that share rows (pairs; tasks/packed_pairs.py). A plan holds places in a token stream, never tokens: it is made from the documents' lengths, a
block of the stream and some thousand pieces at a time, and read by memory map, so any window can be
fetched at random. What an example made of a window looks like is for tasks/packed.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data import cache, store

_log = logging.getLogger(__name__)
PACKER = "grain 0.2: best fit, longest first, 1024 windows or 4M tokens at a time, 1"
"""Part of a plan's key: change it when the same documents would be packed otherwise."""
_MAX_WINDOWS, _MAX_TOKENS = 1024, 1 << 22  # packed at once; grain keeps 20 bytes a token or less
_BLOCK = 1 << 20  # tokens read at once
_FILES = {"starts.bin": "<i8", "lengths.bin": "<i4", "firsts.bin": "<i8"}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Windows as lists of pieces: window w holds pieces firsts[w] .. firsts[w + 1] - 1."""

    starts: np.ndarray  # int64 [P], the place of each piece's first target in the stream
    lengths: np.ndarray  # int32 [P]
    firsts: np.ndarray  # int64 [M + 1]
    num_documents: int
    num_tokens: int
    digest: str  # of the three arrays

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts and lengths of a window's pieces, in the order of the stream."""
        pieces = slice(self.firsts[number], self.firsts[number + 1])
        return self.starts[pieces], self.lengths[pieces]


def fetch(
    name: str, tokens: store.Store, span: tuple[int, int], eos_id: int, seq_len: int, digest: str
) -> Plan:
    """The plan for a part of a token stream, from the cache or made now.

    Documents end with `eos_id` or with the span. One that is longer than `seq_len` is cut into
    pieces of that length and a rest; all other documents stay whole.

    Args:
      name: of the source, for the log.
      tokens: the stream.
      span: first and last + 1 token; not empty.
      eos_id: the token that ends a document; it belongs to the document.
      seq_len: length of the windows.
      digest: of the stream's content.
    """
    key = {"packer": PACKER, "tokens": digest, "span": list(span), "eos": eos_id, "len": seq_len}

    def build(folder: Path) -> dict[str, Any]:
        _log.info("packing %s into windows of %d", name, seq_len)
        return _write(tokens, span, eos_id, seq_len, folder)

    entry = cache.fetch(key, build)
    starts, lengths, firsts = (
        np.asarray(np.memmap(entry.path / file, dtype, "r")) for file, dtype in _FILES.items()
    )
    return Plan(starts, lengths, firsts, num_tokens=span[1] - span[0], **entry.facts)


def pack(lengths: np.ndarray, sizes: int | Sequence[int]) -> list[list[int]]:
    """Group pieces into windows with grain's best-fit packer, longest piece first.

    A piece with several lengths (a source's and a target's) needs room for each of them, and the
    longest piece and the fullest window are those of most tokens in all.

    There are so many bins that each piece fits into one (any two bins in use hold together more
    than a window of one kind or another), so the packer closes no window before all pieces are
    placed. With 1,024 bins and in the order of the stream it fills 95.9 % where this fills 99.3 %
    (the pieces of bundled:technical that are shorter than a window of 256, GPT-2's tokens).

    Args:
      lengths: int [N], or [N, F] for pieces with F lengths; each in [1, its size].
      sizes: the length of a window, or its F lengths.

    Returns:
      Indices into `lengths`: a sorted list for each window.

    Source: Ding et al., Fewer truncations improve language modeling, 2024, arXiv:2404.10830; theirs
    packs a whole corpus at once.
    """
    import grain

    lengths, sizes = lengths.reshape(len(lengths), -1), np.atleast_1d(sizes)
    names = [f"cells_{number}" for number in range(len(sizes))]

    def element(index: int) -> dict[str, Any]:  # what is packed: lengths, and no memory
        cells = (np.broadcast_to(np.int8(0), (length,)) for length in lengths[index].tolist())
        return dict(zip(names, cells, strict=True)) | {"index": int(index)}

    order = np.argsort(-lengths.sum(1), kind="stable")
    pieces = grain.MapDataset.source(order).map(element)
    packed = grain.experimental.BestFitPackIterDataset(
        pieces.to_iter_dataset(grain.ReadOptions(num_threads=0)),
        length_struct=dict(zip(names, sizes.tolist(), strict=True)),
        num_packing_bins=min(len(order), 2 * math.ceil((lengths.sum(0) / sizes).sum())),
        shuffle_bins=False,
        meta_features=("index",),
    )
    return [sorted(window["index"]) for window in packed]


class Groups(NamedTuple):
    """Examples that share rows: row r holds examples members[firsts[r] : firsts[r + 1]]."""

    members: np.ndarray  # int64 [N], every example once
    firsts: np.ndarray  # int64 [M + 1]
    digest: str

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def row(self, number: int) -> np.ndarray:
        """Numbers of a row's examples, ascending."""
        return self.members[self.firsts[number] : self.firsts[number + 1]]


def fetch_groups(name: str, lengths: np.ndarray, sizes: Sequence[int]) -> Groups:
    """Rows that whole examples are packed into, from the cache or planned now.

    Args:
      name: of the examples, for the log.
      lengths: int [N, F], each in [1, its size].
      sizes: the F lengths of a row.
    """

    def build(folder: Path) -> dict[str, Any]:
        _log.info("packing %s into rows of %s", name, " and ".join(map(str, sizes)))
        rows: list[list[int]] = []
        first, ends = 0, np.cumsum(lengths, 0)
        at_once = [min(_MAX_WINDOWS * size, _MAX_TOKENS) for size in sizes]
        while first < len(lengths):
            before = ends[first - 1] if first else np.zeros(len(sizes), np.int64)
            last = (ends - before <= at_once).all(1).sum()
            rows += [[first + index for index in row] for row in pack(lengths[first:last], sizes)]
            first = last
        (folder / "members.bin").write_bytes(np.concatenate(rows).astype("<i8").tobytes())
        firsts = np.cumsum([0, *map(len, rows)])
        (folder / "firsts.bin").write_bytes(firsts.astype("<i8").tobytes())
        return {}

    digest = hashlib.sha256(lengths.astype("<i8").tobytes()).hexdigest()
    key = {"packer": PACKER, "lengths": digest, "sizes": list(sizes)}
    entry = cache.fetch(key, build)
    paths = [entry.path / file for file in ("members.bin", "firsts.bin")]
    arrays = (np.asarray(np.memmap(path, "<i8", "r")) for path in paths)
    return Groups(*arrays, cache.digest([cache.file_digest(path) for path in paths]))


def documents(
    tokens: store.Store, span: tuple[int, int], eos_id: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Starts and stops (int64 [N]) of a span's documents, in order, some at a time."""
    begun, last = span
    for first in range(*span, _BLOCK):
        ids = np.empty(min(_BLOCK, last - first), np.int32)
        tokens.fill(first, ids)
        stops = first + 1 + np.flatnonzero(ids == eos_id)
        if first + len(ids) == last and (not len(stops) or stops[-1] < last):
            stops = np.append(stops, last)
        if len(stops):
            yield np.concatenate([[begun], stops[:-1]]), stops
            begun = int(stops[-1])


def cut(starts: np.ndarray, stops: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the pieces that documents are cut into."""
    counts = -(-(stops - starts) // seq_len)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    piece_starts = np.repeat(starts, counts) + number * seq_len
    return piece_starts, np.minimum(np.repeat(stops, counts) - piece_starts, seq_len)


def _write(
    tokens: store.Store, span: tuple[int, int], eos_id: int, seq_len: int, folder: Path
) -> dict[str, Any]:
    """Write a plan's three files; its facts."""
    num_documents = num_pieces = 0
    at_once = max(seq_len, min(_MAX_WINDOWS * seq_len, _MAX_TOKENS))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(folder / name, "wb")) for name in _FILES]

        def add(starts: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> None:
            """Write windows: their pieces, and how many each has."""
            nonlocal num_pieces
            firsts = num_pieces + np.cumsum(counts) - counts
            for file, values, dtype in zip(
                files, (starts, lengths, firsts), _FILES.values(), strict=True
            ):
                file.write(values.astype(dtype).tobytes())
            num_pieces += len(starts)

        held = np.empty((2, 0), np.int64)
        for doc_starts, doc_stops in documents(tokens, span, eos_id):
            num_documents += len(doc_starts)
            pieces = np.stack(cut(doc_starts, doc_stops, seq_len))
            full = pieces[1] == seq_len
            add(*pieces[:, full], np.ones(full.sum(), np.int64))
            held = np.concatenate([held, pieces[:, ~full]], 1)
            while (count := np.searchsorted(np.cumsum(held[1]), at_once, "right")) < held.shape[1]:
                add(*_packed(held[:, :count], seq_len))
                held = held[:, count:]
        if held.shape[1]:
            add(*_packed(held, seq_len))
        add(*np.empty((2, 0), np.int64), np.zeros(1, np.int64))  # where the last window ends
    digest = cache.digest([cache.file_digest(folder / name) for name in _FILES])
    return {"num_documents": num_documents, "digest": digest}


def _packed(pieces: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and lengths in the order of their windows, and each window's number of pieces."""
    windows = pack(pieces[1], seq_len)
    starts, lengths = pieces[:, np.concatenate(windows)]
    return starts, lengths, np.array([len(window) for window in windows])
