"""The held-out loss of word vectors: as trained on, over the validation split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxlm.core import word_losses
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Scores
from jaxlm.eval.metric import make_row

UNITS = {"negative_sampling": "nats/positive", "glove": "squares/pair"}


class WordPairs:
    """Row `loss`: the objective's loss by positives, or by pairs of words. No perplexity: no probability of a text is behind it.

    Its error is over rows. Windows and negatives are drawn by the data, always the same ones for a split.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError for another objective."""
        if objective not in UNITS:
            raise ValueError(
                f'evaluators: "word_pairs" scores objective.kind="negative_sampling" or "glove", not "{objective}"'
            )
        self.objective = objective
        self.signature = f"objective={objective}|rows={seq_len}"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """loss_B and its number of positives or pairs."""
        if self.objective == "glove":
            rows = word_losses.read(output.tables, word_losses.count_reads(batch))
            loss_B, num_B = word_losses.count_loss(rows, batch)
        else:
            ids = word_losses.window_reads(batch, output.architecture)
            rows = word_losses.read(output.tables, ids)
            loss_B, num_B = word_losses.window_loss(rows, batch, output.architecture)
        return {"loss": loss_B, "num": num_B}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """The row.

        Raises:
          ValueError: the split holds nothing to score.
        """
        parts = []
        for batch in data:
            found = predict(batch)
            used = (batch["id"] >= 0) & (found["num"] > 0)
            parts.append(np.stack([found["loss"], found["num"]], 1)[used])
        sums = np.concatenate(parts or [np.zeros((0, 2))]).astype(np.float64)
        if not len(sums):
            raise ValueError("evaluation: the split holds no two words that stand together")
        signature = (
            f"{self.signature}|{UNITS[self.objective].partition('/')[2]}s={int(sums[:, 1].sum())}"
        )
        unit = UNITS[self.objective]
        return Scores([make_row("loss", sums, unit=unit, finish="ratio", signature=signature)])
