"""Documents packed into windows, none of which sees another: next-token prediction inside each.

Where tasks/text.py cuts windows out of one stream, here a window holds whole documents, as many as
fit. Their places are planned in packing.py.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from jaxlm.data import packing
from jaxlm.data.tasks import batches
from jaxlm.data.tasks.text import TextTask

_log = logging.getLogger(__name__)


class PackedTask(TextTask):
    """Next-token prediction inside documents, several of them to a window.

    A document's targets are its tokens and its <eos>, its inputs <eos> and its tokens: every token
    of a split is a target exactly once, an empty document's <eos> too. A document longer than a
    window is cut into pieces; each of them starts with the token before it as context, and is a
    segment of its own. Examples have

      tokens, targets int32 [T]; weights float32 [T], 0 where the window is filled up
      segment_ids int32 [T], 1, 2, ... for the pieces of a window, 0 where it is filled up
      positions int32 [T], from 0 in every piece

    Attributes:
      fill: split -> share of its windows' places that hold a token.
    """

    def settings(self) -> list[Any]:
        return ["packed", [plan.digest for plans in self.plans.values() for plan in plans]]

    def prepare_parts(self) -> None:
        """Plan the windows of every source and split.

        Raises:
          ValueError: the tokenizer marks no ends of documents, or a split is empty.
        """
        if self.tokenizer.eos_id is None:
            raise ValueError(
                f"data.tokenizer={self.config.tokenizer} has no <eos> token, which packed documents "
                'start and end with: take one that has, or data.kind="text"'
            )
        splits = ("train", "val") if self.config.val_fraction else ("train",)
        self.plans = {split: [self._plan(part, split) for part in self.parts] for split in splits}
        self.fill = {}
        for split, plans in self.plans.items():
            num_documents, num_tokens = (
                sum(getattr(plan, name) for plan in plans)
                for name in ("num_documents", "num_tokens")
            )
            num_windows = sum(map(len, plans))
            self.fill[split] = num_tokens / (num_windows * self.config.seq_len)
            _log.info(
                "packing  %s: %s documents into %s windows of %d, %.1f %% filled",
                split,
                f"{num_documents:,}",
                f"{num_windows:,}",
                self.config.seq_len,
                100 * self.fill[split],
            )

    def _plan(self, part: Any, split: str) -> packing.Plan:
        start, stop = part.span(split)
        if start == stop:
            raise ValueError(
                f"data.val_fraction={self.config.val_fraction} leaves no {split} token of "
                f"data.path={part.path}"
            )
        return packing.fetch(
            f"{part.path} ({split})",
            part.tokens,
            (start, stop),
            self.tokenizer.eos_id,
            self.config.seq_len,
            part.digest,
        )

    def count(self, number: int, split: str) -> int:
        """How many windows one source's split is packed into."""
        return len(self.plans[split][number])

    def train_part(self, number: int, seed: int) -> Any:
        """One source's windows, in another order each epoch: a grain.MapDataset of examples."""
        from jaxlm.data.windows import Shuffled

        size = self.count(number, "train")
        return Shuffled(lambda place: self._window("train", number, place), size, (seed, number))

    def eval_example(self, split: str, example_id: int) -> dict[str, np.ndarray]:
        """The window that `eval` gives this id, without a batch axis."""
        return self._window(split, *self.locate(split, example_id))

    def _window(self, split: str, number: int, place: int) -> dict[str, np.ndarray]:
        seq_len, tokens = self.config.seq_len, self.parts[number].tokens
        example = {
            name: np.zeros(seq_len, np.int32)
            for name in ("tokens", "targets", "segment_ids", "positions")
        } | {"weights": np.zeros(seq_len, np.float32)}
        end = 0
        starts, lengths = self.plans[split][number].window(place)
        for segment, (start, length) in enumerate(
            zip(starts.tolist(), lengths.tolist(), strict=True), 1
        ):
            ids = np.full(length + 1, self.tokenizer.eos_id, np.int32)  # before the stream: <eos>
            tokens.fill(max(0, start - 1), ids[int(start == 0) :])
            piece = slice(end, end := end + length)
            example["tokens"][piece], example["targets"][piece] = ids[:-1], ids[1:]
            example["segment_ids"][piece] = segment
            example["positions"][piece] = np.arange(length)
        example["weights"][:end] = 1
        return example

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path and the text (of the targets, documents one after the other) of a window."""
        number, place = self.locate(split, example_id)
        window = self._window(split, number, place)
        ids = window["targets"][window["segment_ids"] > 0]
        return self.parts[number].path, self.tokenizer.decode(ids)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """A row document by document: text, first tokens and targets."""
        lines = []
        for segment in range(1, int(example["segment_ids"].max()) + 1):
            own = example["segment_ids"] == segment
            columns = [example[name][own] for name in ("tokens", "targets", "weights")]
            said = None if predicted is None else predicted[own]
            lines += [f"document {segment}: {self.tokenizer.decode(columns[0])!r}"]
            lines += [f"  targets  {batches.show_targets(self.tokenizer, *columns, said)}"]
        return lines
