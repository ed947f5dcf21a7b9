"""Vectors of texts that belong together are near, those of the other texts of a batch far (in-batch negatives)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core import metrics, randomness, sentences
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree
from jaxlm.objectives.token_nll import model_inputs, require_direction


@dataclasses.dataclass(frozen=True)
class Config:
    """How vectors are compared."""

    temperature: float = 0.05  # similarities, -1 to 1, are divided by it
    symmetric: bool = False  # also: which anchor belongs to each positive; the mean of both losses

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"objective.temperature={self.temperature} must be above 0")


class Contrastive:
    """Term `nll`: of each anchor, -log softmax of its cosine with its own positive, among all positives of the batch and all
    hard negatives (InfoNCE, van den Oord et al. 2018, arXiv:1807.03748, eq. 4; with in-batch negatives Henderson et al.
    2017, arXiv:1705.00652, section 4.4; of a text and itself under other dropout SimCSE, Gao et al. 2021,
    arXiv:2104.08821, eq. 4). A text's vector is the mean of its tokens' states, of length 1, as `lm.embed` gives it.

    Deviations: what is known to be no negative is left out of the sum: a text equal to the anchor or to its positive, and the
    positive of an equal anchor. SimCSE reads [CLS], here it is the mean.

    Batch: what the model reads, of C texts a row: anchor, positive, and a hard negative where C is 3; segment_ids 1..C;
    text_ids int32 [B, C], equal for equal texts; weights float32 [B, 1]. Reports `loss` and `accuracy`: how often the own
    positive is the nearest.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = ("segment_ids", "text_ids", "weights")
    coupled: ClassVar[bool] = True
    terms: ClassVar[Mapping[str, float]] = {"nll": 1.0}

    def __init__(self, config: Config, model: Any):
        """Raises ValueError for a model that is no sentence encoder."""
        require_direction(model, "bidirectional", "contrastive", "a vector is of a whole text")
        head = getattr(getattr(model, "config", None), "head", "none")
        if head != "none":
            raise ValueError(f'objective.kind="contrastive" needs model.head="none", not "{head}"')
        self.config, self.model = config, model

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Pairs."""
        return {"nll": jnp.sum(batch["weights"].astype(jnp.float32))}

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums over the pairs of a batch."""
        inputs = {key: batch[key] for key in model_inputs(self.model) if key in batch}
        rngs = {"dropout": randomness.named_key(ctx.key, "dropout")}
        output = self.model.apply({"params": params}, **inputs, train=ctx.train, rngs=rngs)
        num_texts = batch["text_ids"].shape[1]
        vectors_BCD = sentences.vectors(output.hidden, batch["segment_ids"], num_texts)
        weights_B = batch["weights"][:, 0].astype(jnp.float32)
        nll_B, hit_B = self.scores(vectors_BCD, batch["text_ids"], weights_B)
        report = {
            "loss": metrics.weighted(nll_B, weights_B),
            "accuracy": metrics.weighted(hit_B, weights_B),
        }
        return LossOut(sums={"nll": report["loss"].total}, report=report, vars=ctx.vars)

    def scores(
        self, vectors_BCD: Array, text_ids_BC: Array, weights_B: Array
    ) -> tuple[Array, Array]:
        """Loss of each pair, nats, and whether its positive is the nearest, 0 or 1; both float32 [B].

        Args:
          vectors_BCD: of length 1.
          text_ids_BC: see the class.
          weights_B: a row of weight 0 is no candidate either.
        """
        size, num_texts, _ = vectors_BCD.shape
        anchors_BD = vectors_BCD[:, 0]
        # Candidates: all positives, then all negatives. S = B (C - 1).
        candidates_SD = jnp.concatenate([vectors_BCD[:, c] for c in range(1, num_texts)])
        cosines_BS = jnp.einsum("BD,SD->BS", anchors_BD, candidates_SD, precision="highest")
        out_BS = self._left_out(text_ids_BC, weights_B)
        logits_BS = jnp.where(out_BS, -jnp.inf, cosines_BS / self.config.temperature)
        own_B = jnp.diagonal(logits_BS[:, :size])
        nll_B = jax.nn.logsumexp(logits_BS, axis=1) - own_B
        hit_B = (jnp.argmax(logits_BS, axis=1) == jnp.arange(size)).astype(jnp.float32)
        if self.config.symmetric:
            back_BB = logits_BS[:, :size].T
            nll_B = (nll_B + jax.nn.logsumexp(back_BB, axis=1) - own_B) / 2
        return nll_B, hit_B

    def _left_out(self, text_ids_BC: Array, weights_B: Array) -> Array:
        """Bool [B, S]: what is no negative of an anchor, its own positive excepted."""
        size, num_texts = text_ids_BC.shape
        anchors_B, positives_B = text_ids_BC[:, 0], text_ids_BC[:, 1]
        candidates_S = text_ids_BC[:, 1:].T.reshape(-1)
        same_BS = (candidates_S[None] == positives_B[:, None]) | (
            candidates_S[None] == anchors_B[:, None]
        )
        twins_BB = anchors_B[None] == anchors_B[:, None]
        positive_of_twin_BS = jnp.pad(twins_BB, ((0, 0), (0, size * (num_texts - 2))))
        filling_B = weights_B <= 0
        filling_BS = jnp.tile(filling_B, num_texts - 1)[None] | filling_B[:, None]
        own_BS = jnp.eye(size, size * (num_texts - 1), dtype=bool)
        return (same_BS | positive_of_twin_BS | filling_BS) & ~own_BS
