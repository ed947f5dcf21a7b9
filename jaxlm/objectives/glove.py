"""Vectors whose products are the logarithms of how often words stand together: GloVe's loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxlm.core import partition, word_losses
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree, Sums
from jaxlm.objectives.negative_sampling import need_tables


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to choose: the weighting f(X) is the data's (data.x_max, data.alpha)."""


class GloVe:
    """Term `squares`: f(X_ij) (u_i . v_j + b_i + c_j - log X_ij)^2 of each pair of words with a count.

    Source: Pennington, Socher and Manning, GloVe: Global Vectors for Word Representation, 2014, equation 8. Reports the mean
    over pairs.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = ("tokens", "contexts", "counts", "weights")
    coupled: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    terms: ClassVar[Mapping[str, float]] = {"squares": 1.0}

    def __init__(self, config: Config, model: Any):
        """Raises ValueError for a model that is none of word vectors, or has no biases."""
        need_tables(model, "glove")
        if not model.config.biases:
            raise ValueError('objective.kind="glove" needs model.biases=True')

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Pairs."""
        return {"squares": (batch["weights"] > 0).astype("float32").sum()}

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums over the pairs of a batch."""
        rows = word_losses.read(partition.flatten(params), self.reads(batch))
        return self.of_rows(rows, ctx, batch)

    def reads(self, batch: Batch) -> dict[str, Array]:
        """Path of a table -> ids of the rows that the loss depends on, int32 [B, E]."""
        return word_losses.count_reads(batch)

    def of_rows(self, rows: word_losses.Rows, ctx: LossContext, batch: Batch) -> LossOut:
        """The same sums, from the rows that `reads` names."""
        loss_B, num_B = word_losses.count_loss(rows, batch)
        total = loss_B.sum()
        return LossOut({"squares": total}, {"loss": Sums(total, num_B.sum())}, ctx.vars)
