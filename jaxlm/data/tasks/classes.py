"""Names of classes and their numbers: of labels, of tags."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from jaxlm.data.tasks.records import Split

_log = logging.getLogger(__name__)


def check_labels(labels: Sequence[str]) -> None:
    """`data.labels` names each label once, as text.

    Raises:
      ValueError: it doesn't.
    """
    if not all(isinstance(one, str) and one for one in labels) or len({*labels}) < len(labels):
        raise ValueError(f"data.labels={labels} must be texts, each of them once and none empty")


def number_labels(
    splits: Mapping[str, Split],
    column: str,
    path: str,
    names: Sequence[str] = (),
    dropped: Collection[str] = (),
) -> dict[str, int]:
    """Label -> number: in the order of `names`, or sorted (by value where all are whole numbers).

    Args:
      splits: as `RecordTask.splits`.
      column: holds labels, as numbers of `Table.labels`; negative ones are none.
      path: data.path, for messages.
      names: data.labels, those that there may be; none: those of the training lines.
      dropped: labels that don't count, as data.min_count says.

    Raises:
      ValueError: there are fewer than two, or a line has another one.
    """
    found = {name: _labels(split, column) - set(dropped) for name, split in splits.items()}
    known = set(names) or found["train"]
    cut = "val" in splits and splits["val"].table is splits["train"].table
    hint = " (the last lines are held out: shuffle them, or name data.val_path)" if cut else ""
    if len(known) < 2:
        here = ", ".join(sorted(known)) or "none"
        rare = f"; data.min_count drops {len(dropped)} others" if dropped else ""
        raise ValueError(
            f"data.path={path} has fewer than two labels to tell apart in its training lines: {here}{rare}{hint}"
        )
    for name, labels in found.items():
        if missing := sorted(labels - known):
            source = splits[name].table.source
            lack = "are not in data.labels" if names else "no training line has"
            raise ValueError(
                f"{source.option}={source.path}: the {name} lines have labels that {lack}: {', '.join(missing)}"
                f"{'' if names else hint}"
            )
        if name != "train" and len(labels) == 1:
            _log.warning("%s: all %s lines have one label, %s%s", path, name, *labels, hint)
    if names:
        if empty := [label for label in names if label not in found["train"]]:
            _log.info("%s: no training line has the label: %s", path, ", ".join(empty))
        return {label: number for number, label in enumerate(names)}
    numeric = all(re.fullmatch(r"-?\d{1,18}", label) for label in found["train"])
    ordered = sorted(sorted(found["train"]), key=int if numeric else str)  # 1 and 01 too
    return {label: number for number, label in enumerate(ordered)}


def _labels(split: Split, column: str) -> set[str]:
    rows = split.table.columns[column]
    numbers = np.unique(np.concatenate([rows[row] for row in split.rows] or [np.zeros(0, int)]))
    return {split.table.labels[number] for number in numbers if number >= 0}
