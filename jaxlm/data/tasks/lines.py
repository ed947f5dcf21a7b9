"""Whole short texts, one a row: sentences, verses, titles. Each is read from <eos> to its own <eos>.

Not for long documents, which are cut into windows (text.py) or share them (packed.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import TaskInfo
from jaxlm.data import reading, records, special_tokens
from jaxlm.data.tasks import batches
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split, check_seq_len


@dataclasses.dataclass(frozen=True)
class LinesConfig(RecordConfig):
    """As RecordConfig; of a *.tsv file without a header the first column is the text.

    Attributes:
      text_column: the text.
      seq_len: tokens of a text, <eos> included; longer ones are cut, and counted in the log; 0: the
        model's max_len, which the loop fills in.
    """

    text_column: str = "text"
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.text_column:
            raise ValueError("data.text_column is empty: expected the name of a column")
        check_seq_len(self.seq_len)


class LinesTask(RecordTask):
    """Every token of a text, and its <eos>, from those before it. See LinesConfig."""

    Config: ClassVar[type] = LinesConfig

    def __init__(self, config: LinesConfig):
        """As RecordTask; also raises ValueError where no length is known."""
        self._length = check_seq_len(config.seq_len, known=True)
        super().__init__(config)

    def parse(self, row: records.Row, where: str) -> records.Record:
        """The text.

        Raises:
          ValueError: the line has none.
        """
        if isinstance(row, list):
            return records.Record((row[0],))
        return records.Record((reading.record_text(row, self.config.text_column, where),))

    def kind(self) -> list[Any]:
        return ["lines", self.config.text_column]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {"text": ids[0]}

    def prepare_splits(self) -> None:
        """Report what is cut.

        Raises:
          ValueError: the tokenizer marks no end of a text.
        """
        special_tokens.require_eos(self.tokenizer, self.config.tokenizer)
        lengths = np.concatenate([self._full_lengths(split) for split in self.splits.values()])
        self.log_cut("data.seq_len", self._length, lengths)

    def _full_lengths(self, split: Split) -> np.ndarray:
        return split.table.columns["text"].lengths()[split.rows] + 1

    def lengths(self, split: Split) -> np.ndarray:
        return np.minimum(self._full_lengths(split), self._length)

    def settings(self) -> list[Any]:
        return [self._length]

    def _make_info(self) -> TaskInfo:
        return dataclasses.replace(super()._make_info(), whole_texts=True)

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"tokens", "targets" int32 [T]; "weights" float32 [T], 0 behind the text}; a cut text has no <eos>."""
        ids = [self.tokenizer.eos_id, *table.columns["text"][row], self.tokenizer.eos_id]
        size = min(len(ids) - 1, self._length)
        example = {name: np.zeros(self._length, np.int32) for name in ("tokens", "targets")}
        example["tokens"][:size], example["targets"][:size] = ids[:size], ids[1 : size + 1]
        return example | {"weights": (np.arange(self._length) < size).astype(np.float32)}

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path and the text of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        return table.source.path, self.tokenizer.decode(table.columns["text"][row])

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The text, then its first tokens, each with its target."""
        scored = example["weights"] > 0
        columns = [example[name][scored] for name in ("tokens", "targets", "weights")]
        said = None if predicted is None else predicted[scored]
        return [
            f"text     {self.tokenizer.decode(columns[1])!r}",
            f"targets  {batches.show_targets(self.tokenizer, *columns, said)}",
        ]
