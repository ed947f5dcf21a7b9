"""Pairs of words with how often they stand together, in random order: what GloVe learns vectors of words from."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch, SplitInfo, TaskInfo
from jaxlm.data import cache, cooccurrence, corpus, shuffle, store, word_stream
from jaxlm.data.tasks import batches
from jaxlm.data.tasks.text import TextConfig
from jaxlm.data.tasks.word_windows import check_words, count_words

_FORMAT = 1  # of the cached counts
_HELD_OUT, _ORDER = 6, 7
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CooccurrencesConfig(TextConfig):
    """What is counted, and how it weighs.

    Attributes:
      tokenizer: words:N[,min_count=M][,language=NAME] (data/word_tokenizer.py).
      seq_len: pairs of a row.
      val_fraction: of the pairs, chosen at random, both orders of a pair together; all of the text is counted.
      window: words on each side.
      x_max: a pair weighs min(1, (count / x_max) ** alpha).
      alpha: see x_max.
    """

    tokenizer: str = "words:30000,min_count=5"
    seq_len: int = 1024
    window: int = 10
    x_max: float = 100.0
    alpha: float = 0.75

    def __post_init__(self):
        super().__post_init__()
        check_words(self.tokenizer)
        for name in ("seq_len", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least 1")
        for name in ("x_max", "alpha"):
            if getattr(self, name) <= 0:
                raise ValueError(f"data.{name}={getattr(self, name)} must be above 0")


class CooccurrencesTask:
    """Rows of pairs; see CooccurrencesConfig. The counts are made once, by way of the cache, and held in memory."""

    Config: ClassVar[type] = CooccurrencesConfig

    def __init__(self, config: CooccurrencesConfig):
        """Open the data and count what the cache doesn't hold.

        Raises:
          ValueError: something about path, tokenizer or text that the user can change.
        """
        self.config = config
        whole = dataclasses.replace(config, val_fraction=0.0)
        self.tokenizer, self.parts = corpus.open_parts(whole)
        count_words(self)  # checks
        digests = [part.digest for part in self.parts]
        key = {"format": _FORMAT, "cooccurrences": digests, "window": config.window}
        entry = cache.fetch(key, self._count)
        self.counts = cooccurrence.Counts(
            *(
                np.load(entry.path / f"{name}.npy", mmap_mode="r")
                for name in cooccurrence.Counts._fields
            )
        )
        if not len(self.counts.counts):
            raise ValueError(f"data.path={config.path}: no two words stand together")
        self.places = self._splits()
        self.info = self._make_info(cache.digest([key, self.tokenizer.digest]))

    def _count(self, folder: Path) -> dict[str, Any]:
        _log.info("counting which words of data.path stand together")
        streams = (self._words(part.tokens) for part in self.parts)
        size = len(self.tokenizer.words)
        found = cooccurrence.count(streams, size, self.config.window)
        for name, values in found._asdict().items():
            np.save(folder / f"{name}.npy", values)
        return {"num_pairs": len(found.counts)}

    def _words(self, tokens: store.Store) -> tuple[np.ndarray, np.ndarray]:
        ids = np.empty(len(tokens), np.int32)
        tokens.fill(0, ids)
        every = np.ones(len(self.tokenizer.words))
        return word_stream.thin(ids, 0, every, self.tokenizer.eos_id, shuffle.make_key(0))

    def _splits(self) -> dict[str, np.ndarray]:
        """Places of the counts, by split."""
        words, contexts = (np.asarray(one, np.uint64) for one in self.counts[:2])
        size = np.uint64(len(self.tokenizer.words))
        pairs = np.minimum(words, contexts) * size + np.maximum(words, contexts)
        held = word_stream.uniform(shuffle.make_key(_HELD_OUT), pairs) < self.config.val_fraction
        found = {"train": np.flatnonzero(~held)}
        if self.config.val_fraction:
            found["val"] = np.flatnonzero(held)
        for name, places in found.items():
            if not len(places):
                raise ValueError(
                    f"data.val_fraction={self.config.val_fraction} leaves the split {name} none of {len(held)} pairs"
                )
        return found

    def _make_info(self, digest: str) -> TaskInfo:
        num_bytes = sum(part.num_bytes["train"] for part in self.parts)
        num_tokens = sum(len(part.tokens) for part in self.parts)
        splits = {
            name: SplitInfo(
                -(-len(places) // self.config.seq_len),
                num_tokens if name == "train" else 0,
                num_bytes if name == "train" else 0,
            )
            for name, places in self.places.items()
        }
        cfg = self.config
        settings = [cfg.seq_len, cfg.val_fraction, cfg.x_max, cfg.alpha]
        return TaskInfo(
            self.tokenizer.vocab_size,
            splits,
            self.tokenizer,
            digest=cache.digest([digest, settings]),
            row_tokens=num_tokens / splits["train"].num_examples,
        )

    def train(self, seed: int) -> Any:
        """Endless rows; an epoch has every training pair once, in another order each time."""
        from jaxlm.data.windows import Numbered

        size, rows = self.config.seq_len, self.info.splits["train"].num_examples
        total = len(self.places["train"])

        def get(index: int) -> dict[str, np.ndarray]:
            epoch, row = divmod(index, rows)
            turns = np.arange(row * size, min((row + 1) * size, total))
            key = shuffle.make_key(seed, _ORDER, epoch)
            return self._row(self.places["train"][shuffle.permute(turns, total, key)])

        return Numbered(get, rows).repeat()

    def _row(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """tokens, contexts int32 [E]; counts float32 [E], 1 for filling; weights float32 [E], f(count), 0 for filling."""
        size = self.config.seq_len
        row = {name: np.zeros(size, np.int32) for name in ("tokens", "contexts")}
        row |= {"counts": np.ones(size, np.float32), "weights": np.zeros(size, np.float32)}
        number = len(places)
        row["tokens"][:number] = self.counts.words[places]
        row["contexts"][:number] = self.counts.contexts[places]
        row["counts"][:number] = self.counts.counts[places]
        row["weights"][:number] = cooccurrence.weighting(
            row["counts"][:number], self.config.x_max, self.config.alpha
        )
        return row

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Every pair of a split once, in the order of the counts; see core.types.Task."""
        if split not in self.places:
            raise ValueError(f'no split "{split}"; accepted: {", ".join(self.places)}')
        size, total = self.config.seq_len, self.info.splits[split].num_examples
        count = min(total, self.config.eval_examples or total)
        ids = [number * total // count for number in range(count)]
        places = self.places[split]
        return batches.evaluation(
            lambda row: self._row(places[row * size : (row + 1) * size]), ids, batch_size
        )

    def show(self, batch: Batch, num_examples: int, predictions: Any = None) -> str:
        """The first pairs of rows, with their counts and weights."""
        return batches.show(batch, num_examples, None, self.show_example)

    def show_example(self, example: dict[str, np.ndarray], predicted: Any) -> list[str]:
        """Lines of one row."""
        columns = [example[name][:8] for name in ("tokens", "contexts", "counts", "weights")]
        return [
            f"{self.tokenizer.decode([word, context])}: {float(number):.3g}, weight {float(weight):.3g}"
            for word, context, number, weight in zip(*columns, strict=True)
            if weight > 0
        ]
