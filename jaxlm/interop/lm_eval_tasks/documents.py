"""What the tasks' `custom_dataset` functions give: bundled texts as data sets of the harness, in memory.

The last tenth of a corpus is `validation`, as in training (`data.val_fraction`); examples in prompts come from `train`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from jaxlm.data import bundled

VAL_FRACTION = 0.1
_MARKS = frozenset("[]{}$|\b")  # leftovers of the quiz program's own patterns


def choice(**_: Any) -> Mapping[str, Any]:
    """question, choices, answer (index), source."""
    return _splits("choice")


def trivia(**_: Any) -> Mapping[str, Any]:
    """question, answers, topic; without the lines that are patterns, not text, and without lines of verse."""

    def wanted(line: dict[str, Any]) -> bool:
        return line["topic"] != "bard" and not _MARKS & set(
            "".join([line["question"], *line["answers"]])
        )

    return _splits("trivia", wanted)


def technical(**_: Any) -> Mapping[str, Any]:
    """id, text."""
    return _splits("technical")


def _splits(
    name: str, wanted: Callable[[dict[str, Any]], bool] = lambda line: True
) -> Mapping[str, Any]:
    """The harness gives these functions a run's arguments and a task's metadata, which change nothing."""
    from datasets import Dataset, DatasetDict

    lines = [json.loads(line) for line in bundled.read(name).decode("utf-8").splitlines()]
    num_train = int(len(lines) * (1 - VAL_FRACTION) + 1e-6)
    parts = {"train": lines[:num_train], "validation": lines[num_train:]}
    return DatasetDict(
        {
            split: Dataset.from_list([line for line in part if wanted(line)])
            for split, part in parts.items()
        }
    )
