"""What the objectives here share: weighted cross-entropy of a target at each scored position.

Not an objective itself: which model and which batch a loss is right for, each objective's own file says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core import metrics, randomness
from jaxlm.core.numerics import TokenStats
from jaxlm.core.types import Array, Batch, LossContext, LossOut, ModelOutput, PyTree, Sums

Terms, Report = dict[str, Array], dict[str, Sums]

REPORTED = "router/"
"""Entries of an output's `aux` with such names are shown in the log, as means over layers."""


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


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Of losses that have none of Config's parts."""

    label_smoothing: ClassVar[float] = 0.0
    z_loss: ClassVar[float] = 0.0


class TokenNLL:
    """Terms: `nll`, -sum w log p(target) (Szegedy et al. 2016, arXiv:1512.00567, section 7, when smoothed);
    `z`, sum w log(Z)^2 (PaLM, arXiv:2204.02311, section 5, which uses 1e-4).

    Batch: what the model reads; targets int32 [B, T], aligned with what the model scores; weights float32 [B, T] (0
    ignores). Reports `loss`, the plain negative log-likelihood in nats a target, whatever is trained on.

    A model's `aux_terms` (how evenly its experts are used, ...) are terms too: the mean over its layers times the weight of
    all targets here. So of several micro-batches their mean counts, where each was balanced for itself.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = ("targets", "weights")
    coupled: ClassVar[bool] = False
    reports_accuracy: ClassVar[bool] = False  # the share of targets that are the argmax
    asks: ClassVar[Mapping[str, bool]] = {}  # of the model, besides its scores

    def __init__(self, config: Config, model: Any):
        self.config = config
        self.model = model
        self.aux_terms = dict(getattr(model, "aux_terms", {}))
        self.terms = {"nll": 1.0} | self.aux_terms | ({"z": config.z_loss} if config.z_loss else {})

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
        carried = ctx.vars.get("rows", {})
        output = self.model.apply(
            {"params": params}, **inputs, train=ctx.train, rngs=rngs, **self.asks, **carried
        )
        variables = ctx.vars
        if carried:  # truncated back-propagation: no gradient flows into the batch before
            output, carry = output
            variables = ctx.vars | {"rows": {"carry": jax.lax.stop_gradient(carry)}}
        sums, report = self.score(output, batch)
        weight = jnp.sum(batch["weights"].astype(jnp.float32))
        for name, values in output.aux.items():
            if name in self.aux_terms or name.startswith(REPORTED):
                report[name] = metrics.weighted(jnp.mean(values), weight)
        sums |= {name: report[name].total for name in self.aux_terms}
        return LossOut(sums=sums, report=report, vars=variables)

    def score(self, output: ModelOutput, batch: Batch) -> tuple[Terms, Report]:
        """The sum of every term, and what is reported."""
        return self.sums(output.token_stats(batch["targets"]), batch["weights"])

    def sums(self, stats: TokenStats, weights: Array) -> tuple[Terms, Report]:
        """As `score`, of one figure for each target and its weight, of any shape."""
        nll = metrics.weighted(stats.nll, weights)
        smoothing = self.config.label_smoothing
        smoothed = metrics.weighted(stats.uniform_nll, weights).total
        sums = {
            "nll": (1 - smoothing) * nll.total + smoothing * smoothed if smoothing else nll.total
        }
        report = {"loss": nll}
        if self.reports_accuracy:
            report["accuracy"] = metrics.weighted(stats.correct, weights)
        if "z" in self.terms:
            squares = metrics.weighted(jnp.square(stats.log_z), weights)
            sums["z"] = squares.total
            report["log_z_squared"] = squares
        return sums, report


def require_head(model: Any, head: str, objective: str) -> None:
    """Refuse a model whose head scores something else than an objective's targets.

    Raises:
      ValueError: its config names another head.
    """
    found = getattr(getattr(model, "config", None), "head", None)
    if found != head:
        has = f'"{found}"' if found else f"{type(model).__name__}, which has none"
        raise ValueError(f'objective.kind="{objective}" needs model.head="{head}", not {has}')


def model_inputs(model: Any) -> tuple[str, ...]:
    """Batch entries that a model consumes."""
    return (*model.inputs, *model.optional_inputs)


def require_direction(model: Any, direction: str, objective: str, why: str) -> None:
    """Refuse a model that looks another way than an objective's targets allow.

    Args:
      model: its `direction` is "causal" (also where it names none), or another one in FITTING.
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
    "causal": "causal_lm, prefix_lm, multi_token",
    "bidirectional": "masked_lm, classification",
    "encoder_decoder": "seq2seq, blank_infilling",
    "image_to_text": "image_to_text",
    "latent": "elbo",
}
"""Direction of a model -> objectives to name in an error."""
