"""Which of several tasks each training example is of, drawn by proportions that may change on the way.

Importing this imports grain. What a task's examples are is the tasks' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from jaxlm.data import shuffle

_CHOICE, _TASK = 5, 6  # purposes of keys, behind those of windows.py and of an evaluation
_BLOCK = 1 << 14  # examples whose tasks are drawn at once


def proportions(rates: Sequence[float], temperature: float = 1.0) -> np.ndarray:
    """Shares of tasks, float64 [K], that sum to 1: rates to the power of 1 / temperature.

    Args:
      rates: 0 or more: a task's number of examples, at most a limit, or a weight.
      temperature: above 1 makes shares more alike.

    Source: Raffel et al. 2020, T5, arXiv:1910.10683, section 3.5.2.
    """
    raised = np.asarray(rates, np.float64) ** (1 / temperature)
    return raised / raised.sum()


class Choices:
    """The task of every training example, and how many of that task came before it.

    A function of (key, number of the example) alone: each example draws by itself.

    Args:
      first: shares at the first example, [K].
      last: shares from example `over` on, reached in a straight line; `over` 0: `first` throughout.
      over: a number of examples.
      key: words that make the random numbers.
    """

    def __init__(
        self, first: Sequence[float], last: Sequence[float], over: int, key: Sequence[int]
    ):
        self._ends = np.cumsum(first), np.cumsum(last)
        self._over, self._key = over, shuffle.make_key(*key, _CHOICE)
        self._before = [np.zeros(len(first), np.int64)]
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None

    def drawn(self, places: np.ndarray) -> np.ndarray:
        """The tasks of these examples, int64 [N]."""
        bits = shuffle.mix64(self._key ^ places.astype(np.uint64)) >> np.uint64(11)
        uniform = bits.astype(np.float64) * 2.0**-53
        share = np.minimum(1.0, places / self._over)[:, None] if self._over else np.zeros((1, 1))
        first, last = self._ends
        ends = (1 - share) * first[None] + share * last[None]
        return (uniform[:, None] >= ends[:, :-1]).sum(1)

    def __call__(self, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The tasks of these examples, and of each how many examples of its task are before it, int64 [N]."""
        places = np.asarray(places, np.int64)
        tasks, ranks = np.empty_like(places), np.empty_like(places)
        blocks, inside = np.divmod(places, _BLOCK)
        for block in np.unique(blocks).tolist():
            mine = blocks == block
            found, counted = self._of(block)
            tasks[mine], ranks[mine] = found[inside[mine]], counted[inside[mine]]
        return tasks, ranks

    def _of(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        if self._block is None or self._block[0] != block:
            for earlier in range(len(self._before) - 1, block):
                counts = np.bincount(self._all(earlier), minlength=len(self._before[0]))
                self._before.append(self._before[-1] + counts)
            tasks = self._all(block)
            ranks = np.empty_like(tasks)
            for task, before in enumerate(self._before[block].tolist()):
                own = tasks == task
                ranks[own] = before + np.arange(own.sum())
            self._block = block, tasks, ranks
        return self._block[1:]

    def _all(self, block: int) -> np.ndarray:
        return self.drawn(np.arange(block * _BLOCK, (block + 1) * _BLOCK))


def task_seed(seed: int, number: int) -> int:
    """The seed of a task's own order: tasks of one length go through their examples in different ones."""
    return int(shuffle.make_key(seed, _TASK, number)[0])


class Mixed(grain.MapDataset):
    """Endless examples of several endless datasets, each in its own order, as `choices` says.

    Args:
      datasets: one a task.
      choices: which of them each example is of.
    """

    def __init__(self, datasets: Sequence[grain.MapDataset], choices: Choices):
        super().__init__(list(datasets))
        self._datasets, self._choices = list(datasets), choices

    def __len__(self) -> int:
        return min(map(len, self._datasets))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self._getitems([index])[0]

    def _getitems(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        tasks, ranks = self._choices(indices)
        found: list[Any] = [None] * len(tasks)
        for task, dataset in enumerate(self._datasets):
            places = np.flatnonzero(tasks == task)
            if len(places):
                examples = dataset._getitems(ranks[places].tolist())
                for place, example in zip(places.tolist(), examples, strict=True):
                    found[place] = example
        return found
