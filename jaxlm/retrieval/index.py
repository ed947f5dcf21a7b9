"""An index of passages in a folder: made whole, with digests of all that it depends on, and searched.

FOLDER/passages.jsonl     the passages
FOLDER/words/             BM25 (words.py)
FOLDER/vectors/           faiss (vectors.py)
FOLDER/meta.json          what it was made from, and the digest of every file
"""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.data import cache
from jaxlm.data.cleaning import Cleaning
from jaxlm.retrieval.passages import Documents, Passage, cut
from jaxlm.retrieval.vectors import Dense, Encoder, fused
from jaxlm.retrieval.words import BM25

METHODS = ("bm25", "dense", "hybrid")
FUSED_DEPTH = 100
"""How deep the rankings go that hybrid puts together."""
_FORMAT = 1  # of a folder
_PASSAGES, _WORDS, _VECTORS = "passages.jsonl", "words", "vectors"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an index is made of.

    Attributes:
      documents: a file or glob: see passages.Documents.
      text_column, title_column: of its lines.
      passage_characters: a passage has at most so many.
      overlap: characters that a passage repeats of the one before.
      language: whose words BM25 counts (data/cleaning.py); "": no BM25.
      vector_index: faiss's kind; "": no vectors.
    """

    documents: str
    text_column: str = "text"
    title_column: str = ""
    passage_characters: int = 600
    overlap: int = 0
    language: str = ""
    vector_index: str = "Flat"


class Hit(NamedTuple):
    """A passage that was found; scores of one method can be compared, for one question."""

    rank: int
    score: float
    passage: Passage


class Searcher:
    """Passages with what finds them.

    Args:
      passages: by number.
      words: for "bm25"; None: not there.
      dense: for "dense"; None: not there.
      encoder: of questions, for `dense`.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        words: BM25 | None,
        dense: Dense | None,
        encoder: Encoder | None,
    ):
        self.passages, self._words, self._dense, self._encoder = passages, words, dense, encoder
        there = [words is not None, dense is not None, None not in (words, dense)]
        self.methods = [name for name, has in zip(METHODS, there, strict=True) if has]

    def search(self, questions: Sequence[str], k: int, method: str = "") -> list[list[Hit]]:
        """The best passages for each question; method "": hybrid, or the one that there is."""
        numbers, scores = self.rank(questions, k, method)
        return [
            [
                Hit(rank, score, self.passages[number])
                for rank, (number, score) in enumerate(zip(own, values, strict=True), 1)
                if number >= 0
            ]
            for own, values in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]

    def rank(
        self, questions: Sequence[str], k: int, method: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of passages and scores, each [N, K]; -1 and 0 where there are no more.

        Raises:
          ValueError: a method that this index has not, or no k.
        """
        method = method or self.methods[-1]
        if method not in self.methods:
            raise ValueError(f"--method {method}: this index has {', '.join(self.methods)}")
        if k < 1:
            raise ValueError(f"--k {k} must be at least 1")
        k = min(k, len(self.passages))
        if method == "bm25":
            return self._words.rank(questions, k)
        depth = k if method == "dense" else min(max(k, FUSED_DEPTH), len(self.passages))
        numbers, scores = self._dense.rank(self._encoder.embed(list(questions)), depth)
        if method == "dense":
            return numbers, scores
        return fused([numbers, self._words.rank(questions, depth)[0]], k)


def build(folder: Path, settings: Settings, encoder: Encoder | None = None) -> Searcher:
    """Make an index in a new folder.

    Args:
      folder: must not be there yet; it appears when all is written.
      settings: what of.
      encoder: makes the vectors; None: there are none.

    Raises:
      ValueError: nothing to index, a missing library, or a folder that can't be made.
    """
    if os.path.lexists(folder):
        raise ValueError(f"--index {folder} is there already: name a new folder, or remove it")
    if encoder is None and not settings.language:
        raise ValueError("name --encoder PATH, --language NAME (for BM25), or both")
    if encoder is None and settings.vector_index != Settings.vector_index:
        raise ValueError(f"--vector_index {settings.vector_index} needs --encoder PATH")
    documents = Documents(settings.documents, settings.text_column, settings.title_column)
    passages = list(_passages(documents, settings))
    if not passages:
        raise ValueError(f"--documents {settings.documents}: no passage in it")
    _log.info("passages   %d of %s", len(passages), settings.documents)
    texts = [one.searched for one in passages]
    words = BM25.build(texts, Cleaning(settings.language)) if settings.language else None
    dense = None
    if encoder is not None:
        _log.info("vectors    of %s", encoder.path)
        dense = Dense.build(encoder.embed(texts), settings.vector_index)
    facts = dataclasses.asdict(settings) | {
        "documents_path": os.path.abspath(settings.documents),
        "documents_digest": documents.digest(),
        "encoder": encoder and {"path": encoder.path, "digest": encoder.digest},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        with open(draft / _PASSAGES, "w", encoding="utf-8") as file:
            for one in passages:
                file.write(json.dumps(one._asdict(), ensure_ascii=False) + "\n")
        for part, name in ((words, _WORDS), (dense, _VECTORS)):
            if part is not None:
                (draft / name).mkdir()
                part.save(draft / name)
        cache.write_meta(draft, {"format": _FORMAT}, facts)
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Searcher(passages, words, dense, encoder)


def recorded(folder: Path) -> dict:
    """What an index was made from: its settings, digests, and `encoder`, {"path", "digest"} or None.

    Raises:
      ValueError: there is none, it was changed, or its documents were.
    """
    if not (folder / cache.META_FILE).is_file():
        raise ValueError(
            f"--index {folder}: no index there; make one with python -m jaxlm.retrieve build"
        )
    facts, fault = cache.verify(folder)
    if facts is None:
        raise ValueError(f"--index {folder} is damaged ({fault}): build it again")
    key = json.loads((folder / cache.META_FILE).read_bytes())["key"]
    if key != {"format": _FORMAT}:
        raise ValueError(f"--index {folder} has another format than {_FORMAT}: build it again")
    _check_documents(folder, facts)
    return facts


def load(folder: Path, encoder: Encoder | None = None) -> Searcher:
    """An index that `build` made.

    Args:
      folder: where it is.
      encoder: of questions; None: without "dense".

    Raises:
      ValueError: as `recorded`, or an encoder that did not make its vectors.
    """
    facts = recorded(folder)
    made_by = facts["encoder"]
    if encoder is not None and (made_by is None or encoder.digest != made_by["digest"]):
        other = (
            "has no vectors" if made_by is None else f"was made by {made_by['path']} as it was then"
        )
        raise ValueError(
            f"--index {folder} {other}, not by the encoder {encoder.path}: build it again with this one"
        )
    with open(folder / _PASSAGES, encoding="utf-8") as file:
        passages = [Passage(**json.loads(line)) for line in file]
    words = BM25.load(folder / _WORDS) if (folder / _WORDS).is_dir() else None
    dense = Dense.load(folder / _VECTORS) if encoder is not None else None
    return Searcher(passages, words, dense, encoder)


def _passages(documents: Documents, settings: Settings) -> Iterator[Passage]:
    for document in documents:
        yield from cut(document, settings.passage_characters, settings.overlap)


def _check_documents(folder: Path, facts: dict) -> None:
    """Documents that are still there are those that were indexed; an index alone can be searched elsewhere."""
    path = facts["documents"]
    if not os.path.exists(path) and ":" not in path:
        path = facts["documents_path"]
    if ":" not in path and not glob.glob(path):
        return
    digest = Documents(path, facts["text_column"], facts["title_column"]).digest()
    if digest != facts["documents_digest"]:
        raise ValueError(f"--index {folder} is stale: {path} has changed since; build it again")
