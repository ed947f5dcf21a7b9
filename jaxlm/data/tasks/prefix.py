"""Prefix language modelling: windows of text, cut at a random place; what follows is predicted.

That the part before the cut is attended to in both directions is the model's affair, which reads
`prefix_lengths`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlm.data import corruption
from jaxlm.data.tasks import batches, text


class PrefixTextTask(text.TextTask):
    """Next-token prediction behind a prefix; see TextConfig.

    The cut is uniform over the window (Raffel et al., 2020, arXiv:1910.10683, section 3.2.3), after
    its first token at the earliest, and leaves one target at least. Targets inside the prefix,
    which the model sees, weigh 0: of `num_tokens` about half are scored.
    """

    def settings(self) -> list[Any]:
        return ["prefix"]

    def make_example(self, ids: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        """As in TextTask, with "prefix_lengths" int32 []: how many of the tokens are the prefix."""
        example = super().make_example(ids, key)
        length = corruption.prefix_length(len(ids) - 1, key)
        # The target at place t is the token t + 1: that of the last token of a prefix is the first to guess.
        hidden = np.arange(len(example["weights"])) < length - 1
        weights = np.where(hidden, np.float32(0), example["weights"])
        return example | {"weights": weights, "prefix_lengths": np.array(length, np.int32)}

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The prefix, then the tokens from its last on, each with its target."""
        length = int(example["prefix_lengths"])
        start = max(0, length - 1)
        said = None if predicted is None else predicted[start:]
        parts = [example[name][start:] for name in ("tokens", "targets", "weights")]
        return [
            f"prefix   {self.tokenizer.decode(example['tokens'][:length])!r}",
            f"targets  {batches.show_targets(self.tokenizer, *parts, said)}",
        ]
