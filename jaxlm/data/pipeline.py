"""From a task's examples to this process's rows of each global batch, read ahead of the loop.

A batch is a function of (seed, step) alone, so the only state is the number of the next step.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import grain
import numpy as np


def train_batches(
    task: Any, seed: int, batch_size: int, process_index: int = 0, process_count: int = 1
) -> grain.MapDataset:
    """The training batches of one process.

    Args:
      task: a `core.types.Task`.
      seed: whole number that orders the data.
      batch_size: rows of the global batch, over all processes.
      process_index: this process.
      process_count: number of processes.

    Returns:
      A dataset whose element `step` is a dict of arrays [batch_size / process_count, ...]:
      consecutive rows of that step's global batch, so that all processes' rows, in order, are the
      batch of a single process.

    Raises:
      ValueError: the batch can't be divided among the processes.
    """
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the number of processes, "
            f"{process_count}"
        )
    return _Batches(task.train(seed), batch_size, process_index, process_count)


class _Batches(grain.MapDataset):
    """`examples.batch(b)[index::count]`, but asking for all rows of a batch at once."""

    def __init__(self, examples: grain.MapDataset, batch_size: int, index: int, count: int):
        super().__init__(examples)
        self._batch_size, self._rows = batch_size, batch_size // count
        self._first = index * self._rows

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size

    def __getitem__(self, step: Any) -> Any:
        if isinstance(step, slice):
            return self.slice(step)
        start = int(step) * self._batch_size + self._first
        examples = self._parent._getitems(range(start, start + self._rows))
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class BatchIterator:
    """Iterates over batches from a step on; a thread reads a few steps ahead.

    Args:
      batches: from `train_batches`.
      seed: the seed they were made with; recorded in `state`.
      digest: `task.info.digest`; recorded in `state`, so that a resume with other data can be
        refused.
      start_step: number of the first batch to deliver.
      prefetch: batches read ahead.

    Attributes:
      wait_seconds: how long `next` has waited for data, in all.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        *,
        seed: int = 0,
        digest: str = "",
        start_step: int = 0,
        prefetch: int = 4,
    ):
        self._batches, self._seed, self._digest, self._step = batches, seed, digest, start_step
        self.wait_seconds = 0.0
        self._queue: queue.Queue[Any] = queue.Queue(max(1, prefetch))
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._read, args=(start_step,), name="jaxlm-data", daemon=True
        )
        self._thread.start()

    def _read(self, step: int) -> None:
        while not self._closed.is_set():
            try:
                item = self._batches[step]
            except BaseException as error:  # raised again in the caller's thread
                item = error
            while not self._closed.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            step += 1

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._closed.is_set():
            raise ValueError("this BatchIterator is closed")
        started = time.perf_counter()
        item = self._queue.get()
        self.wait_seconds += time.perf_counter() - started
        if isinstance(item, BaseException):
            self.close()
            raise item
        self._step += 1
        return item

    def state(self) -> dict[str, Any]:
        """What determines the next batch to be delivered; JSON values."""
        return {"seed": self._seed, "step": self._step, "digest": self._digest}

    def close(self) -> None:
        """Stop the thread and wait for it; `next` then raises."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
