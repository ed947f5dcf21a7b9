"""Multi-token prediction (Gloeckle et al. 2024, arXiv:2404.19737): at every place the next token, and further ones by heads of
their own.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxlm.core.numerics import TokenStats
from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, Batch
from jaxlm.objectives import causal_lm
from jaxlm.objectives.token_nll import Report, Terms


@dataclasses.dataclass(frozen=True)
class Config(causal_lm.Config):
    """Label smoothing is of all heads, z-loss of the next token's."""

    future_coef: float = 1.0  # of each further token's loss; the next token's has 1

    def __post_init__(self):
        super().__post_init__()
        if self.future_coef < 0:
            raise ValueError(f"objective.future_coef={self.future_coef} must be 0 or more")


class MultiToken(causal_lm.CausalLM):
    """The tokens 1, 2, ... model.num_future ahead, each from the tokens so far (equation 2, with a mean for each).

    Batch: as `CausalLM`'s; of packed documents also segment_ids. A further token has the weight that it has as a next
    one, and 0 where it lies behind the window or in another document. Terms: `nll` of the next token, `future_2`,
    `future_3`, ... of the others. Reports `loss`, the next token's alone, and `future_2_loss`, ... in nats a target.

    The paper goes through its heads one after the other, so that one head's logits exist at once (section 2). Here the
    targets of all heads are rows of one `token_stats`, whose logits exist `model.loss_chunk` rows at a time.
    """

    Config = Config
    kind: ClassVar[str] = "multi_token"
    asks = {"future": True}

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model is not causal, or has no heads for further tokens."""
        super().__init__(config, model)
        num_future = getattr(getattr(model, "config", None), "num_future", 0)
        if not num_future:
            raise ValueError(
                f'objective.kind="multi_token" needs a model with heads for further tokens, and {type(model).__name__} '
                'has none: take model.kind="gpt" with model.num_future=4'
            )
        self.further = {f"future_{ahead}": ahead for ahead in range(2, num_future + 1)}
        self.terms |= dict.fromkeys(self.further, config.future_coef)

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Counted targets of each head."""
        totals = super().weights(batch)
        further = {name: jnp.sum(ahead(batch, n)[1]) for name, n in self.further.items()}
        return totals | further

    def score(self, output: NeuralOutput, batch: Batch) -> tuple[Terms, Report]:
        """As `TokenNLL`'s."""
        if not self.further:
            return super().score(output, batch)
        hidden_BNTD = jnp.concatenate([output.hidden[:, None], output.aux["future_BNTD"]], axis=1)
        asked = [ahead(batch, n) for n in (1, *self.further.values())]
        targets_BNT = jnp.stack([targets for targets, _ in asked], axis=1)
        batch_size, heads, length, width = hidden_BNTD.shape
        rows = output.replace(hidden=hidden_BNTD.reshape(batch_size, heads * length, width))
        stats = rows.token_stats(targets_BNT.reshape(batch_size, heads * length))
        stats = [value.reshape(targets_BNT.shape) for value in stats]
        found = [
            self.sums(TokenStats(*(value[:, head] for value in stats)), weights_BT)
            for head, (_, weights_BT) in enumerate(asked)
        ]
        (sums, report), *others = found
        for name, (more, said) in zip(self.further, others, strict=True):
            sums[name], report[f"{name}_loss"] = more["nll"], said["loss"]
        return sums, report


def ahead(batch: Batch, distance: int) -> tuple[Array, Array]:
    """What lies `distance` tokens ahead of each place.

    Args:
      batch: targets and weights [B, T] of distance 1; segment_ids int32 [B, T] where documents share a window.
      distance: 1 or more.

    Returns:
      Targets int32 [B, T] and their weights float32 [B, T], 0 behind the window and in another document.
    """
    beyond = distance - 1

    def moved(values_BT: Array) -> Array:
        return jnp.pad(values_BT, ((0, 0), (0, beyond)))[:, beyond:]

    weights_BT = moved(batch["weights"].astype(jnp.float32))
    if "segment_ids" in batch:
        same_BT = batch["segment_ids"] == moved(batch["segment_ids"])
        weights_BT = jnp.where(same_BT, weights_BT, 0.0)
    return moved(batch["targets"]), weights_BT
