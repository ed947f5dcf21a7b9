"""KTO: learning from which texts are good and which are not, each by itself. Pairs are for preferences.py."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core import metrics
from jaxlm.core.types import Array, Batch, LossContext, PyTree
from jaxlm.objectives import segments
from jaxlm.objectives.preferences import Config, Preferences, check_coefficient


@dataclasses.dataclass(frozen=True)
class KTOConfig(Config):
    """As Config.

    Attributes:
      desirable: weight of good texts; undesirable: of bad ones. With n of either, the paper has the ratio of
        desirable * n_good to undesirable * n_bad between 1 and 4/3 (section 4.2).
    """

    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("desirable", "undesirable"):
            check_coefficient(self, name)


def kto(rewards: Array, good: Array, kl: Array, config: KTOConfig) -> Array:
    """lambda_y - v: lambda_D (1 - sigma(beta (r - z))) of good texts, lambda_U (1 - sigma(beta (z - r))) of bad ones.

    Args:
      rewards: r = log pi(y|x) / pi_ref(y|x), [B].
      good: 1 or 0, [B].
      kl: z, [].

    Source: Ethayarajh et al., KTO: Model Alignment as Prospect Theoretic Optimization, 2024, arXiv:2402.01306, eq. 7 and 8.
    """
    sign = 2.0 * good - 1.0
    weight = jnp.where(good > 0, config.desirable, config.undesirable)
    return weight * jax.nn.sigmoid(-config.beta * sign * (rewards - kl))


class KTO(Preferences):
    """Term: `preference`, see `kto`. Of rows with one text and `desirable`, 1 or 0.

    z, the policy's KL to the reference, is estimated from every prompt with the next row's completion (section 4.1: beyond the
    row's end they are cut): max(0, mean of r). It has no gradient. The loss of a row depends on the others, so the batch is one
    micro-batch. In the log, `accuracy` is the share of texts on their side of z, `margin` the difference of mean rewards.
    """

    Config = KTOConfig
    kind: ClassVar[str] = "kto"
    batch_keys: ClassVar[tuple[str, ...]] = (*segments.BATCH_KEYS, "desirable")
    coupled: ClassVar[bool] = True
    others: ClassVar[tuple[str, ...]] = ("reference",)
    own: ClassVar[tuple[str, ...]] = ("reference",)
    num_segments: ClassVar[int] = 1

    def divergence(self, params: PyTree, ctx: LossContext, batch: Batch) -> Array:
        """The estimate z, float32 []; raises ValueError for one row, which has no other's completion."""
        if len(batch["tokens"]) < 2:
            raise ValueError(
                'objective.kind="kto" takes other rows\' completions: batch_size=1 must be at least 2'
            )
        other = mismatched(batch)
        mine = segments.run(self.model, jax.lax.stop_gradient(params), other)
        found = segments.compare(self.reference, mine, ctx, other)
        ratios_B = segments.totals(found.policy - found.reference, other, 1)[:, 0]
        count_B = self.counted(other)
        return jnp.maximum(0.0, metrics.mean(metrics.weighted(ratios_B, count_B)))

    def score(self, params, ctx, batch, output):
        found, count_B = segments.compare(self.reference, output, ctx, batch), self.counted(batch)
        kl = self.divergence(params, ctx, batch)
        ratios_B = segments.totals(found.policy - found.reference, batch, 1)[:, 0]
        good_B = batch["desirable"].astype(jnp.float32)
        losses_B = kto(ratios_B, good_B, kl, self.config)
        rewards_B = self.config.beta * ratios_B
        good, bad = count_B * good_B, count_B * (1 - good_B)
        report = {
            "loss": metrics.weighted(losses_B, count_B),
            "accuracy": metrics.weighted((ratios_B > kl) == (good_B > 0), count_B),
            "reward_chosen": metrics.weighted(rewards_B, good),
            "reward_rejected": metrics.weighted(rewards_B, bad),
            "kl_estimate": metrics.weighted(kl, jnp.ones(())),
            "kl": metrics.weighted(found.divergence, batch["weights"]),
        }
        return {"preference": metrics.weighted(losses_B, count_B).total}, report


def mismatched(batch: Batch) -> dict[str, Array]:
    """Every row's prompt with the completion of the row after it, in the form of the batch; that of the first comes last."""
    weights, targets = batch["weights"], batch["targets"]
    starts_B = jnp.argmax(weights > 0, axis=1).astype(jnp.int32)  # the prompt's last token
    sizes_B = jnp.sum(weights > 0, axis=1).astype(jnp.int32)
    places_T = jnp.arange(weights.shape[1], dtype=jnp.int32)
    since_BT = (
        places_T[None, :] - starts_B[:, None]
    )  # how many of the completion stand before a target
    from_BT = jnp.clip(since_BT + jnp.roll(starts_B, -1)[:, None], 0, weights.shape[1] - 1)
    theirs_BT = jnp.take_along_axis(jnp.roll(targets, -1, axis=0), from_BT, axis=1)
    own_BT = (since_BT >= 0) & (since_BT < jnp.roll(sizes_B, -1)[:, None])
    read_BT = jnp.pad(theirs_BT[:, :-1], ((0, 0), (1, 0)))
    inside_BT = (since_BT < 0) | own_BT
    return {
        **batch,
        "tokens": jnp.where(since_BT > 0, jnp.where(own_BT, read_BT, 0), batch["tokens"]),
        "targets": jnp.where(own_BT, theirs_BT, 0),
        "weights": own_BT.astype(weights.dtype),
        "segment_ids": inside_BT.astype(batch["segment_ids"].dtype),
        "positions": jnp.where(inside_BT, places_T[None, :], 0),
    }
