"""Fill-in-the-middle: text of which a part is moved behind the rest, so that a left-to-right model infills.

How a text is cut and put together is in data/corruption.py; how a trained model is asked to fill a
gap in data/infilling.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import corruption, shuffle, special_tokens
from jaxlm.data.tasks import batches, text

_LEAST = 16  # room that one more piece is worth


@dataclasses.dataclass(frozen=True)
class FimTextConfig(text.TextConfig):
    """As TextConfig, and how many windows are rearranged.

    Attributes:
      fim_rate: share of the training windows that are; the others are plain text. Bavarian et al.
        (2022, arXiv:2207.14255, section 4) find no harm to writing left to right up to 0.9.
      spm_rate: share of these that have the suffix first ("spm"), as gaps are asked for; the others
        have the prefix first ("psm"), from which the former are learned too, they find.
    """

    fim_rate: float = 0.5
    spm_rate: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if 0 < self.seq_len < 5:
            raise ValueError(
                f"data.seq_len={self.seq_len} must be at least 5: a gap takes 4 tokens"
            )
        if not 0 <= self.fim_rate <= 1:
            raise ValueError(f"data.fim_rate={self.fim_rate} must be from 0 to 1")
        if not 0 < self.spm_rate <= 1:
            raise ValueError(
                f"data.spm_rate={self.spm_rate} must be above 0, at most 1: gaps are asked for so"
            )


class FimTextTask(text.TextTask):
    """Next-token prediction over windows, some with a gap that is filled later; see FimTextConfig.

    Such a window is a piece of text of random length, rearranged, then one of the text that follows,
    of any length that still fits, and so on; the little that is left at the end stays plain.
    (Bavarian et al. rearrange whole contexts. In windows of one length that tells how long each
    middle is, and a model learns to count instead of to end where the suffix begins.) Documents are
    rearranged each by itself, since a middle ends with the token that ends a document ("context
    level" in section 3). Sentinels are no targets, as nothing tells where a cut is; the <eos> of a
    middle is one.

    Evaluation asks for the middles alone, each with the <eos> that ends it, of all windows in the
    order "spm", cut by keys of their own: `bits_per_byte` is that of filling gaps, the cost of
    ending them included.
    """

    Config: ClassVar[type] = FimTextConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.FIM

    def __init__(self, config: FimTextConfig):
        """Open the data as TextTask does.

        Raises:
          ValueError: also a tokenizer without an end symbol.
        """
        super().__init__(config)
        special_tokens.require_eos(self.tokenizer, config.tokenizer)
        names = self.tokenizer.special_ids()
        self._sentinels = [names[name] for name in special_tokens.FIM]
        self._sentinel_V = np.isin(np.arange(self.tokenizer.vocab_size), self._sentinels)

    def settings(self) -> list[Any]:
        return ["fim in pieces", self.config.fim_rate, self.config.spm_rate]

    def make_example(self, ids: np.ndarray, key: np.ndarray) -> dict[str, np.ndarray]:
        """As in TextTask."""
        order = corruption.fim_order(key, self.config.fim_rate, self.config.spm_rate)
        if order == "plain":
            return super().make_example(ids, key)
        return self._rearranged(ids[1:], key, order)[0]

    def eval_example(self, split: str, example_id: int) -> dict[str, np.ndarray]:
        """The same gap in every evaluation, whatever the run's seed; only what is in it weighs."""
        ids = self._ids(split, example_id, with_context=False)
        key = shuffle.make_key(text.EVAL, example_id)
        example, gap_T = self._rearranged(ids, key, "spm")
        return example | {"weights": example["weights"] * gap_T}

    def _rearranged(
        self, ids: np.ndarray, key: np.ndarray, order: str
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """An example, and bool [T]: which targets belong to a gap."""
        seq_len = self.config.seq_len
        rows, gaps, start, room = [], [], 0, seq_len + 1
        while start < len(ids) and (room >= _LEAST or not rows):
            size = corruption.fim_length(min(len(ids) - start, room - 4), key)
            key = shuffle.mix64(key)
            moved, gap = self._piece(ids[start : start + size], key, order, room)
            rows.append(moved)
            gaps.append(gap)
            start, room = start + size, room - len(moved)
        plain = ids[start : start + room]
        filling = room - len(plain)
        tokens = np.concatenate([*rows, plain, np.zeros(filling, np.int32)])
        gap_T = np.concatenate([*gaps, np.zeros(room, bool)])[1:]
        known = ~self._sentinel_V[tokens[1:]] & (np.arange(seq_len) < seq_len - filling)
        example = {
            "tokens": tokens[:-1], "targets": tokens[1:], "weights": known.astype(np.float32)
        }  # fmt: skip
        return example, gap_T

    def _piece(
        self, ids: np.ndarray, key: np.ndarray, order: str, room: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A piece of text, its documents rearranged, and what belongs to their gaps; at most `room` tokens."""
        rows, gaps, eos_id = [np.zeros(0, np.int32)], [np.zeros(0, bool)], self.tokenizer.eos_id
        for number, document in enumerate(np.split(ids, np.flatnonzero(ids == eos_id))):
            document = document[document != eos_id][: max(0, room - 4)]
            if len(document):
                moved, gap = corruption.fill_in_the_middle(
                    document, key + np.uint64(number), order, self._sentinels, eos_id
                )
                rows.append(moved)
                gaps.append(gap)
                room -= len(moved)
        return np.concatenate(rows), np.concatenate(gaps)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The text as it is told, then the tokens from the first gap on, each with its target."""
        start = int(np.argmax(example["tokens"] == self._sentinels[-1]))
        said = None if predicted is None else predicted[start:]
        parts = [example[name][start:] for name in ("tokens", "targets", "weights")]
        return [
            f"text     {self.tokenizer.decode(example['tokens'])!r}",
            f"targets  {batches.show_targets(self.tokenizer, *parts, said)}",
        ]
