"""Plain language modelling: windows of a token stream, each token's target being the next one.

The tasks that corrupt or pack text derive from TextTask: a window's length, the example made of its
ids, and how it is shown are theirs to change. Not for pairs, labels or turns: those are other
tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch, SplitInfo, TaskInfo
from jaxlm.data import cache, corpus, shuffle, special_tokens
from jaxlm.data.tasks import batches

EVAL = 3  # purpose of the keys that evaluation examples are given, whatever the run's seed


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What to train on.

    Attributes:
      path: a file or glob (*.jsonl: records; all else: plain text), bundled:NAME,
        tfds:NAME[@SPLIT][:column], hf:NAME[:config][@SPLIT] (of the split train where none is named),
        tokens:DIR (made by jaxlm.prepare); or several joined by commas, each with @weight or none
        (then in proportion to their sizes).
      tokenizer: bytes, chars, gpt2, bpe:N (N ids, trained on the training part of path), words:N
        (its N most frequent words, data/word_tokenizer.py; not for models that write), or the path
        of a tokenizer.json, of a SentencePiece *.model or of a folder with one; init_from: that of
        the model which the run starts from.
      seq_len: tokens of a window; 0: the model's max_len, which the loop fills in.
      val_fraction: the last part, held out: in characters of a text, lines of a record file, tokens
        of a token file.
      eval_examples: evaluate on so many windows, evenly spread over a split; 0: on all.
      text_column: which entry of a record is the text.
    """

    path: str = "bundled:shakespeare"
    tokenizer: str = "bytes"
    seq_len: int = 0
    val_fraction: float = 0.1
    eval_examples: int = 0
    text_column: str = "text"

    def __post_init__(self):
        for name in ("path", "tokenizer", "text_column"):
            if not getattr(self, name):
                raise ValueError(f"data.{name} is empty: expected {name.replace('_', ' ')} as text")
        if self.seq_len < 0:
            raise ValueError(f"data.seq_len={self.seq_len} must be at least 1, or 0: model.max_len")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"data.val_fraction={self.val_fraction} must be in [0, 1)")
        if self.eval_examples < 0:
            raise ValueError(f"data.eval_examples={self.eval_examples} must be 0 (all) or more")


class TextTask:
    """Next-token prediction over one source or a mixture; see TextConfig."""

    Config: ClassVar[type] = TextConfig
    special_tokens: ClassVar[tuple[str, ...]] = ()  # appended where the tokenizer lacks them

    def __init__(self, config: TextConfig):
        """Open the data, tokenising what the cache doesn't hold.

        Raises:
          ValueError: something about path, tokenizer or text that the user can change.
        """
        self.config = config
        tokenizer, self.parts = corpus.open_parts(config)
        self.tokenizer = special_tokens.with_special_tokens(tokenizer, self.special_tokens)
        if not config.seq_len:
            raise ValueError(
                "data.seq_len=0 and the model has no max_len: give the window's length"
            )
        self.prepare_parts()
        self.info = self._make_info()

    def window_length(self) -> int:
        """How many tokens of the stream one window takes."""
        return self.config.seq_len

    def make_example(self, ids: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        """One example, without a batch axis, of fixed shapes.

        Args:
          ids: int32 [N + 1], the token before a window and the window's; N is window_length(),
            or less in the last evaluation window of a source.
          key: uint64 [1], this example's random bits (`shuffle.random_below`): another one in each
            epoch of training, always the same one in evaluation.

        Returns:
          Here {"tokens", "targets" int32 [T], "weights" float32 [T]}.
        """
        seq_len, size = self.config.seq_len, len(ids) - 1
        if size == seq_len:
            return {"tokens": ids[:-1], "targets": ids[1:], "weights": np.ones(size, np.float32)}
        example = {name: np.zeros(seq_len, np.int32) for name in ("tokens", "targets")}
        example["tokens"][:size], example["targets"][:size] = ids[:-1], ids[1:]
        return example | {"weights": (np.arange(seq_len) < size).astype(np.float32)}

    def settings(self) -> list[Any]:
        """What else than text, tokenizer and seq_len determines the examples; JSON values."""
        return []

    def prepare_parts(self) -> None:
        """Check, before anything is counted, that every source holds enough.

        Raises:
          ValueError: one is too short; the keys are named.
        """
        length = self.window_length()
        for part in self.parts:
            if part.num_train < length + 1:
                raise ValueError(
                    f"data.path={part.path} gives {part.num_train} training tokens: too short for "
                    f"one window of data.seq_len={self.config.seq_len}, which takes {length + 1}"
                )
            num_val = len(part.tokens) - part.num_train
            if self.config.val_fraction and num_val < length:
                raise ValueError(
                    f"the last data.val_fraction={self.config.val_fraction} of "
                    f"data.path={part.path} is {num_val} tokens: too short for one window of "
                    f"data.seq_len={self.config.seq_len}"
                )

    def _make_info(self) -> TaskInfo:
        splits = {}
        for name in ("train", "val") if self.config.val_fraction else ("train",):
            spans = [part.span(name) for part in self.parts]
            splits[name] = SplitInfo(
                num_examples=sum(self.count(n, name) for n in range(len(self.parts))),
                num_tokens=sum(stop - start for start, stop in spans),
                num_bytes=sum(part.num_bytes[name] for part in self.parts),
            )
        parts = [[part.digest, part.weight] for part in self.parts]
        made_with = [self.tokenizer.digest, self.config.seq_len, *self.settings()]
        digest = cache.digest([parts, *made_with])
        return TaskInfo(self.tokenizer.vocab_size, splits, self.tokenizer, digest=digest)

    def train(self, seed: int) -> Any:
        """Endless shuffled examples, as `make_example` gives them."""
        import grain

        datasets = [self.train_part(number, seed) for number in range(len(self.parts))]
        if len(datasets) == 1:
            return datasets[0].repeat()
        weights = [
            len(dataset) if part.weight is None else part.weight
            for dataset, part in zip(datasets, self.parts, strict=True)
        ]
        return grain.MapDataset.mix([dataset.repeat() for dataset in datasets], weights)

    def train_part(self, number: int, seed: int) -> Any:
        """One source's epoch, shuffled: a grain.MapDataset of examples."""
        from jaxlm.data.windows import Windows

        part = self.parts[number]
        return Windows(
            part.tokens, part.num_train, self.window_length(), (seed, number), self.make_example
        )

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Windows without overlap in which every token of the split is a target exactly once.

        The first window's first input is the token before the split. Sources follow one another;
        weights of a mixture play no part. The last window of a source and the last batch are filled
        with weight 0.

        Args:
          split: "train" or "val".
          batch_size: rows of every batch.

        Returns:
          What `make_example` gives, each with a batch axis, and id int64 [B] (-1 in filling rows).
        """
        total = self.num_windows(split)
        count = self.info.splits[split].num_examples
        ids = [number * count // total for number in range(total)]
        return batches.evaluation(lambda i: self.eval_example(split, i), ids, batch_size)

    def eval_example(self, split: str, example_id: int) -> dict[str, np.ndarray]:
        """The example that `eval` gives this id, without a batch axis."""
        return self.make_example(
            self._ids(split, example_id, with_context=True), shuffle.make_key(EVAL, example_id)
        )

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
        """The path and the text of the window that `eval` gave this id."""
        number, _ = self.locate(split, example_id)
        ids = self._ids(split, example_id, with_context=False)
        return self.parts[number].path, self.tokenizer.decode(ids)

    def count(self, number: int, split: str) -> int:
        """How many windows `eval` cuts one source's split into."""
        start, stop = self._targets(number, split)
        return -(-(stop - start) // self.window_length())

    def locate(self, split: str, example_id: int) -> tuple[int, int]:
        """The number of an example's source, and the example's number in it.

        Raises:
          ValueError: no such example.
        """
        left = example_id
        for number in range(len(self.parts)):
            count = self.count(number, split)
            if 0 <= left < count:
                return number, left
            left -= count
        raise ValueError(f'split "{split}" has no example {example_id}')

    def full_window(self, split: str, example_id: int) -> tuple[np.ndarray, int]:
        """An example's window and the token before it, for tasks that don't take shorter ones.

        Returns:
          int32 [N + 1], and how many of the window's N tokens the window before it has: those of
          a source's last window, which begins earlier than `_ids` has it.
        """
        number, place = self.locate(split, example_id)
        first, last = self._targets(number, split)
        wanted = first + place * self.window_length()
        start = min(wanted, last - self.window_length())
        ids = np.empty(self.window_length() + 1, np.int32)
        self.parts[number].tokens.fill(max(0, start - 1), ids)
        return ids, wanted - start

    def _targets(self, number: int, split: str) -> tuple[int, int]:
        """A split's tokens that have one before them: the stream's first has none."""
        start, stop = self.parts[number].span(split)
        return max(1, start), stop

    def _ids(self, split: str, example_id: int, with_context: bool) -> np.ndarray:
        number, place = self.locate(split, example_id)
        first, last = self._targets(number, split)
        start = first + place * self.window_length()
        stop = min(start + self.window_length(), last)
        ids = np.empty(stop - start + with_context, np.int32)
        self.parts[number].tokens.fill(start - with_context, ids)
        return ids

    def show(self, batch: Batch, num_examples: int, predictions: np.ndarray | None = None) -> str:
        """The first rows of a batch as a person reads them.

        Args:
          batch: from `train` or `eval`.
          num_examples: how many rows.
          predictions: int32 like the targets, what a model says; shown beside them.
        """
        return batches.show(batch, num_examples, predictions, self.show_example)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """Lines of one row: the text, then its first tokens, each with its target."""
        columns = [example[name] for name in ("tokens", "targets", "weights")]
        return [
            f"text     {self.tokenizer.decode(example['tokens'])!r}",
            f"targets  {batches.show_targets(self.tokenizer, *columns, predicted)}",
        ]
