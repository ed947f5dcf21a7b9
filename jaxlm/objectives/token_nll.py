"""What the objectives here share: weighted cross-entropy of a target at each scored position.

Not an objective itself: which model and which batch a loss is right for, each objective's own file says.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxlm.core import metrics, randomness
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree


@dataclasses.dataclass(frozen=True)
class Config:
    """Coefficients; 0 turns a part off."""

    label_smoothing: float = 0.0  # share of the target's probability spread over the vocabulary
    z_loss: float = 0.0  # coefficient of log(Z)^2

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"objective.label_smoothing={self.label_smoothing} must be in [0, 1)")
        if self.z_loss < 0:
            raise ValueError(f"objective.z_loss={self.z_loss} must be 0 or more")


class TokenNLL:
    """Terms: `nll`, -sum w log p(target) (Szegedy et al. 2016, arXiv:1512.00567, section 7, when smoothed);
    `z`, sum w log(Z)^2 (PaLM, arXiv:2204.02311, section 5, which uses 1e-4).

    Batch: what the model reads; targets int32 [B, T], aligned with what the model scores; weights float32 [B, T] (0
    ignores). Reports `loss`, the plain negative log-likelihood in nats a target, whatever is trained on.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = ("targets", "weights")
    coupled: ClassVar[bool] = False
    reports_accuracy: ClassVar[bool] = False  # the share of targets that are the argmax

    def __init__(self, config: Config, model: Any):
        self.config = config
        self.model = model
        self.terms = {"nll": 1.0} | ({"z": config.z_loss} if config.z_loss else {})

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Counted targets; the same for every term."""
        total = jnp.sum(batch["weights"].astype(jnp.float32))
        return dict.fromkeys(self.terms, total)

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums of every term over this batch.

        Raises:
          ValueError: the batch is not one for this objective.
        """
        inputs = {key: batch[key] for key in model_inputs(self.model) if key in batch}
        rngs = {"dropout": randomness.named_key(ctx.key, "dropout")}
        output = self.model.apply({"params": params}, **inputs, train=ctx.train, rngs=rngs)
        stats = output.token_stats(batch["targets"])
        nll = metrics.weighted(stats.nll, batch["weights"])
        smoothing = self.config.label_smoothing
        smoothed = metrics.weighted(stats.uniform_nll, batch["weights"]).total
        sums = {
            "nll": (1 - smoothing) * nll.total + smoothing * smoothed if smoothing else nll.total
        }
        report = {"loss": nll}
        if self.reports_accuracy:
            report["accuracy"] = metrics.weighted(stats.correct, batch["weights"])
        if "z" in self.terms:
            squares = metrics.weighted(jnp.square(stats.log_z), batch["weights"])
            sums["z"] = squares.total
            report["log_z_squared"] = squares
        return LossOut(sums=sums, report=report, vars=ctx.vars)


def model_inputs(model: Any) -> tuple[str, ...]:
    """Batch entries that a model consumes."""
    return (*model.inputs, *model.optional_inputs)


def require_direction(model: Any, direction: str, objective: str, why: str) -> None:
    """Refuse a model that looks another way than an objective's targets allow.

    Args:
      model: its `direction` is "causal" (also where it names none), "bidirectional" or "encoder_decoder".
      direction: the one accepted.
      objective: its kind, for the message.
      why: what would be wrong, as the end of a sentence on the model.

    Raises:
      ValueError: another direction; the objectives that accept it are named.
    """
    found = getattr(model, "direction", "causal")
    if found == direction:
        return
    fitting = FITTING[found] if found in FITTING else "classification"
    raise ValueError(
        f'objective.kind="{objective}" needs a model that is {direction}, and {type(model).__name__} is {found}: '
        f"{why}. For this model: {fitting}"
    )


FITTING = {
    "causal": "causal_lm, prefix_lm",
    "bidirectional": "masked_lm, classification",
    "encoder_decoder": "seq2seq",
}
"""Direction of a model -> objectives to name in an error."""
