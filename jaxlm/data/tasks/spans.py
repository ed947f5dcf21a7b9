"""T5's span corruption: an encoder reads a text with gaps, a decoder writes what was in them.

How the gaps are made is in data/corruption.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import corruption, shuffle, special_tokens
from jaxlm.data.tasks import text


@dataclasses.dataclass(frozen=True)
class SpanTextConfig(text.TextConfig):
    """As TextConfig, but seq_len is the length of the *source*; and how much is hidden.

    The window of text is as long as its corrupted form fits: seq_len=512 takes 568 tokens of text
    and gives 114 targets. All examples have these lengths, without filling.

    Attributes:
      noise_density: share of a window's tokens that are hidden.
      mean_span: tokens of a gap, on average.
    """

    noise_density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.noise_density < 1:
            raise ValueError(f"data.noise_density={self.noise_density} must be between 0 and 1")
        if not self.mean_span >= 1:  # nan too
            raise ValueError(f"data.mean_span={self.mean_span} must be at least 1")


class SpanTextTask(text.TextTask):
    """The hidden spans from the text around them; see SpanTextConfig.

    A tokenizer without T5's sentinels gets them behind its own ids, in T5's order.
    """

    Config: ClassVar[type] = SpanTextConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.SENTINELS

    def __init__(self, config: SpanTextConfig):
        """Open the data as TextTask does.

        Raises:
          ValueError: also a tokenizer without an end symbol, or more gaps than sentinels.
        """
        self.lengths = None
        if config.seq_len:
            self.lengths = corruption.span_lengths(
                config.seq_len, config.noise_density, config.mean_span
            )
            if self.lengths.num_spans > len(special_tokens.SENTINELS):
                raise ValueError(
                    f"data.seq_len={config.seq_len} with data.mean_span={config.mean_span} and "
                    f"data.noise_density={config.noise_density} makes {self.lengths.num_spans} "
                    f"gaps: at most {len(special_tokens.SENTINELS)}, the number of sentinels"
                )
        super().__init__(config)
        special_tokens.require_eos(self.tokenizer, config.tokenizer)
        names = self.tokenizer.special_ids()
        self._sentinels = np.array([names[name] for name in reversed(special_tokens.SENTINELS)])

    def window_length(self) -> int:
        """Tokens of text that one example takes."""
        return self.lengths.window

    def settings(self) -> list[Any]:
        return ["spans", self.config.noise_density, self.config.mean_span]

    def make_example(self, ids: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        """{"source" [S], "tokens", "targets" int32 [T], "weights" float32 [T]}."""
        return self._corrupted(ids[1:], key, 0)

    def eval_example(self, split: str, example_id: int) -> dict[str, np.ndarray]:
        """The same spans are hidden in every evaluation, whatever the run's seed."""
        ids, num_seen = self.full_window(split, example_id)
        return self._corrupted(ids[1:], shuffle.make_key(text.EVAL, example_id), num_seen)

    def _corrupted(self, ids: np.ndarray, key: np.ndarray, num_seen: int) -> dict[str, np.ndarray]:
        hidden = corruption.noise_mask(self.lengths, key)
        eos_id = self.tokenizer.eos_id
        source, targets = corruption.corrupt_spans(ids, hidden, self._sentinels, eos_id)
        weights = np.ones(len(targets), np.float32)
        if num_seen:  # the same cut of the flags says where each target comes from
            new = (np.arange(len(ids)) >= num_seen).astype(np.int32)
            first = hidden & ~np.concatenate([[False], hidden[:-1]])
            weights = corruption.corrupt_spans(new, hidden, new[first], 1)[1].astype(np.float32)
        return {
            "source": source,
            "tokens": corruption.shifted_right(targets),
            "targets": targets,
            "weights": weights,
        }

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """Source and targets as text."""
        lines = [("source", example["source"]), ("targets", example["targets"])]
        if predicted is not None:
            lines.append(("predicted", predicted))
        return [f"{name:<9} {self.tokenizer.decode(ids)!r}" for name, ids in lines]
