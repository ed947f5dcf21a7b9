"""The tokens of `data.path`: each source opened, tokenised once, and split into train and val.

What examples are made of them is for the tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.data import (
    bpe,
    cache,
    prepared,
    sources,
    special_tokens,
    store,
    tokenizers,
    word_tokenizer,
)

_log = logging.getLogger(__name__)
_FORMAT = 1  # of the cached token files: change it when the same input gives other tokens


class Part(NamedTuple):
    """One source, tokenised: tokens[:num_train] is for training, the rest for validation."""

    path: str
    weight: float | None
    tokens: store.Store
    num_train: int
    num_bytes: dict[str, int]
    digest: str

    def span(self, split: str) -> tuple[int, int]:
        """First and last + 1 token of a split."""
        return (0, self.num_train) if split == "train" else (self.num_train, len(self.tokens))


def open_parts(config: Any) -> tuple[Any, list[Part]]:
    """The tokenizer and the sources of a task, tokenising what the cache doesn't hold.

    Args:
      config: a `tasks.text.TextConfig`; path, tokenizer, text_column and val_fraction are read.

    Raises:
      ValueError: something about path, tokenizer or text that the user can change.
    """
    named = sources.parse(config.path)
    opened = [
        prepared.load(part.path.removeprefix("tokens:"))
        if part.path.startswith("tokens:")
        else sources.open_source(part.path, config.text_column)
        for part in named
    ]
    scans = [None if isinstance(one, prepared.Prepared) else _scan(one) for one in opened]
    tokenizer = make_tokenizer(config.tokenizer, opened, scans, config.val_fraction)
    encoder = special_tokens.base(tokenizer)  # files are the same, whatever tokens were appended
    parts = [
        _prepared_part(part, source, config, encoder)
        if scan is None
        else _text_part(part, source, scan, config, encoder)
        for part, source, scan in zip(named, opened, scans, strict=True)
    ]
    return tokenizer, parts


def train_units(units: int, val_fraction: float) -> int:
    """How many of `units` characters, lines or tokens come before the held-out last part."""
    return int(units * (1 - val_fraction) + 1e-6)


def _text_part(
    part: sources.Part, source: Any, scan: tuple[str, int], config: Any, tokenizer: Any
) -> Part:
    digest, units = scan
    num_train = train_units(units, config.val_fraction)
    key = {
        "format": _FORMAT,
        "source": digest,
        "tokenizer": tokenizer.digest,
        "train_units": num_train,
    }
    entry = cache.fetch(key, lambda folder: _tokenise(source, tokenizer, num_train, folder))
    tokens = store.Store([entry.path / "tokens.bin"], tokenizer.vocab_size)
    facts = entry.facts
    num_bytes = {name: facts[name]["num_bytes"] for name in ("train", "val")}
    return Part(*part, tokens, facts["train"]["num_tokens"], num_bytes, cache.digest([key, facts]))


def _prepared_part(
    part: sources.Part, source: prepared.Prepared, config: Any, tokenizer: Any
) -> Part:
    if source.tokenizer_digest != tokenizer.digest:
        raise _mismatch(config.tokenizer, source)
    tokens = store.Store(source.files, tokenizer.vocab_size)
    num_train = train_units(len(tokens), config.val_fraction)
    train_bytes = round(source.num_bytes * num_train / max(1, len(tokens)))
    num_bytes = {"train": train_bytes, "val": source.num_bytes - train_bytes}
    return Part(*part, tokens, num_train, num_bytes, cache.digest([source.digest, num_train]))


def _mismatch(name: str, source: prepared.Prepared) -> ValueError:
    return ValueError(
        f"data.tokenizer={name} is not the one that data.path=tokens:{source.directory} was prepared "
        f"with ({source.tokenizer_name})"
    )


def _scan(source: sources.Source) -> tuple[str, int]:
    digest, units = source.scan()
    if not units:
        raise ValueError(f"data.path={source.name} holds no text")
    return digest, units


def make_tokenizer(
    name: str, opened: Sequence[Any], scans: Sequence[Any], val_fraction: float
) -> Any:
    """The tokenizer of a run, made from its text where that is what it is named for.

    An alphabet ("chars") comes from all of the text, merges ("bpe:N") and words ("words:N") from its
    training part, all by way of the cache; for a prepared set they are those that it was made with.

    Args:
      name: `data.tokenizer`.
      opened: what has `pieces`, as `sources.Source`, or a prepared set.
      scans: for each of them what its `scan` gave.
      val_fraction: the last part of each, which merges are not learnt from.

    Raises:
      ValueError: no such tokenizer, or a prepared set was made with another one.
    """
    if not tokenizers.made_of_text(name):
        return tokenizers.build(name)
    for source in opened:
        if isinstance(source, prepared.Prepared):
            if source.tokenizer_name != name:
                raise _mismatch(name, source)
            return source.tokenizer()
    if name == "chars":
        return _alphabet(opened, scans)
    if word_tokenizer.is_named(name):
        return _words(name, opened, scans, val_fraction)
    return _merges(name, opened, scans, val_fraction)


def _alphabet(opened: Sequence[Any], scans: Sequence[Any]) -> Any:
    def characters(_: Path) -> dict[str, Any]:
        found = set()
        for source in opened:
            for text, _ in source.pieces():
                found.update(text)
        return {"characters": "".join(sorted(found))}

    entry = cache.fetch(
        {"format": _FORMAT, "alphabet": [digest for digest, _ in scans]}, characters
    )
    return tokenizers.build("chars", [entry.facts["characters"]])


def _merges(name: str, opened: Sequence[Any], scans: Sequence[Any], val_fraction: float) -> Any:
    texts, key = _training_texts(opened, scans, val_fraction)

    def train(folder: Path) -> dict[str, Any]:
        _log.info("training %s on the training part of data.path", name)
        (folder / "tokenizer.json").write_bytes(bpe.train_named(name, texts()))
        return {}

    entry = cache.fetch({"format": _FORMAT, "bpe": bpe.size(name), "texts": key}, train)
    return tokenizers.trained(name, (entry.path / "tokenizer.json").read_bytes())


def _words(name: str, opened: Sequence[Any], scans: Sequence[Any], val_fraction: float) -> Any:
    asked = word_tokenizer.parse(name)
    texts, key = _training_texts(opened, scans, val_fraction)

    def count(folder: Path) -> dict[str, Any]:
        _log.info("counting the words of the training part of data.path")
        words = word_tokenizer.most_frequent(name, texts())
        (folder / "words.txt").write_text("\n".join(words), encoding="utf-8")
        return {}

    entry = cache.fetch({"format": _FORMAT, "words": list(asked), "texts": key}, count)
    words = (entry.path / "words.txt").read_text(encoding="utf-8").split("\n")
    return word_tokenizer.WordTokenizer(name, words)


def _training_texts(
    opened: Sequence[Any], scans: Sequence[Any], val_fraction: float
) -> tuple[Callable[[], Iterator[str]], list[list[Any]]]:
    """The training part's texts, as often as they are asked for, and what they depend on."""
    counts = [train_units(units, val_fraction) for _, units in scans]

    def texts() -> Iterator[str]:
        for source, count in zip(opened, counts, strict=True):
            for text, _ in store.cut(source.pieces(), count, source.in_characters)[0]:
                yield text

    return texts, [[digest, count] for (digest, _), count in zip(scans, counts, strict=True)]


def _tokenise(
    source: sources.Source, tokenizer: Any, num_train: int, folder: Path
) -> dict[str, Any]:
    _log.info("tokenising %s with %s", source.name, tokenizer.name)
    facts = {}
    with open(folder / "tokens.bin", "wb") as file:
        parts = store.cut(source.pieces(), num_train, source.in_characters)
        for name, pieces in zip(("train", "val"), parts, strict=True):
            writer = store.Writer(file, tokenizer)
            store.write_all(pieces, writer)
            facts[name] = writer.facts()
    return facts
