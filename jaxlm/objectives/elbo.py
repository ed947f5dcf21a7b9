"""The evidence lower bound of a latent variable model (Kingma and Welling 2013, arXiv:1312.6114; of texts Bowman et al. 2016,
arXiv:1511.06349), with what keeps its posterior from collapsing onto the prior.

Not for bounds of a finished model: eval/elbo.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core import gaussian, metrics, randomness
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree, Sums
from jaxlm.objectives.token_nll import model_inputs, require_direction

SCHEDULES = ("linear", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Config:
    """What the divergence weighs.

    Attributes:
      beta: its weight behind the warm-up; 1: the bound itself (other values: Higgins et al. 2017).
      kl_warmup_fraction: of the run, in which that weight grows from 0 (Bowman et al., section 3.1); 0: it is there at once.
      kl_schedule: "linear", or "sigmoid", centred at half of the warm-up.
      free_bits: nats of each dimension of each text that cost nothing.
      num_steps: of the run; 0: the run fills it in.
    """

    beta: float = 1.0
    kl_warmup_fraction: float = 0.0
    kl_schedule: str = "linear"
    free_bits: float = 0.0
    num_steps: int = 0

    def __post_init__(self):
        for name in ("beta", "free_bits", "num_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"objective.{name}={getattr(self, name)} must be 0 or more")
        if not 0 <= self.kl_warmup_fraction <= 1:
            raise ValueError(
                f"objective.kl_warmup_fraction={self.kl_warmup_fraction} must be from 0 to 1"
            )
        if self.kl_schedule not in SCHEDULES:
            raise ValueError(
                f'objective.kl_schedule="{self.kl_schedule}": accepted are {", ".join(SCHEDULES)}'
            )

    def warmth(self, step: Array) -> Array:
        """The share of `beta` that counts at a step, float32 []."""
        if not self.kl_warmup_fraction:
            return jnp.ones((), jnp.float32)
        if not self.num_steps:
            raise ValueError(
                f"objective.kl_warmup_fraction={self.kl_warmup_fraction} is of objective.num_steps, which is 0: a run "
                "fills it in"
            )
        share = step.astype(jnp.float32) / (self.kl_warmup_fraction * self.num_steps)
        if self.kl_schedule == "linear":
            return jnp.minimum(share, 1.0)
        return jnp.where(share < 1, jax.nn.sigmoid(12.0 * share - 6.0), 1.0)


class ELBO:
    """Terms: `nll`, -sum w log p(target | tokens before, z) with one z of each text, drawn from q(z | text); `kl`, the warm-up's
    share times sum over texts and dimensions of max(free_bits, KL(q || p)). Both are divided by all scored tokens, and `kl` is
    multiplied with beta: the loss is (nll + beta KL) / tokens, nats a token.

    Free bits (Kingma et al. 2016, arXiv:1606.04934, appendix C.8): each dimension has its own; deviation: of each text, where the
    paper takes a dimension's mean over the micro-batch, which would couple its rows (as Li et al. 2019, arXiv:1909.00868, do).

    Batch: tokens int32 [B, T]; targets int32 [B, T], already shifted, which the encoder reads; weights float32 [B, T]. A row
    is one text. Reports `loss`, minus the bound with all of the divergence whatever is trained on, nats a token; its parts `nll`, nats
    a token, and `kl`, nats a text; `kl_weight`; `active_units`, the dimensions in which the texts of a micro-batch differ.
    """

    Config = Config
    batch_keys: ClassVar[tuple[str, ...]] = ("targets", "weights")
    coupled: ClassVar[bool] = False

    def __init__(self, config: Config, model: Any):
        """Raises ValueError for a model without a latent."""
        require_direction(model, "latent", "elbo", "it has no latent that a bound could be of")
        self.config, self.model = config, model
        self.terms: Mapping[str, float] = {"nll": 1.0, "kl": config.beta}

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Counted targets, for both terms."""
        total = jnp.sum(batch["weights"].astype(jnp.float32))
        return dict.fromkeys(self.terms, total)

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums of both terms over this batch; z and dropouts are drawn from ctx.key."""
        inputs = {key: batch[key] for key in model_inputs(self.model) if key in batch}
        rngs = {name: randomness.named_key(ctx.key, name) for name in ("dropout", "latent")}
        output = self.model.apply({"params": params}, **inputs, train=ctx.train, rngs=rngs)
        nll = metrics.weighted(output.token_stats(batch["targets"]).nll, batch["weights"])
        real_B = jnp.any(batch["weights"] > 0, axis=1).astype(jnp.float32)
        kl_BZ = output.aux["kl_BZ"]
        kl = metrics.weighted(jnp.sum(kl_BZ, axis=1), real_B)
        counted_B = jnp.sum(jnp.maximum(kl_BZ, self.config.free_bits), axis=1)
        warmth, one = self.config.warmth(ctx.step), jnp.ones((), jnp.float32)
        report = {
            "loss": Sums(nll.total + kl.total, nll.weight),
            "nll": nll,
            "kl": kl,
            "kl_weight": metrics.weighted(self.config.beta * warmth, one),
            "active_units": metrics.weighted(active_units(output.aux["mean_BZ"], real_B), one),
        }
        sums = {"nll": nll.total, "kl": warmth * metrics.weighted(counted_B, real_B).total}
        return LossOut(sums=sums, report=report, vars=ctx.vars)


def active_units(mean_BZ: Array, real_B: Array) -> Array:
    """How many dimensions of the posterior's mean vary over the texts by more than gaussian.ACTIVE, float32 []."""
    count = jnp.maximum(jnp.sum(real_B), 1.0)
    centre_Z = jnp.sum(mean_BZ * real_B[:, None], axis=0) / count
    squares_BZ = jnp.square(mean_BZ - centre_Z[None]) * real_B[:, None]
    variance_Z = jnp.sum(squares_BZ, axis=0) / count
    return jnp.sum(variance_Z > gaussian.ACTIVE).astype(jnp.float32)
