"""Pairs packed into rows, none of which sees another: a target given its source, several of them at once.

Where tasks/pairs.py gives each pair a row of its own, most of it filling, here a row of training
holds as many as fit. Evaluation stays one pair a row, so that the texts written from it can be scored.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from jaxlm.core.types import TaskInfo
from jaxlm.data import corruption, packing, records
from jaxlm.data.tasks.pairs import PairsTask
from jaxlm.data.tasks.records import Split

_log = logging.getLogger(__name__)


class PackedPairsTask(PairsTask):
    """As PairsTask, with training rows that hold several pairs, each a segment of its own.

    Sources lie within source_len and targets within target_len, cut as PairsTask cuts them. What
    shares a row is planned once (packing.py), whatever the seed: from the longest pair down, so that
    a row holds a few long pairs or many short ones, with short ones in the gaps. The rows are
    shuffled each epoch. A row's examples have

      source, source_segment_ids, source_positions int32 [S]
      tokens, targets, segment_ids, positions int32 [T]; weights float32 [T], 0 where it is filled up

    with segments 1, 2, ... for the pairs of a row, 0 where it is filled up, and positions from 0 in
    every one. The side whose texts are short for its length is filled less: `fill` says which.

    Attributes:
      fill: "source" and "target" -> share of the places of the training rows that hold a token.
    """

    def prepare_splits(self) -> None:
        """Plan the rows of training.

        Raises:
          ValueError: the tokenizer marks no end of a text.
        """
        super().prepare_splits()
        split = self.splits["train"]
        if not len(split.rows):  # refused right after this, with its reason
            return
        sizes, limits = self.sizes(split), (self.config.source_len, self.config.target_len)
        self.groups = packing.fetch_groups(f"{self.config.path} (train)", sizes, limits)
        filled = sizes.sum(0) / (len(self.groups) * np.array(limits))
        self.fill = dict(zip(("source", "target"), filled.tolist(), strict=True))
        _log.info(
            "packing  train: %s pairs into %s rows, source %.1f %%, target %.1f %% filled",
            f"{len(sizes):,}", f"{len(self.groups):,}", *100 * filled,
        )  # fmt: skip

    def settings(self) -> list[Any]:
        return ["packed", *super().settings(), self.groups.digest]

    def _make_info(self) -> TaskInfo:
        """As PairsTask's, but an example of training is a row."""
        info = super()._make_info()
        train = dataclasses.replace(info.splits["train"], num_examples=len(self.groups))
        return dataclasses.replace(info, splits={**info.splits, "train": train})

    def train(self, seed: int) -> Any:
        """Endless rows, each once an epoch, in another order each time."""
        from jaxlm.data.windows import Shuffled

        split = self.splits["train"]
        make = lambda place: self._packed(split, self.groups.row(place))  # noqa: E731
        return Shuffled(make, len(self.groups), (seed,)).repeat()

    def _packed(self, split: Split, pairs: np.ndarray) -> dict[str, np.ndarray]:
        """The row that holds these pairs of a split."""
        rows = split.rows[pairs].tolist()
        source = self._side(split.table.columns["source"], rows, self.config.source_len)
        target = self._side(split.table.columns["target"], rows, self.config.target_len)
        ids, segment_ids, positions = target
        tokens = corruption.shifted_right(ids)
        tokens[positions == 0] = corruption.START_ID  # where it is filled up too: 0 all the same
        return {
            **dict(zip(("source", "source_segment_ids", "source_positions"), source, strict=True)),
            "tokens": tokens,
            "targets": ids,
            "segment_ids": segment_ids,
            "positions": positions,
            "weights": (segment_ids > 0).astype(np.float32),
        }

    def _side(self, texts: records.Ragged, rows: list[int], limit: int) -> np.ndarray:
        """Ids, segment ids and positions of texts one after the other, int32 [3, limit]."""
        ids, segment_ids, positions = side = np.zeros((3, limit), np.int32)
        end = 0
        for segment, row in enumerate(rows, 1):
            text = texts[row][: limit - 1]
            start, end = end, end + len(text) + 1
            ids[start : end - 1] = text
            ids[end - 1] = self.tokenizer.eos_id
            segment_ids[start:end] = segment
            positions[start:end] = np.arange(end - start)
        return side

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """A row pair by pair."""
        if "segment_ids" not in example:  # of evaluation
            return super().show_example(example, predicted)
        lines = []
        for segment in range(1, int(example["segment_ids"].max()) + 1):
            own = example["segment_ids"] == segment
            pair = {name: example[name][own] for name in ("targets", "weights")}
            for name in ("source", "source_segment_ids"):
                pair[name] = example[name][example["source_segment_ids"] == segment]
            shown = super().show_example(pair, None if predicted is None else predicted[own])
            lines += [f"pair {segment}:", *(f"  {line}" for line in shown)]
        return lines
