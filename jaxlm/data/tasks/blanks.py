"""GLM's blank infilling: a text with blanks, and what fills them, one after the other.

How blanks are made is in data/blanks.py; that the text is read both ways is the model's affair.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import blanks, corruption, shuffle, special_tokens
from jaxlm.data.tasks import spans, text


@dataclasses.dataclass(frozen=True)
class BlankTextConfig(spans.SpanTextConfig):
    """As SpanTextConfig: seq_len is the length of the source, and a blank's mean length `mean_span`.

    seq_len=512 takes 568 tokens of text and gives 113 targets, of which 28 are the ends of blanks.

    Attributes:
      long_share: share of the training examples with one long blank behind a beginning of the
        window; they teach to write on from a prompt. Evaluation has short blanks only.
    """

    long_share: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.long_share <= 1:
            raise ValueError(f"data.long_share={self.long_share} must be in [0, 1]")


class BlankTextTask(text.TextTask):
    """The text of blanks from the text around them, and from the blanks before; see BlankTextConfig.

    A tokenizer without [MASK] gets it behind its own ids. Blanks are filled in random order in
    training, from left to right in evaluation.
    """

    Config: ClassVar[type] = BlankTextConfig
    special_tokens: ClassVar[tuple[str, ...]] = ("[MASK]",)

    def __init__(self, config: BlankTextConfig):
        """Open the data as TextTask does.

        Raises:
          ValueError: also a tokenizer without an end symbol.
        """
        self.lengths = None
        if config.seq_len:
            self.lengths = corruption.span_lengths(
                config.seq_len, config.noise_density, config.mean_span
            )
            self.num_targets = self.lengths.num_noise + self.lengths.num_spans
        super().__init__(config)
        eos_id = special_tokens.require_eos(self.tokenizer, config.tokenizer)
        mask_id = special_tokens.token_id(self.tokenizer, "[MASK]")
        self._symbols = {"mask_id": mask_id, "eos_id": eos_id}

    def window_length(self) -> int:
        """Tokens of text that one example takes."""
        return self.lengths.window

    def settings(self) -> list[Any]:
        return ["blanks", self.config.noise_density, self.config.mean_span, self.config.long_share]

    def make_example(self, ids: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        """Source and targets, of fixed sizes.

        Returns:
          {"source", "source_segment_ids" int32 [S], "tokens", "targets", "positions",
          "block_positions" int32 [T], "weights" float32 [T]}.
        """
        if blanks.is_long(self.config.long_share, key):
            return self._with_long_blank(ids[1:], key)
        order = blanks.blank_order(self.lengths.num_spans, key)
        return self._with_blanks(ids[1:], key, order, 0)

    def eval_example(self, split: str, example_id: int) -> dict[str, np.ndarray]:
        """The same blanks in every evaluation, whatever the run's seed."""
        ids, num_seen = self.full_window(split, example_id)
        key = shuffle.make_key(text.EVAL, example_id)
        return self._with_blanks(ids[1:], key, np.arange(self.lengths.num_spans), num_seen)

    def _with_blanks(
        self, ids: np.ndarray, key: np.ndarray, order: np.ndarray, num_seen: int
    ) -> dict[str, np.ndarray]:
        hidden = blanks.blank_mask(self.lengths, key)
        cut = blanks.cut_blanks(ids, hidden, order, **self._symbols)
        example = cut._asdict()
        weights = (example.pop("places") >= num_seen).astype(np.float32)
        return example | {"source_segment_ids": np.ones_like(cut.source), "weights": weights}

    def _with_long_blank(self, ids: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        """What lm.write is given: a prompt with <eos> behind it, at whose place the text goes on; it has no end here."""
        longest, width = self.num_targets, self.lengths.source
        start, end = blanks.long_blank(len(ids), longest, width - 1, key)
        size = end - start
        source, targets = np.zeros(width, np.int32), np.zeros(longest, np.int32)
        source[:start], source[start] = ids[:start], self._symbols["eos_id"]
        targets[:size] = ids[start:end]
        tokens = corruption.shifted_right(targets)
        tokens[size:] = 0
        return {
            "source": source,
            "source_segment_ids": (np.arange(width) <= start).astype(np.int32),
            "tokens": tokens,
            "targets": targets,
            "positions": np.full(longest, start, np.int32),
            "block_positions": np.arange(1, longest + 1, dtype=np.int32),
            "weights": (np.arange(longest) < size).astype(np.float32),
        }

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The source, then each blank's place in it and its text, in the order in which they are filled."""
        decode = self.tokenizer.decode
        lines = [f"source   {decode(example['source'][example['source_segment_ids'] > 0])!r}"]
        size = len(np.trim_zeros(example["weights"], "b"))  # behind it a long blank is filled up
        starts = np.flatnonzero(example["block_positions"][:size] == 1)
        for start, end in zip(starts, [*starts, size][1:], strict=True):
            lines.append(
                f"at {example['positions'][start]:<5} {decode(example['targets'][start:end])!r}"
            )
        return lines
