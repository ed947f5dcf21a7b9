"""Words and those around them, with negatives: what skip-gram and CBOW learn vectors of words from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch, TaskInfo
from jaxlm.data import shuffle, word_stream, word_tokenizer
from jaxlm.data.subwords import RowPieces, Subwords
from jaxlm.data.tasks import batches
from jaxlm.data.tasks.text import EVAL, TextConfig, TextTask

_EXAMPLE, _NEGATIVES = 4, 5


@dataclasses.dataclass(frozen=True)
class WordWindowsConfig(TextConfig):
    """What to train on, and how windows and negatives are drawn.

    Attributes:
      tokenizer: words:N[,min_count=M][,language=NAME] (data/word_tokenizer.py).
      seq_len: words of a row, that is centres of windows; a multiple of `block`.
      window: a centre sees up to so many words on each side; how many, 1 to window, is drawn for each.
      sample: words that are a larger share of the text are thinned out (word_stream.keep_probability); 0: off.
      num_negatives: how much negatives weigh: so many for each positive.
      noise_power: negatives are drawn by count ** noise_power.
      block: so many centres share their negatives.
      shared_negatives: how many words a block shares; each counts num_negatives / shared_negatives for every positive.
      num_buckets: rows of the table of character n-grams (fastText); 0: words are words only.
      min_n, max_n: characters of an n-gram, the word's ends < and > included.
    """

    tokenizer: str = "words:30000,min_count=5"
    seq_len: int = 1024
    window: int = 5
    sample: float = 1e-3
    num_negatives: int = 5
    noise_power: float = 0.75
    block: int = 32
    shared_negatives: int = 16
    num_buckets: int = 0
    min_n: int = 3
    max_n: int = 6

    def __post_init__(self):
        super().__post_init__()
        check_words(self.tokenizer)
        for name in ("seq_len", "window", "num_negatives", "block", "shared_negatives", "min_n"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least 1")
        if self.seq_len % self.block:
            raise ValueError(
                f"data.seq_len={self.seq_len} must be a multiple of data.block={self.block}"
            )
        for name in ("sample", "num_buckets"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name}={getattr(self, name)} must be 0 (off) or more")
        if self.max_n < self.min_n:
            raise ValueError(f"data.max_n={self.max_n} must be at least data.min_n={self.min_n}")


def check_words(tokenizer: str) -> None:
    """Raises ValueError for a tokenizer that is not one of words: its tokens have no vectors worth having."""
    if not word_tokenizer.is_named(tokenizer):
        raise ValueError(
            f'data.tokenizer="{tokenizer}" has no words: expected words:N, such as words:30000,min_count=5'
        )
    word_tokenizer.parse(tokenizer)


def count_words(task: Any) -> np.ndarray:
    """How often each word stands in the training part of all sources, int64 [V].

    Raises:
      ValueError: fewer than two different words, or weights of sources.
    """
    if any(part.weight is not None for part in task.parts):
        raise ValueError(
            f"data.path={task.config.path}: vectors of words are of all words alike; leave out the @weights"
        )
    size = len(task.tokenizer.words)
    counts = np.zeros(size + 2, np.int64)
    for part in task.parts:
        for first in range(0, part.num_train, word_stream.BLOCK):
            ids = np.empty(min(word_stream.BLOCK, part.num_train - first), np.int32)
            part.tokens.fill(first, ids)
            counts += np.bincount(ids, minlength=size + 2)
    found = int((counts[:size] > 0).sum())
    if found < 2:
        raise ValueError(
            f"data.path={task.config.path} has {found} different words: a window needs two at least"
        )
    return counts[:size]


class WordWindowsTask(TextTask):
    """Rows of words with their windows; see WordWindowsConfig.

    Deviations from word2vec.c: `block` centres share `shared_negatives` negatives, as in pWord2Vec (Ji et al. 2016,
    arXiv:1604.04661) and BlazingText; windows end where a row's block of 4 million words does, not after 1,000 words.
    """

    Config: ClassVar[type] = WordWindowsConfig

    def prepare_parts(self) -> None:
        """Count, and cut into rows.

        Raises:
          ValueError: too little text; the keys are named.
        """
        cfg = self.config
        self.counts_V = count_words(self)
        self.keep_V = word_stream.keep_probability(self.counts_V, cfg.sample)
        self.noise_V = word_stream.noise(self.counts_V, cfg.noise_power)
        self.subwords = None
        if cfg.num_buckets:
            self.subwords = Subwords(self.tokenizer.words, cfg.num_buckets, cfg.min_n, cfg.max_n)
        self._held_out = [self._eval_streams(number) for number in range(len(self.parts))]
        self._rows = [self._train_rows(number, seed=0) for number in range(len(self.parts))]
        if not sum(map(len, self._rows)):
            raise ValueError(f"data.path={cfg.path}: too few words to train on")
        if cfg.val_fraction and not any(len(held["val"].words) for held in self._held_out):
            raise ValueError(
                f"the last data.val_fraction={cfg.val_fraction} of data.path={cfg.path} has no known word"
            )
        if self.subwords:
            frames = (
                self._frame(number, index)
                for number, rows in enumerate(self._rows)
                for index in range(0, len(rows), max(1, len(rows) // 100))
            )
            self.pieces = RowPieces(self.subwords, [frame.words for frame in frames])

    def _make_info(self) -> TaskInfo:
        info = super()._make_info()
        train = info.splits["train"]  # what is thinned out was read, too
        return dataclasses.replace(info, row_tokens=train.num_tokens / train.num_examples)

    def _train_rows(self, number: int, seed: int) -> word_stream.Rows:
        part, cfg = self.parts[number], self.config
        return word_stream.Rows(
            part.tokens, 0, part.num_train, cfg.seq_len, self.keep_V, self.tokenizer.eos_id,
            (seed, number),
        )  # fmt: skip

    def _eval_streams(self, number: int) -> dict[str, word_stream.Thinned]:
        """Each split thinned out as an epoch of training is, always in the same way."""
        found, part = {}, self.parts[number]
        for name in ("train", "val"):
            start, stop = part.span(name)
            stop = min(stop, start + word_stream.BLOCK)  # of a longer one the first words
            ids = np.empty(stop - start, np.int32)
            part.tokens.fill(start, ids)
            key = shuffle.make_key(EVAL, number)
            found[name] = word_stream.thin(ids, start, self.keep_V, self.tokenizer.eos_id, key)
        return found

    def _frame(self, number: int, index: int) -> word_stream.Frame:
        rows = self._rows[number]
        return rows.row(*rows.locate(index), self.config.window)

    def settings(self) -> list[Any]:
        """What determines the examples besides text, tokenizer and seq_len."""
        fields = dataclasses.fields(WordWindowsConfig)
        shared = {field.name for field in dataclasses.fields(TextConfig)}
        return [
            "word_windows",
            *(getattr(self.config, f.name) for f in fields if f.name not in shared),
        ]

    def train_part(self, number: int, seed: int) -> Any:
        """One source's rows, shuffled: a grain.MapDataset of examples."""
        from jaxlm.data.windows import Numbered

        rows = self._train_rows(number, seed)

        def get(index: int) -> dict[str, np.ndarray]:
            frame = rows.row(*rows.locate(index), self.config.window)
            return self.example_of(frame, (seed, number, _EXAMPLE, index))

        return Numbered(get, len(rows))

    def example_of(self, frame: word_stream.Frame, key: Sequence[int]) -> dict[str, np.ndarray]:
        """A row of T centres with W words more on both sides.

        Returns:
          tokens int32 [T]: the centres. radius int32 [T]: how far each sees, 0 for filling. contexts, segment_ids int32
          [T + 2 W]: the words and their documents, 0 for filling. negatives int32 [G, K]: K for each block of centres;
          negative_weight float32 [1]: what each of them counts for a positive. With character n-grams also RowPieces's.
        """
        cfg, W, T = self.config, self.config.window, self.config.seq_len
        words, documents = frame.words, frame.documents
        if self.subwords:
            more, words, documents = self.pieces.of(words, documents)
        drawn = shuffle.mix64(shuffle.make_key(*key) ^ np.arange(T, dtype=np.uint64))
        radius = 1 + shuffle.random_below(drawn, np.full(T, W))
        radius[(np.arange(T) >= frame.num_centres) | (documents[W : W + T] == 0)] = 0
        shape = T // cfg.block, cfg.shared_negatives
        chances = word_stream.uniform(
            shuffle.make_key(*key, _NEGATIVES), np.arange(shape[0] * shape[1])
        )
        negatives = np.searchsorted(self.noise_V, chances, side="right").reshape(shape)
        example = {
            "tokens": words[W : W + T],
            "radius": radius.astype(np.int32),
            "contexts": words,
            "segment_ids": documents,
            "negatives": np.minimum(negatives, len(self.noise_V) - 1).astype(np.int32),
            "negative_weight": np.float32([cfg.num_negatives / cfg.shared_negatives]),
        }
        return example | more if self.subwords else example

    def count(self, number: int, split: str) -> int:
        """Rows of an epoch, or of a held-out split."""
        if split == "train":
            return len(self._rows[number])
        return -(-len(self._held_out[number][split].words) // self.config.seq_len)

    def eval_example(self, split: str, example_id: int) -> dict[str, np.ndarray]:
        """The row that `eval` gives this id; its windows and negatives are always the same."""
        number, place = self.locate(split, example_id)
        stream = self._held_out[number][split]
        size, reach = self.config.seq_len, self.config.window
        frame = word_stream.framed(stream, place, self.count(number, split), size, reach)
        return self.example_of(frame, (EVAL, number, example_id))

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path and the words of the row that `eval` gave this id."""
        number, _ = self.locate(split, example_id)
        row = self.eval_example(split, example_id)
        return self.parts[number].path, self.tokenizer.decode(row["tokens"][row["radius"] > 0])

    def show(self, batch: Batch, num_examples: int, predictions: Any = None) -> str:
        """The first centres of rows, each with the words that it sees, and the first negatives."""
        named = dict(batch) | {"weights": np.asarray(batch["radius"]) > 0}
        return batches.show(named, num_examples, None, self.show_example)

    def show_example(self, example: dict[str, np.ndarray], predicted: Any) -> list[str]:
        """Lines of one row."""
        W, words, documents = self.config.window, example["contexts"], example["segment_ids"]
        lines = []
        for place in np.flatnonzero(example["radius"])[:8].tolist():
            far = int(example["radius"][place])
            around = [
                int(words[place + W + step])
                for step in range(-far, far + 1)
                if step and documents[place + W + step] == documents[place + W]
            ]
            centre = self.tokenizer.decode([example["tokens"][place]])
            lines.append(f"{centre} -> {self.tokenizer.decode(around)}")
        return [*lines, f"negatives  {self.tokenizer.decode(example['negatives'][0])}"]
