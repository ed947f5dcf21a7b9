"""One text from another, line by line: translation, summaries, answers.

Not for texts with a label (tasks/labelled.py), nor for corrupted text (tasks/spans.py).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch
from jaxlm.data import corruption, reading, records, special_tokens
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PairsConfig(RecordConfig):
    """As RecordConfig, and the lengths; a *.tsv file without a header is source TAB target.

    Attributes:
      source_column: the source; in a record of tfds: or hf: columns are the languages (en; where they
        are entries of one column, translation.en).
      target_column: the target; of a list of accepted ones the first is learnt, and scores are told all.
      source_prefix: what stands before every source, as "summarize: " (T5's way to name a task).
      source_len: tokens of a source, <eos> included; longer ones are cut, and counted in the log.
      target_len: the same of a target.
    """

    path: str = "bundled:en-de"
    source_column: str = "source"
    target_column: str = "target"
    source_prefix: str = ""
    source_len: int = 128
    target_len: int = 128

    def __post_init__(self):
        super().__post_init__()
        for name in ("source_len", "target_len"):
            if getattr(self, name) < 2:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least 2: <eos> too")


class PairsTask(RecordTask):
    """The target of every line, given its source; both end with <eos>. See PairsConfig."""

    Config: ClassVar[type] = PairsConfig

    def parse(self, row: records.Row, where: str) -> records.Record:
        """Source, target, and further accepted targets.

        Raises:
          ValueError: the line has not both.
        """
        if isinstance(row, dict):
            config, option = self.config, "data.target_column"
            source = reading.record_text(row, config.source_column, where, "data.source_column")
            name = config.target_column
            found = reading.record_column(row, name, where, option)
            if found == []:
                raise ValueError(f"{where}: column {name!r} is an empty list, no target")
            found = found if isinstance(found, list) else [found]
            targets = [reading.record_text({name: one}, name, where, option) for one in found]
        else:
            records.check_columns(row, where, ("source", "target"))
            source, *targets = row
        return records.Record((self.config.source_prefix + source, *targets))

    def kind(self) -> list[Any]:
        config = self.config
        return ["pairs", config.source_column, config.target_column, config.source_prefix]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {"source": ids[0], "target": ids[1]}

    def prepare_splits(self) -> None:
        """Report what is cut, and what is empty: such pairs stay, as what they are.

        Raises:
          ValueError: the tokenizer marks no end of a text.
        """
        special_tokens.require_eos(self.tokenizer, self.config.tokenizer)
        self._lines: dict[str, records.Lines] = {}
        lengths = np.concatenate([_lengths(split) for split in self.splits.values()])
        for number, name in enumerate(("source", "target")):
            limit = getattr(self.config, f"{name}_len")
            self.log_cut(f"data.{name}_len", limit, lengths[:, number])
            if empty := int((lengths[:, number] == 1).sum()):
                _log.info(
                    "%s: %d of %d lines have no %s", self.config.path, empty, len(lengths), name
                )

    def sizes(self, split: Split) -> np.ndarray:
        """Tokens of each pair's source and target as they are given to a model, int [N, 2]."""
        return np.minimum(_lengths(split), [self.config.source_len, self.config.target_len])

    def lengths(self, split: Split) -> np.ndarray:
        return self.sizes(split).sum(1)

    def settings(self) -> list[Any]:
        return [self.config.source_len, self.config.target_len]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"source", "source_segment_ids" [S], "tokens", "targets" int32 [T], "weights" [T]}."""
        source, source_size = self._ended(table.columns["source"][row], self.config.source_len)
        targets, size = self._ended(table.columns["target"][row], self.config.target_len)
        tokens = corruption.shifted_right(targets)
        tokens[size:] = 0
        return {
            "source": source,
            "source_segment_ids": (np.arange(len(source)) < source_size).astype(np.int32),
            "tokens": tokens,
            "targets": targets,
            "weights": (np.arange(len(targets)) < size).astype(np.float32),
        }

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As RecordTask.eval, with the raw texts of the lines: `input` and `reference` [B], a text or the list of several.

        They are for people and scores, not for a model: uncut, and as they stand in the file.
        """
        table, rows = self.splits.get(split, (None, None))
        batches = super().eval(split, batch_size)
        return (batch | self._raw(table, rows, batch["id"]) for batch in batches)

    def _raw(self, table: records.Table, rows: np.ndarray, ids: np.ndarray) -> Batch:
        """Source and targets of the examples with these ids; "" for -1."""
        lines = self._lines.setdefault(table.digest, records.Lines(table.source))
        raw = {name: np.full(len(ids), "", object) for name in ("input", "reference")}
        for place in np.flatnonzero(ids >= 0):
            raw["input"][place], *targets = lines[int(rows[ids[place]])]
            raw["reference"][place] = targets if len(targets) > 1 else targets[0]
        return raw

    def _ended(self, ids: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
        """The ids, cut, with <eos>, filled up with 0; and how many they are."""
        size = min(len(ids) + 1, limit)
        row = np.zeros(limit, np.int32)
        row[: size - 1] = ids[: size - 1]
        row[size - 1] = self.tokenizer.eos_id
        return row, size

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and source TAB target, of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        texts = [self.tokenizer.decode(table.columns[name][row]) for name in ("source", "target")]
        return table.source.path, "\t".join(texts)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """Source and target as text, and what was predicted at each place of the target."""
        scored = example["weights"] > 0
        lines = [("source", example["source"][example["source_segment_ids"] > 0])]
        lines += [("target", example["targets"][scored])]
        if predicted is not None:
            lines.append(("predicted", predicted[scored]))
        return [f"{name:<9} {self.tokenizer.decode(ids)!r}" for name, ids in lines]


def _lengths(split: Split) -> np.ndarray:
    """Tokens of each pair's source and target, uncut, with <eos>, int [N, 2]."""
    columns = [split.table.columns[name] for name in ("source", "target")]
    return np.stack([column.lengths()[split.rows] + 1 for column in columns], 1)
