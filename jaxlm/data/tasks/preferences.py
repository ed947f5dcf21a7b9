"""Two completions of a prompt, of which one is better. Verdicts on single completions are in tasks/verdicts.py."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import records
from jaxlm.data.completions import Completed, Completions, given
from jaxlm.data.tasks.chat import packed, show_segment
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split

_log = logging.getLogger(__name__)
SIDES = ("chosen", "rejected")
"""Of a line, in the order of a row's segments."""
NOTHING = Completed([], 0, 0)


@dataclasses.dataclass(frozen=True)
class PreferencesConfig(RecordConfig):
    """As RecordConfig; a *.tsv file without a header is prompt TAB chosen TAB rejected.

    With a chat template, prompts are what the user says and completions what the assistant does: texts, or lists of messages
    (texts by turns do as well), whose last is what is compared. Without one, all are texts as they stand, completions with
    the space before them.

    Attributes:
      prompt_column: what both complete; "": both begin with it, as lists of messages.
      chosen_column: the better completion.
      rejected_column: the worse one.
      chat_template: a file with a Jinja2 template, or the template itself; "": the tokenizer's own, where it has one.
      seq_len: tokens of a row, which holds both texts, each with its prompt. Pairs with more are left out, and counted in
        the log. 0: the model's max_len.
    """

    tokenizer: str = "init_from"
    prompt_column: str = "prompt"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    chat_template: str = ""
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        for name in ("chosen_column", "rejected_column"):
            if not getattr(self, name):
                raise ValueError(f"data.{name} is empty: expected the name of a column")
        if self.seq_len < 0:
            raise ValueError(f"data.seq_len={self.seq_len} must be at least 1, or 0: model.max_len")


class PreferencesTask(RecordTask):
    """Both texts of a line in one row, as segments that don't see each other. See PreferencesConfig.

    Rows have tokens, targets, segment_ids, positions int32 [T] and weights float32 [T], with segment 1 for the better text and
    2 for the worse, positions from 0 in both, and weights 1 at the completions' targets. A text's last token is read as well,
    with a target that weighs nothing: a reward stands there.
    """

    Config: ClassVar[type] = PreferencesConfig

    def __init__(self, config: PreferencesConfig):
        """Raises ValueError for a template that does not say which tokens are the assistant's, or data that can't be used."""
        self.completions = Completions(config.tokenizer, config.chat_template)
        super().__init__(config)

    def parse(self, row: records.Row, where: str) -> records.Record:
        """Both texts' tokens, and where the completions begin.

        Raises:
          ValueError: the line has not all columns, or not in a form that can be read.
        """
        if isinstance(row, list):
            records.check_columns(row, where, ("prompt", *SIDES))
            prompt, *sides = row
            return self.record(prompt, sides, where)
        columns = [getattr(self.config, f"{side}_column") for side in SIDES]
        sides = [
            given(row, column, where, f"data.{side}_column")
            for side, column in zip(SIDES, columns, strict=True)
        ]
        return self.record(self.prompt_of(row, where), sides, where)

    def prompt_of(self, row: dict[str, Any], where: str) -> Any:
        """The prompt of a line; [] where completions begin with it."""
        column = self.config.prompt_column
        return given(row, column, where, "data.prompt_column") if column else []

    def record(self, prompt: Any, sides: list[Any], where: str) -> records.Record:
        """A line's two texts; a side that is None is none."""
        numbers: dict[str, Any] = {"starts": [], "num_bytes": [0]}
        for name, value in zip(SIDES, sides, strict=True):
            try:
                ids, start, num_bytes = (
                    NOTHING if value is None else self.completions.read(prompt, value)
                )
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            numbers[name] = ids
            numbers["starts"].append(start)
            numbers["num_bytes"][0] += num_bytes
        return records.Record((), numbers=numbers)

    def kind(self) -> list[Any]:
        config = self.config
        columns = [config.prompt_column, config.chosen_column, config.rejected_column]
        return ["preferences", 1, *columns, *self.completions.identity()]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {}

    def prepare_splits(self) -> None:
        """Leave out pairs that don't fit into a row, or are no pairs, and say so.

        Raises:
          ValueError: no length.
        """
        self.tokenizer = self.completions.tokenizer  # with the template
        if not self.config.seq_len:
            raise ValueError("data.seq_len=0 and the model has no max_len: give a row's length")
        if (reader := self.completions.reader) is not None:
            _log.info("prompts are what the user says, by %s", reader.template.where)
        self.choose()

    def choose(self) -> None:
        """Leave out what can't be used."""
        limit = self.config.seq_len
        for name, split in self.splits.items():
            self.keep(
                name, self.lengths(split) <= limit, f"have more than data.seq_len={limit} tokens"
            )
            table, rows = self.splits[name]
            differ = [
                not np.array_equal(*(table.columns[side][row] for side in SIDES)) for row in rows
            ]
            self.keep(name, np.array(differ, bool), "hold the same text twice")

    def keep(self, name: str, kept: np.ndarray, why: str) -> None:
        """Leave out a split's other lines, and count them in the log."""
        table, rows = self.splits[name]
        if lost := int((~kept).sum()):
            _log.info(
                "%s: %d of %d %s lines %s and are left out",
                table.source.path, lost, len(rows), name, why,
            )  # fmt: skip
        self.splits[name] = Split(table, rows[kept])

    def sizes(self, split: Split) -> np.ndarray:
        """Tokens of every line's texts, int [N, 2]."""
        columns = [split.table.columns[side] for side in SIDES]
        return np.stack([column.lengths()[split.rows] for column in columns], 1)

    def lengths(self, split: Split) -> np.ndarray:
        return self.sizes(split).sum(1)

    def settings(self) -> list[Any]:
        return [self.config.seq_len]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """The row of a line, as the class says."""
        return self.make_row(table, row, SIDES, self.config.seq_len)

    def make_row(
        self, table: records.Table, row: int, sides: tuple[str, ...], seq_len: int
    ) -> dict[str, np.ndarray]:
        """A row of some sides of a line; a side without a text has no tokens."""
        texts = []
        for side in sides:
            ids = table.columns[side][row]
            start = table.columns["starts"][row][SIDES.index(side)]
            trained = np.arange(len(ids) + 1) >= start
            trained[len(ids) :] = False  # behind the last token nothing is known
            texts.append((np.append(ids, 0)[: len(ids) + bool(len(ids))], trained))
        return packed(texts, seq_len, seq_len)

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and both texts, TAB between them, of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        texts = [self.tokenizer.decode(table.columns[side][row]) for side in SIDES]
        return table.source.path, "\t".join(texts)

    def ask(self, text: str) -> list[int]:
        """What a model is given to complete a prompt."""
        return self.completions.ask(text)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """Both texts, with what is compared marked."""
        lines = []
        for segment, side in enumerate(SIDES, 1):
            if (example["segment_ids"] == segment).any():
                lines += show_segment(self.tokenizer, example, segment, side)
        return lines
