"""What the tasks over lines of files share: splits, shuffling, evaluation (pairs, labels, tags)."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.core.types import Batch, SplitInfo, TaskInfo
from jaxlm.data import cache, corpus, records, special_tokens
from jaxlm.data.tasks import batches

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RecordConfig:
    """Where the lines are.

    Attributes:
      path: a file or glob, *.jsonl, *.csv or *.tsv; bundled:NAME; tfds:NAME[@SPLIT] or
        hf:NAME[:config][@SPLIT], whose split is train where none is named. Fields that end in
        _column say what its columns are called; a *.tsv file may do without such names.
      val_path: the lines for validation, as in tfds:wmt16_translate/de-en@validation; "": the last
        val_fraction of path's.
      test_path: lines for split "test", which a run scores once, at its end; "": none.
      tokenizer: bytes, chars, gpt2, bpe:N (N ids, trained on the training lines of path), words:N
        (their N most frequent words, data/word_tokenizer.py; not for models that write), or the
        path of a tokenizer.json, of a SentencePiece *.model or of a folder with one; init_from: that
        of the model which the run starts from.
      val_fraction: the last part of path's lines, held out, where there is no val_path.
      eval_examples: evaluate on so many lines, evenly spread over a split; 0: on all.
    """

    path: str = ""
    val_path: str = ""
    test_path: str = ""
    tokenizer: str = "bytes"
    val_fraction: float = 0.1
    eval_examples: int = 0

    def __post_init__(self):
        for name in ("path", "tokenizer"):
            if not getattr(self, name):
                raise ValueError(f"data.{name} is empty: expected {name} as text")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"data.val_fraction={self.val_fraction} must be in [0, 1)")
        if self.eval_examples < 0:
            raise ValueError(f"data.eval_examples={self.eval_examples} must be 0 (all) or more")

    def named_columns(self) -> dict[str, str]:
        """The columns that a line must have, each with the key that names it."""
        keys = [one.name for one in dataclasses.fields(self) if one.name.endswith("_column")]
        return {
            name: f"data.{key}" for key in keys for name in getattr(self, key).split("+") if name
        }


class Split(NamedTuple):
    """The lines of a table that make one split."""

    table: records.Table
    rows: np.ndarray


class RecordTask:
    """Lines of files, each an example; a task says what a line holds and what a model gets of it."""

    Config: ClassVar[type] = RecordConfig
    special_tokens: ClassVar[tuple[str, ...]] = ()  # appended where the tokenizer lacks them
    offsets: ClassVar[Mapping[str, int]] = {}  # columns of characters of texts: see records.fetch
    num_outputs: ClassVar[int] = 0  # see TaskInfo

    def __init__(self, config: RecordConfig):
        """Open the data, tokenising what the cache doesn't hold.

        Raises:
          ValueError: something about paths, tokenizer or lines that the user can change.
        """
        self.config = config
        paths = {"train": config.path, "val": config.val_path, "test": config.test_path}
        opened = {
            name: records.Source(
                "data.path" if name == "train" else f"data.{name}_path",
                path,
                self.parse,
                self.kind(),
                "train" if name == "train" else "",
                config.named_columns(),
            )
            for name, path in paths.items()
            if path
        }
        tokenizer = corpus.make_tokenizer(
            config.tokenizer,
            [opened["train"]],
            [opened["train"].scan()],
            0.0 if config.val_path else config.val_fraction,
        )
        self.tokenizer = special_tokens.with_special_tokens(tokenizer, self.special_tokens)
        self.special_ids = self.tokenizer.special_ids()
        tables = {
            name: records.fetch(source, tokenizer, self.columns, self.offsets)
            for name, source in opened.items()
        }
        self.splits = self._cut(tables)
        self.prepare_splits()
        for name, split in self.splits.items():
            if not len(split.rows):
                raise ValueError(f"data.path={config.path}: no line is left for split {name!r}")
        self.info = self._make_info()

    def _cut(self, tables: dict[str, records.Table]) -> dict[str, Split]:
        splits = {name: Split(table, np.arange(len(table))) for name, table in tables.items()}
        if "val" not in splits and self.config.val_fraction:
            table, rows = splits["train"]
            count = corpus.train_units(len(rows), self.config.val_fraction)
            splits["train"], splits["val"] = Split(table, rows[:count]), Split(table, rows[count:])
        return {name: splits[name] for name in ("train", "val", "test") if name in splits}

    def parse(self, row: records.Row, where: str) -> records.Record:
        """What a line holds; `where` is what messages call it."""
        raise NotImplementedError

    def kind(self) -> list[Any]:
        """What `parse` and `columns` depend on, as JSON values."""
        raise NotImplementedError

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        """What is kept of a line: see records.Columns."""
        raise NotImplementedError

    def prepare_splits(self) -> None:
        """Choose among the lines, and check them, before they are counted."""

    def lengths(self, split: Split) -> np.ndarray:
        """Tokens that a model is given of each line of a split, int [N]."""
        raise NotImplementedError

    def settings(self) -> list[Any]:
        """What else than lines and tokenizer determines the examples, as JSON values."""
        raise NotImplementedError

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """One line as an example, without a batch axis, of fixed shapes."""
        raise NotImplementedError

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """An example as lines that a person reads."""
        raise NotImplementedError

    def _make_info(self) -> TaskInfo:
        splits, digests = {}, []
        for name, split in self.splits.items():
            num_bytes = split.table.columns["num_bytes"].values()[split.rows].sum()
            num_tokens = self.lengths(split).sum()
            splits[name] = SplitInfo(len(split.rows), int(num_tokens), int(num_bytes))
            rows = hashlib.sha256(split.rows.tobytes()).hexdigest()
            digests.append([name, split.table.digest, rows])
        digest = cache.digest([digests, self.tokenizer.digest, self.settings()])
        size = self.tokenizer.vocab_size
        return TaskInfo(
            size, splits, self.tokenizer, self.labels(), digest, self.num_outputs, self.scale()
        )

    def labels(self) -> tuple[str, ...]:
        """Class names, in id order."""
        return ()

    def scale(self) -> tuple[float, float]:
        """Mean and deviation of numbers to predict."""
        return 0.0, 1.0

    def train(self, seed: int) -> Any:
        """Endless examples, each line once an epoch, in another order each time."""
        from jaxlm.data.windows import Shuffled

        table, rows = self.splits["train"]
        example = lambda place: self.make_example(table, int(rows[place]))  # noqa: E731
        return Shuffled(example, len(rows), (seed,)).repeat()

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Every line of a split once, in order; the last batch is filled with weight 0.

        Args:
          split: "train", "val" or "test", where there is one.
          batch_size: rows of every batch.

        Returns:
          What `make_example` gives, each with a batch axis, and id int64 [B] (-1 in filling rows).

        Raises:
          ValueError: no such split.
        """
        ids = self.chosen_ids(split)
        table, rows = self.splits[split]
        return batches.evaluation(lambda i: self.make_example(table, int(rows[i])), ids, batch_size)

    def chosen_ids(self, split: str) -> list[int]:
        """The lines of a split that are evaluated on.

        Raises:
          ValueError: no such split.
        """
        if split not in self.splits:
            raise ValueError(f'no split "{split}"; accepted: {", ".join(self.splits)}')
        count = len(self.splits[split].rows)
        total = min(count, self.config.eval_examples or count)
        return [number * count // total for number in range(total)]

    def show(self, batch: Batch, num_examples: int, predictions: np.ndarray | None = None) -> str:
        """The first rows of a batch as a person reads them: see batches.show."""
        return batches.show(batch, num_examples, predictions, self.show_example)

    def row(self, split: str, example_id: int) -> tuple[records.Table, int]:
        """Where the example that `eval` gave this id is.

        Raises:
          ValueError: no such example.
        """
        if split not in self.splits or not 0 <= example_id < len(self.splits[split].rows):
            raise ValueError(f'split "{split}" has no example {example_id}')
        table, rows = self.splits[split]
        return table, int(rows[example_id])

    def log_cut(self, what: str, length: int, lengths: np.ndarray) -> None:
        """Say how many lines are longer than the limit that cuts them."""
        if cut := int((lengths > length).sum()):
            _log.info(
                "%s: %d of %d lines are longer than %s=%d and are cut (the longest has %d tokens)",
                self.config.path, cut, len(lengths), what, length, lengths.max(),
            )  # fmt: skip


def check_seq_len(seq_len: int, known: bool = False) -> int:
    """A length that holds more than [CLS] and [SEP]; 0 where it is not yet known.

    Raises:
      ValueError: it doesn't.
    """
    if known and not seq_len:
        raise ValueError("data.seq_len=0 and the model has no max_len: give an example's length")
    if seq_len and seq_len < 4:
        raise ValueError(f"data.seq_len={seq_len} must be at least 4, or 0: model.max_len")
    return seq_len
