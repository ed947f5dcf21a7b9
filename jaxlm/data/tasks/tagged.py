"""Words with a tag each: a token classifier's examples.

Not for a label for the whole text (tasks/labelled.py).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import reading, records, special_tokens, tables
from jaxlm.data.tasks.classes import check_labels, number_labels
from jaxlm.data.tasks.records import (
    RecordConfig,
    RecordTask,
    Split,
    check_seq_len,
)

_log = logging.getLogger(__name__)
_NO_TAG = -1  # of every piece of a word but the first


@dataclasses.dataclass(frozen=True)
class TaggedConfig(RecordConfig):
    """As RecordConfig, but a *.tsv file needs its header.

    Attributes:
      tokens_column: the list of words; of a text, its parts between spaces.
      tags_column: the list of their tags, as long.
      labels: the tags that there may be, in the order of their numbers; (): those of the training
        lines, sorted. A line with another one is refused.
      seq_len: tokens of an example, [CLS] and [SEP] included; longer ones are cut, and counted in
        the log; 0: the model's max_len, which the loop fills in.
    """

    path: str = "bundled:ner"
    tokens_column: str = "tokens"
    tags_column: str = "tags"
    labels: tuple[str, ...] = ()
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_labels(self.labels)
        check_seq_len(self.seq_len)


class TaggedTask(RecordTask):
    """The tag of every word, at its first piece: [CLS] pieces [SEP]; see TaggedConfig.

    Words are tokenised one by one, each but the first with a space before it; where the tokenizer
    makes a piece of that space, the tag stands on the next one.
    """

    Config: ClassVar[type] = TaggedConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.BERT

    def parse(self, row: records.Row, where: str) -> records.Record:
        """The words and their tags.

        Raises:
          ValueError: the line has not both, or not as many.
        """
        if isinstance(row, list):
            raise ValueError(
                f"{where}: words with tags are read by the names of their columns, and this *.tsv file has no header "
                f"with {self.config.tokens_column} and {self.config.tags_column}"
            )
        lists = []
        for name in ("tokens_column", "tags_column"):
            column = getattr(self.config, name)
            values = tables.entries(row, column, where, f"data.{name}")
            if not all(isinstance(v, str) for v in values):
                raise ValueError(f"{where}: column {column!r} is no list of texts; set data.{name}")
            lists.append([reading.encodable(v, f"{where}: column {column!r}") for v in values])
        words, tags = lists
        if len(words) != len(tags) or not words:
            raise ValueError(f"{where} has {len(words)} words and {len(tags)} tags")
        for tag in tags:
            records.label(tag, where, f"an entry of column {self.config.tags_column!r}")
        return records.Record((words[0], *(f" {word}" for word in words[1:])), tuple(tags))

    def kind(self) -> list[Any]:
        return ["tagged", self.config.tokens_column, self.config.tags_column]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        tags = []
        for pieces, label in zip(ids, labels, strict=True):
            tags.append(np.full(len(pieces), _NO_TAG))
            if len(pieces):
                tags[-1][self._first(pieces)] = label
        return {
            "text": np.concatenate(ids),
            "tags": np.concatenate(tags),
            "num_words": [len(labels)],
        }

    def _first(self, pieces: np.ndarray) -> int:
        return int(len(pieces) > 1 and np.array_equal(pieces[:1], self._space))

    @functools.cached_property
    def _space(self) -> np.ndarray:
        return self.tokenizer.encode(" ")

    def prepare_splits(self) -> None:
        """Number the tags, and report what is cut.

        Raises:
          ValueError: no length, fewer than two tags, or one that training lacks.
        """
        self._length = check_seq_len(self.config.seq_len, known=True)
        self._numbers = number_labels(self.splits, "tags", self.config.path, self.config.labels)
        for split in self.splits.values():
            columns = split.table.columns
            words = int(columns["num_words"].values().sum())
            if lost := words - int((columns["tags"].values() != _NO_TAG).sum()):
                _log.info(
                    "%s: of %d words, %d have no piece in data.tokenizer=%s and are left out",
                    split.table.source.path, words, lost, self.config.tokenizer,
                )  # fmt: skip
        lengths = [self._full_lengths(split) for split in self.splits.values()]
        self.log_cut("data.seq_len", self._length, np.concatenate(lengths))

    def labels(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def _full_lengths(self, split: Split) -> np.ndarray:
        return split.table.columns["text"].lengths()[split.rows] + 2

    def lengths(self, split: Split) -> np.ndarray:
        return np.minimum(self._full_lengths(split), self._length)

    def settings(self) -> list[Any]:
        return [self._length, *self._numbers]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"tokens", "segment_ids", "targets" int32 [T], "weights" float32 [T]}."""
        ids = self.special_ids
        text = table.columns["text"][row][: self._length - 2]
        tags = table.columns["tags"][row][: self._length - 2]
        end = len(text) + 1
        example = {name: np.zeros(self._length, np.int32) for name in ("targets", "segment_ids")}
        example["tokens"] = np.full(self._length, ids["[PAD]"], np.int32)
        example["weights"] = np.zeros(self._length, np.float32)
        example["tokens"][0], example["tokens"][end] = ids["[CLS]"], ids["[SEP]"]
        example["tokens"][1:end] = text
        example["segment_ids"][: end + 1] = 1
        places = np.flatnonzero(tags != _NO_TAG)
        example["targets"][places + 1] = [self._numbers[table.labels[tag]] for tag in tags[places]]
        example["weights"][places + 1] = 1
        return example

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path and the text of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        return table.source.path, self.tokenizer.decode(table.columns["text"][row])

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """Every word behind its tag, and the predicted one where it differs."""
        ids, labels, lines = example["tokens"], self.labels(), []
        places = np.flatnonzero(example["weights"])
        end = int(example["segment_ids"].sum()) - 1
        for place, stop in zip(places, [*places[1:], end], strict=False):  # none in filling
            wanted = labels[example["targets"][place]]
            word = self.tokenizer.decode(ids[place:stop]).strip()
            if predicted is not None and predicted[place] != example["targets"][place]:
                wanted += f" (predicted {labels[predicted[place]]})"
            lines.append(f"{word!r} {wanted}")
        return [
            f"text     {self.tokenizer.decode(ids[: end + 1])!r}",
            f"tags     {'  '.join(lines)}",
        ]
