"""Words and what stands around them are told from words drawn at random: word2vec's loss, and fastText's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxlm.core import partition, word_losses
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree, Sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to choose: windows and negatives are the data's, skip-gram or CBOW the model's."""


class NegativeSampling:
    """Term `nll`: -log s(u . v) of a positive, and k times the mean of -log s(-u . n) over negatives n, nats a positive.

    Source: Mikolov et al. 2013, arXiv:1310.4546, equation 4. A negative that is the positive is left out, as in word2vec.c.
    Deviations: negatives are shared by a block of centres (data/tasks/word_windows.py), whose mean is the same. CBOW's
    gradient is exact: of a mean of n words each gets an n-th, where word2vec.c and gensim add all of it to each of them.

    `reads` and `of_rows` are the loss in two parts, for a step that updates only the rows that were read.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = (
        "tokens", "radius", "contexts", "segment_ids", "negatives", "negative_weight",
    )  # fmt: skip
    subword_keys: ClassVar[tuple[str, ...]] = ("words", "places", "pieces", "owners")
    coupled: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    terms: ClassVar[Mapping[str, float]] = {"nll": 1.0}

    def __init__(self, config: Config, model: Any):
        """Raises ValueError for a model that is none of word vectors."""
        need_tables(model, "negative_sampling")
        self.model, self.architecture = model, model.config.architecture
        if model.config.num_buckets:
            self.batch_keys = (*self.batch_keys, *self.subword_keys)

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Positives."""
        return {"nll": word_losses.num_positives(batch, self.architecture).sum()}

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums over the positives of a batch."""
        rows = word_losses.read(partition.flatten(params), self.reads(batch))
        return self.of_rows(rows, ctx, batch)

    def reads(self, batch: Batch) -> dict[str, Array]:
        """Path of a table -> ids of the rows that the loss depends on, int32 [B, N]."""
        return word_losses.window_reads(batch, self.architecture)

    def of_rows(self, rows: word_losses.Rows, ctx: LossContext, batch: Batch) -> LossOut:
        """The same sums, from the rows that `reads` names."""
        loss_B, num_B = word_losses.window_loss(rows, batch, self.architecture)
        total = loss_B.sum()
        return LossOut({"nll": total}, {"loss": Sums(total, num_B.sum())}, ctx.vars)


def need_tables(model: Any, objective: str) -> None:
    """Raises ValueError for a model that is none of word vectors."""
    if getattr(model, "direction", "") != "word_vectors":
        raise ValueError(
            f'objective.kind="{objective}" needs model.kind="word_vectors", not {type(model).__name__}'
        )
