"""Masked language modelling (BERT): full windows of text, some of their tokens hidden.

How they are hidden is in data/corruption.py. A window is text only, with no [CLS] or [SEP] in it,
and there is no next-sentence pair, as in RoBERTa (Liu et al. 2019, arXiv:1907.11692).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import corruption, shuffle, special_tokens
from jaxlm.data.tasks import batches, text


@dataclasses.dataclass(frozen=True)
class MaskedTextConfig(text.TextConfig):
    """As TextConfig, and how much is hidden.

    Attributes:
      mask_rate: share of a window's tokens that are chosen.
      whole_word: choose whole words, not single tokens.
    """

    mask_rate: float = 0.15
    whole_word: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mask_rate <= 1:
            raise ValueError(f"data.mask_rate={self.mask_rate} must be above 0 and at most 1")


class MaskedTextTask(text.TextTask):
    """The original tokens at hidden places; see MaskedTextConfig.

    A tokenizer without [PAD], [CLS], [SEP] or [MASK] gets them behind its own ids, so that one
    vocabulary serves this task and those that start from what it made.
    """

    Config: ClassVar[type] = MaskedTextConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.BERT

    def __init__(self, config: MaskedTextConfig):
        """Open the data as TextTask does."""
        super().__init__(config)
        self._mask_id = special_tokens.token_id(self.tokenizer, "[MASK]")
        self._special = special_tokens.special_table(self.tokenizer)
        self._words = corruption.word_table(self.tokenizer.pieces()) if config.whole_word else None

    def settings(self) -> list[Any]:
        return ["masked", self.config.mask_rate, self.config.whole_word]

    def make_example(self, ids: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        """{"tokens" (corrupted), "targets" (original) int32 [T], "weights" float32 [T]}."""
        return self._masked(ids[1:], key, None)

    def eval_example(self, split: str, example_id: int) -> dict[str, np.ndarray]:
        """The same places are hidden in every evaluation, whatever the run's seed."""
        ids, num_seen = self.full_window(split, example_id)
        allowed = np.arange(len(ids) - 1) >= num_seen
        return self._masked(ids[1:], shuffle.make_key(text.EVAL, example_id), allowed)

    def _masked(
        self, ids: np.ndarray, key: np.ndarray, allowed: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        tokens, chosen = corruption.mask_tokens(
            ids,
            key,
            mask_id=self._mask_id,
            special_V=self._special,
            allowed_T=allowed,
            rate=self.config.mask_rate,
            words=self._words,
        )
        return {"tokens": tokens, "targets": ids, "weights": chosen.astype(np.float32)}

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The text as the model sees it, then each hidden token with what it was."""
        tokens, targets = example["tokens"], example["targets"]
        places = np.flatnonzero(example["weights"])
        weights = np.ones(len(places), np.float32)
        said = None if predicted is None else predicted[places]
        return [
            f"text     {self.tokenizer.decode(tokens)!r}",
            f"hidden   {batches.show_targets(self.tokenizer, tokens[places], targets[places], weights, said)}",
        ]
