"""Text in its own order: each row of a batch goes on where the same row of the batch before ended.

For what carries something from one batch to the next (a recurrent state, the last words of a context) or must read every
token exactly once (counting). Not for models that see a window and nothing else: text.py shuffles those.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.data.tasks.text import TextConfig, TextTask


@dataclasses.dataclass(frozen=True)
class StreamConfig(TextConfig):
    """As TextConfig, of one source.

    Attributes:
      num_streams: equal parts of the training text, one a row of a batch; 0: batch_size, which the loop fills in.
      carry: batches have `continues`; without, every window is read by itself, in the same place in each epoch.
    """

    num_streams: int = 0
    carry: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.num_streams < 0:
            raise ValueError(f"data.num_streams={self.num_streams} must be 0 (batch_size) or more")


class StreamTask(TextTask):
    """Next-token prediction, every target of the training text once an epoch.

    The text is cut into `num_streams` parts that are as long as each other but for a token; an epoch reads each from its first
    token to its last, `seq_len` at a time, and its last batch is filled up with weight 0. The seed plays no part.
    Batches also have continues, float32 [B]: 1 where a row's first token follows the last target of the batch before, 0 at
    the beginning of an epoch. Evaluation is that of plain windows, which know nothing of those before them.
    """

    Config: ClassVar[type] = StreamConfig

    def prepare_parts(self) -> None:
        """As TextTask.

        Raises:
          ValueError: several sources, or one that is too short for its streams.
        """
        super().prepare_parts()
        if len(self.parts) > 1:
            raise ValueError(
                f'data.path={self.config.path}: data.kind="stream_text" reads one text in its order, not a mixture'
            )
        streams, (part,) = self.config.num_streams, self.parts
        if not streams or part.num_train - 1 < streams:
            raise ValueError(
                f"data.num_streams={streams} (batch_size, where it is 0) must be from 1 to {part.num_train - 1}, the "
                "training tokens that follow another one"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches of `num_streams` rows that the text is read in."""
        longest = -(-(self.parts[0].num_train - 1) // self.config.num_streams)
        return -(-longest // self.config.seq_len)

    def settings(self) -> list[Any]:
        return [self.config.num_streams, self.config.carry]

    def train(self, seed: int) -> Any:
        """Endless examples, number n being window n // num_streams of stream n % num_streams."""
        from jaxlm.data.windows import InOrder

        return InOrder(self.window, self.steps_per_epoch * self.config.num_streams).repeat()

    def window(self, index: int) -> dict[str, np.ndarray]:
        """Training example number `index` of an epoch."""
        place, stream = divmod(index, self.config.num_streams)
        total, streams = self.parts[0].num_train - 1, self.config.num_streams
        first, end = (total * number // streams for number in (stream, stream + 1))
        start = min(first + place * self.config.seq_len, end)
        ids = np.empty(min(self.config.seq_len, end - start) + 1, np.int32)
        self.parts[0].tokens.fill(start, ids)
        example = self.make_example(ids, np.zeros(1, np.uint64))
        return example | ({"continues": np.float32(place > 0)} if self.config.carry else {})
