"""Completions of prompts, each good or bad by itself, as people's thumbs say it. Pairs are in tasks/preferences.py."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import TaskInfo
from jaxlm.data import records
from jaxlm.data.completions import given
from jaxlm.data.tasks.preferences import SIDES, PreferencesConfig, PreferencesTask

LABELS = {1: 0, "1": 0, "true": 0, 0: 1, "0": 1, "false": 1}
"""What a label may be (True is 1, False is 0) -> the side that its completion is on."""


@dataclasses.dataclass(frozen=True)
class VerdictsConfig(PreferencesConfig):
    """As PreferencesConfig; lines have a prompt, a completion and a label, or are pairs, two verdicts each.

    Attributes:
      completion_column: the completion.
      label_column: true, 1 or false, 0: whether it is good. Lines without this column are pairs.
      seq_len: tokens of a row of training, which holds one text; of evaluation twice as many, for both texts of a pair.
    """

    completion_column: str = "completion"
    label_column: str = "label"

    def named_columns(self) -> dict[str, str]:
        keys = ("prompt_column", "completion_column", "label_column")
        return {getattr(self, key): f"data.{key}" for key in keys if getattr(self, key)}


class VerdictsTask(PreferencesTask):
    """One text a row of training, as PreferencesTask's segment 1, with `desirable` int32 [], 1 or 0.

    Rows of evaluation are lines: a good text is segment 1 and a bad one segment 2, so that those of a pair can be compared.
    """

    Config: ClassVar[type] = VerdictsConfig

    def parse(self, row: records.Row, where: str) -> records.Record:
        """One text's tokens, or both of a pair.

        Raises:
          ValueError: as PreferencesTask, or a label that is neither true nor false.
        """
        config = self.config
        if isinstance(row, list):
            records.check_columns(row, where, ("prompt", "completion", "label"))
            prompt, completion, label = row
        elif config.label_column in row:
            prompt = self.prompt_of(row, where)
            completion = given(row, config.completion_column, where, "data.completion_column")
            label = row[config.label_column]
        else:
            return super().parse(row, where)
        label = label.lower() if isinstance(label, str) else label
        if not isinstance(label, bool | int | str) or label not in LABELS:
            raise ValueError(
                f"{where}: column {config.label_column!r} is {label!r}: expected true or false, 1 or 0"
            )
        sides: list[Any] = [None, None]
        sides[LABELS[label]] = completion
        return self.record(prompt, sides, where)

    def kind(self) -> list[Any]:
        return [
            "verdicts",
            self.config.completion_column,
            self.config.label_column,
            *super().kind(),
        ]

    def choose(self) -> None:
        """Leave out lines with a text that is too long, and number the texts of training."""
        limit = self.config.seq_len
        for name, split in self.splits.items():
            fits = self.sizes(split).max(1, initial=0) <= limit
            self.keep(name, fits, f"have a text of more than data.seq_len={limit} tokens")
        self._verdicts = np.argwhere(self.sizes(self.splits["train"]) > 0)  # [N, 2]: line, side

    def _make_info(self) -> TaskInfo:
        """As RecordTask's, but an example of training is a text."""
        info = super()._make_info()
        train = dataclasses.replace(info.splits["train"], num_examples=len(self._verdicts))
        return dataclasses.replace(info, splits={**info.splits, "train": train})

    def train(self, seed: int) -> Any:
        """Endless texts, each once an epoch, in another order each time."""
        from jaxlm.data.windows import Shuffled

        return Shuffled(self._verdict, len(self._verdicts), (seed,)).repeat()

    def _verdict(self, place: int) -> dict[str, np.ndarray]:
        table, rows = self.splits["train"]
        line, side = self._verdicts[place]
        row = self.make_row(table, int(rows[line]), (SIDES[side],), self.config.seq_len)
        return row | {"desirable": np.array(side == 0, np.int32)}

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """The row of a line in evaluation."""
        return self.make_row(table, row, SIDES, 2 * self.config.seq_len)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The text, with what is judged marked, and whether it is good."""
        lines = super().show_example(example, predicted)
        if "desirable" in example:
            verdict = "good" if example["desirable"] else "bad"
            lines[0] = lines[0].replace("chosen 1", verdict)
        return lines
