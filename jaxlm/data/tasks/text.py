"""Plain language modelling: windows of a token stream, each token's target being the next one.

Not for text with a structure that the loss must know (pairs, labels, turns, packed documents):
those are other tasks.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.core.types import Batch, SplitInfo, TaskInfo
from jaxlm.data import cache, prepared, sources, store, tokenizers

_log = logging.getLogger(__name__)
_FORMAT = 1  # of the cached token files: change it when the same input gives other tokens


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What to train on.

    Attributes:
      path: a file or glob (*.jsonl: records; all else: plain text), bundled:NAME,
        tfds:NAME[:field], hf:NAME[:config], tokens:DIR (made by jaxlm.prepare); or several joined
        by commas, each with @weight or none (then in proportion to their sizes).
      tokenizer: bytes, chars, gpt2, or the path of a tokenizer.json or a SentencePiece *.model.
      seq_len: tokens of a window; 0: the model's max_len, which the loop fills in.
      val_fraction: the last part, held out: in characters of a text, lines of a record file, tokens
        of a token file.
      eval_examples: evaluate on so many windows, evenly spread over a split; 0: on all.
      text_field: which entry of a record is the text.
    """

    path: str = "bundled:shakespeare"
    tokenizer: str = "bytes"
    seq_len: int = 0
    val_fraction: float = 0.1
    eval_examples: int = 0
    text_field: str = "text"

    def __post_init__(self):
        for name in ("path", "tokenizer", "text_field"):
            if not getattr(self, name):
                raise ValueError(f"data.{name} is empty: expected {name.replace('_', ' ')} as text")
        if self.seq_len < 0:
            raise ValueError(f"data.seq_len={self.seq_len} must be at least 1, or 0: model.max_len")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"data.val_fraction={self.val_fraction} must be in [0, 1)")
        if self.eval_examples < 0:
            raise ValueError(f"data.eval_examples={self.eval_examples} must be 0 (all) or more")


class _Part(NamedTuple):
    """One source, tokenised: tokens[:num_train] is for training, the rest for validation."""

    path: str
    weight: float | None
    tokens: store.Store
    num_train: int
    num_bytes: dict[str, int]
    digest: str

    def span(self, split: str) -> tuple[int, int]:
        """First and last + 1 target of a split; the stream's first token has no context."""
        return (1, self.num_train) if split == "train" else (self.num_train, len(self.tokens))


class TextTask:
    """Next-token prediction over one source or a mixture; see TextConfig."""

    Config: ClassVar[type] = TextConfig

    def __init__(self, config: TextConfig):
        """Open the data, tokenising what the cache doesn't hold.

        Raises:
          ValueError: something about path, tokenizer or text that the user can change.
        """
        self.config = config
        named = sources.parse(config.path)
        opened = [
            prepared.load(part.path.removeprefix("tokens:"))
            if part.path.startswith("tokens:")
            else sources.open_source(part.path, config.text_field)
            for part in named
        ]
        scans = [None if isinstance(one, prepared.Prepared) else _scan(one) for one in opened]
        self.tokenizer = _tokenizer(config, opened, scans)
        self._parts = [
            self._prepared_part(part, source)
            if scan is None
            else self._text_part(part, source, scan)
            for part, source, scan in zip(named, opened, scans, strict=True)
        ]
        if not config.seq_len:
            raise ValueError(
                "data.seq_len=0 and the model has no max_len: give the window's length"
            )
        for part in self._parts:
            self._check_length(part)
        self.info = self._make_info()

    def _text_part(self, part: sources.Part, source: Any, scan: tuple[str, int]) -> _Part:
        digest, units = scan
        num_train = train_units(units, self.config.val_fraction)
        key = {
            "format": _FORMAT,
            "source": digest,
            "tokenizer": self.tokenizer.digest,
            "train_units": num_train,
        }
        entry = cache.fetch(
            key, lambda folder: _tokenise(source, self.tokenizer, num_train, folder)
        )
        tokens = store.Store([entry.path / "tokens.bin"], self.tokenizer.vocab_size)
        facts = entry.facts
        num_bytes = {name: facts[name]["num_bytes"] for name in ("train", "val")}
        return _Part(
            *part, tokens, facts["train"]["num_tokens"], num_bytes, cache.digest([key, facts])
        )

    def _prepared_part(self, part: sources.Part, source: prepared.Prepared) -> _Part:
        if source.tokenizer_digest != self.tokenizer.digest:
            raise ValueError(
                f"data.tokenizer={self.config.tokenizer} is not the one that data.path={part.path} "
                f"was prepared with ({source.tokenizer_name})"
            )
        tokens = store.Store(source.files, self.tokenizer.vocab_size)
        num_train = train_units(len(tokens), self.config.val_fraction)
        train_bytes = round(source.num_bytes * num_train / max(1, len(tokens)))
        num_bytes = {"train": train_bytes, "val": source.num_bytes - train_bytes}
        digest = cache.digest([source.digest, num_train])
        return _Part(*part, tokens, num_train, num_bytes, digest)

    def _check_length(self, part: _Part) -> None:
        config = self.config
        if part.num_train < config.seq_len + 1:
            raise ValueError(
                f"data.path={part.path} gives {part.num_train} training tokens: too short for one "
                f"window of data.seq_len={config.seq_len}, which takes {config.seq_len + 1}"
            )
        num_val = len(part.tokens) - part.num_train
        if config.val_fraction and num_val < config.seq_len:
            raise ValueError(
                f"the last data.val_fraction={config.val_fraction} of data.path={part.path} is "
                f"{num_val} tokens: too short for one window of data.seq_len={config.seq_len}"
            )

    def _make_info(self) -> TaskInfo:
        splits = {}
        for name in ("train", "val") if self.config.val_fraction else ("train",):
            lengths = [part.num_train for part in self._parts]
            if name == "val":
                lengths = [len(part.tokens) - part.num_train for part in self._parts]
            splits[name] = SplitInfo(
                num_examples=sum(self._num_windows(part, name) for part in self._parts),
                num_tokens=sum(lengths),
                num_bytes=sum(part.num_bytes[name] for part in self._parts),
            )
        parts = [[part.digest, part.weight] for part in self._parts]
        digest = cache.digest([parts, self.tokenizer.digest, self.config.seq_len])
        return TaskInfo(self.tokenizer.vocab_size, splits, self.tokenizer, digest=digest)

    def train(self, seed: int) -> Any:
        """Endless shuffled windows, {"tokens", "targets" int32 [T], "weights" float32 [T]}."""
        import grain

        from jaxlm.data.windows import Windows

        datasets = [
            Windows(part.tokens, part.num_train, self.config.seq_len, (seed, number))
            for number, part in enumerate(self._parts)
        ]
        if len(datasets) == 1:
            return datasets[0].repeat()
        weights = [
            len(dataset) if part.weight is None else part.weight
            for dataset, part in zip(datasets, self._parts, strict=True)
        ]
        return grain.MapDataset.mix([dataset.repeat() for dataset in datasets], weights)

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Windows without overlap in which every token of the split is a target exactly once.

        The first window's first input is the token before the split. Sources follow one another;
        weights of a mixture play no part. The last window of a source and the last batch are filled
        with weight 0.

        Args:
          split: "train" or "val".
          batch_size: rows of every batch.

        Yields:
          tokens, targets int32 [B, T], weights float32 [B, T], id int64 [B] (-1 in filling rows).
        """
        total = self.num_windows(split)
        shape = (batch_size, self.config.seq_len)
        for first in range(0, total, batch_size):
            batch = {
                "tokens": np.zeros(shape, np.int32),
                "targets": np.zeros(shape, np.int32),
                "weights": np.zeros(shape, np.float32),
                "id": np.full(batch_size, -1, np.int64),
            }
            for row, number in enumerate(range(first, min(first + batch_size, total))):
                example_id = number * self.info.splits[split].num_examples // total
                part, start, stop = self._window(split, example_id)
                ids = np.empty(stop - start + 1, np.int32)
                part.tokens.fill(start - 1, ids)
                batch["tokens"][row, : stop - start] = ids[:-1]
                batch["targets"][row, : stop - start] = ids[1:]
                batch["weights"][row, : stop - start] = 1
                batch["id"][row] = example_id
            yield batch

    def num_windows(self, split: str) -> int:
        """How many examples `eval` gives.

        Raises:
          ValueError: no such split.
        """
        if split not in self.info.splits:
            raise ValueError(f'no split "{split}"; accepted: {", ".join(self.info.splits)}')
        total = self.info.splits[split].num_examples
        return min(total, self.config.eval_examples or total)

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path and the text (of the targets) of the example that `eval` gave this id."""
        part, start, stop = self._window(split, example_id)
        ids = np.empty(stop - start, np.int32)
        part.tokens.fill(start, ids)
        return part.path, self.tokenizer.decode(ids)

    def _num_windows(self, part: _Part, split: str) -> int:
        start, stop = part.span(split)
        return -(-(stop - start) // self.config.seq_len)

    def _window(self, split: str, example_id: int) -> tuple[_Part, int, int]:
        number = example_id
        for part in self._parts:
            count = self._num_windows(part, split)
            if 0 <= number < count:
                first, last = part.span(split)
                start = first + number * self.config.seq_len
                return part, start, min(start + self.config.seq_len, last)
            number -= count
        raise ValueError(f'split "{split}" has no example {example_id}')

    def show(self, batch: Batch, num_examples: int) -> str:
        """The first rows of a batch: the text, then its first tokens, each with its target."""
        lines = []
        for row in range(min(num_examples, len(batch["tokens"]))):
            tokens, targets, weights = (
                np.asarray(batch[k][row]) for k in ("tokens", "targets", "weights")
            )
            lines += [f"example {row}: {len(tokens)} tokens, {int((weights > 0).sum())} scored"]
            lines += [f"  text     {self.tokenizer.decode(tokens)!r}"]
            pairs = [
                f"{self._piece(token)} -> {self._piece(target) if weight else 'ignored'}"
                for token, target, weight in zip(tokens, targets, weights, strict=True)
            ]
            lines += [f"  targets  {'  '.join(pairs[:24])}{'  ...' if len(pairs) > 24 else ''}"]
        return "\n".join(lines)

    def _piece(self, token: int) -> str:
        return f"{int(token)}:{self.tokenizer.decode([int(token)])!r}"


def train_units(units: int, val_fraction: float) -> int:
    """How many of `units` characters, lines or tokens come before the held-out last part."""
    return int(units * (1 - val_fraction) + 1e-6)


def _scan(source: sources.Source) -> tuple[str, int]:
    digest, units = source.scan()
    if not units:
        raise ValueError(f"data.path={source.name} holds no text")
    return digest, units


def _tokenizer(config: TextConfig, opened: list[Any], scans: list[Any]) -> Any:
    """The tokenizer of a run; an alphabet comes from all of the text, or from a prepared set."""
    if config.tokenizer != "chars":
        return tokenizers.build(config.tokenizer)
    for source in opened:
        if isinstance(source, prepared.Prepared):
            return source.tokenizer()

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
