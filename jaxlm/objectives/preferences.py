"""Learning from which of two texts is better, without a reward model: DPO, IPO, ORPO.

A row holds the better text as segment 1 and the worse one as segment 2, both with their prompt; weights are 1 on the
completions' targets. Verdicts on single texts are in kto.py, reward models in reward.py.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core import metrics
from jaxlm.core.types import Array, Batch, LossContext, LossOut, ModelOutput, PyTree, Sums
from jaxlm.objectives import segments
from jaxlm.objectives.token_nll import require_direction

CHOSEN, REJECTED = 0, 1
"""Places of a row's segments."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What all have that are held to a reference.

    Attributes:
      reference: a run or a folder of the model that the policy is held to; "": the run's own as it began.
      beta: how strongly; of IPO the paper's tau.
    """

    reference: str = ""
    beta: float = 0.1

    def __post_init__(self):
        check_positive(self, "beta")


@dataclasses.dataclass(frozen=True)
class DPOConfig(Config):
    """As Config.

    Attributes:
      nll_coef: of the better text's negative log-likelihood, nats a token, which keeps it likely (Pang et al. 2024,
        arXiv:2404.19733, eq. 1).
    """

    nll_coef: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_coefficient(self, "nll_coef")


@dataclasses.dataclass(frozen=True)
class IPOConfig(Config):
    """As Config.

    Attributes:
      per_token: a text's log-probability is divided by its tokens, as trl has it; the paper's is their sum.
    """

    per_token: bool = False


@dataclasses.dataclass(frozen=True)
class ORPOConfig:
    """It has no reference.

    Attributes:
      odds_coef: the paper's lambda, of the odds ratio beside the better text's negative log-likelihood.
    """

    odds_coef: float = 0.1

    def __post_init__(self):
        check_positive(self, "odds_coef")


def check_positive(config: Any, name: str) -> None:
    """Raises ValueError for a field that is not positive and finite."""
    if not 0 < getattr(config, name) < math.inf:
        raise ValueError(f"objective.{name}={getattr(config, name)} must be positive and finite")


def check_coefficient(config: Any, name: str) -> None:
    """Raises ValueError for a field that is negative or infinite."""
    if not 0 <= getattr(config, name) < math.inf:
        raise ValueError(f"objective.{name}={getattr(config, name)} must be 0 or more")


def dpo(margins: Array, beta: float) -> Array:
    """-log sigma(beta h), h = log pi(y_w|x)/pi_ref(y_w|x) - log pi(y_l|x)/pi_ref(y_l|x).

    Source: Rafailov et al., Direct Preference Optimization, 2023, arXiv:2305.18290, eq. 7.
    """
    return -jax.nn.log_sigmoid(beta * margins)


def ipo(margins: Array, tau: float) -> Array:
    """(h - 1 / (2 tau))^2, h as in `dpo`.

    Source: Azar et al., A General Theoretical Paradigm to Understand Learning from Human Preferences, 2023,
    arXiv:2310.12036, eq. 17.
    """
    return jnp.square(margins - 1 / (2 * tau))


def log_odds_ratio(chosen: Array, rejected: Array) -> Array:
    """log of odds(y_w|x) / odds(y_l|x), odds = P / (1 - P), of mean log-probabilities a token, log P.

    Source: Hong, Lee and Thorne, ORPO, 2024, arXiv:2403.07691, eq. 3 to 5.
    """
    return (chosen - rejected) - (_log_not(chosen) - _log_not(rejected))


def _log_not(log_p: Array) -> Array:
    """log(1 - exp(log_p)), exact at both ends (Maechler 2012)."""
    log_p = jnp.minimum(log_p, -1e-6)
    near = log_p > -math.log(2)
    return jnp.where(
        near,
        jnp.log(-jnp.expm1(jnp.where(near, log_p, -1.0))),
        jnp.log1p(-jnp.exp(jnp.where(near, -1.0, log_p))),
    )


class Preferences:
    """An objective over pairs: `terms`' sums are of pairs, but of `nll`, which is of tokens of better texts.

    Reports `loss`, nats a pair; `accuracy`, the share of pairs whose better text has the greater reward; `margin`,
    `reward_chosen`, `reward_rejected`; with a reference `kl`, KL(policy || reference) a token over the whole vocabulary, on
    the contexts of these texts.
    """

    kind: ClassVar[str]
    batch_keys: ClassVar[tuple[str, ...]] = segments.BATCH_KEYS
    coupled: ClassVar[bool] = False
    per_token: ClassVar[bool] = False  # what `loss` is
    others: ClassVar[tuple[str, ...]] = ()
    num_segments: ClassVar[int] = 2

    def __init__(self, config: Any, model: Any, reference: Any = None):
        """Raises ValueError where the model is not causal."""
        why = "it would see the tokens whose probabilities are compared"
        require_direction(model, "causal", self.kind, why)
        self.config, self.model, self.reference = config, model, reference
        self.aux_terms = dict(getattr(model, "aux_terms", {}))
        self.terms = {"preference": 1.0} | self.aux_terms

    def weights(self, batch: Batch) -> dict[str, Array]:
        """Pairs, for each term."""
        return dict.fromkeys(self.terms, jnp.sum(self.counted(batch)))

    def counted(self, batch: Batch) -> Array:
        """Float32 [B], 1 for rows whose segments all have a weighed target."""
        sizes_BS = segments.num_targets(batch, self.num_segments)
        return jnp.all(sizes_BS > 0, axis=-1).astype(jnp.float32)

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums of every term over this batch."""
        output = segments.run(self.model, params, batch, ctx)
        count = jnp.sum(self.counted(batch))
        more, about = segments.of_the_model(self.model, output, count)
        sums, report = self.score(params, ctx, batch, output)
        return LossOut(sums=sums | more, report=report | about, vars=ctx.vars)

    def score(
        self, params: PyTree, ctx: LossContext, batch: Batch, output: ModelOutput
    ) -> tuple[dict[str, Array], dict[str, Sums]]:
        """The sum of every term, and what is reported."""
        raise NotImplementedError


def report_of(rewards_BS: Array, losses_B: Array, count_B: Array) -> dict[str, Sums]:
    """Figures of pairs for the log."""
    chosen, rejected = rewards_BS[:, CHOSEN], rewards_BS[:, REJECTED]
    found = {
        "loss": losses_B,
        "accuracy": chosen > rejected,
        "margin": chosen - rejected,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
    }
    return {name: metrics.weighted(values, count_B) for name, values in found.items()}


class Referenced(Preferences):
    """Pairs, by the log-ratio of policy and reference: beta times it is a text's reward."""

    others: ClassVar[tuple[str, ...]] = ("reference",)
    own: ClassVar[tuple[str, ...]] = ("reference",)

    def score(self, params, ctx, batch, output):
        found, count_B = segments.compare(self.reference, output, ctx, batch), self.counted(batch)
        ratios_BS = segments.totals(found.policy - found.reference, batch, self.num_segments)
        losses_B = self.losses(self.scaled(ratios_BS, batch))
        report = report_of(self.config.beta * ratios_BS, losses_B, count_B)
        report["kl"] = metrics.weighted(found.divergence, batch["weights"])
        return {"preference": metrics.weighted(losses_B, count_B).total}, report

    def scaled(self, ratios_BS: Array, batch: Batch) -> Array:
        """The log-ratios as the loss takes them."""
        del batch
        return ratios_BS

    def losses(self, ratios_BS: Array) -> Array:
        """Of every pair, float32 [B]."""
        raise NotImplementedError


class DPO(Referenced):
    """Terms: `preference`, see `dpo`; with nll_coef `nll`, the better texts' negative log-likelihood a token."""

    Config = DPOConfig
    kind: ClassVar[str] = "dpo"

    def __init__(self, config: DPOConfig, model: Any, reference: Any = None):
        super().__init__(config, model, reference)
        self.terms |= {"nll": config.nll_coef} if config.nll_coef else {}

    def weights(self, batch: Batch) -> dict[str, Array]:
        return with_tokens(super().weights(batch), batch)

    def losses(self, ratios_BS):
        return dpo(ratios_BS[:, CHOSEN] - ratios_BS[:, REJECTED], self.config.beta)

    def score(self, params, ctx, batch, output):
        sums, report = super().score(params, ctx, batch, output)
        if "nll" in self.terms:
            report["nll"] = nll_of_chosen(output, batch)
            sums["nll"] = report["nll"].total
        return sums, report


class IPO(Referenced):
    """Term: `preference`, see `ipo`."""

    Config = IPOConfig
    kind: ClassVar[str] = "ipo"

    def scaled(self, ratios_BS, batch):
        if not self.config.per_token:
            return ratios_BS
        return ratios_BS / jnp.maximum(segments.num_targets(batch, self.num_segments), 1.0)

    def losses(self, ratios_BS):
        return ipo(ratios_BS[:, CHOSEN] - ratios_BS[:, REJECTED], self.config.beta)


class ORPO(Preferences):
    """Terms: `nll`, the better texts' negative log-likelihood a token; `preference`, -log sigma(log_odds_ratio), with
    odds_coef (eq. 6 and 7). A text's reward in the log is its mean log-probability a token.
    """

    Config = ORPOConfig
    kind: ClassVar[str] = "orpo"

    def __init__(self, config: ORPOConfig, model: Any):
        super().__init__(config, model)
        self.terms |= {"nll": 1.0, "preference": config.odds_coef}

    def weights(self, batch: Batch) -> dict[str, Array]:
        return with_tokens(super().weights(batch), batch)

    def score(self, params, ctx, batch, output):
        count_B, sizes_BS = self.counted(batch), segments.num_targets(batch, 2)
        totals_BS = segments.totals(-output.token_nll(batch["targets"]), batch, 2)
        means_BS = totals_BS / jnp.maximum(sizes_BS, 1.0)
        losses_B = -jax.nn.log_sigmoid(log_odds_ratio(means_BS[:, CHOSEN], means_BS[:, REJECTED]))
        nll = Sums(-jnp.sum(totals_BS[:, CHOSEN]), jnp.sum(sizes_BS[:, CHOSEN]))
        report = report_of(means_BS, losses_B, count_B) | {"nll": nll}
        return {"preference": metrics.weighted(losses_B, count_B).total, "nll": nll.total}, report


def nll_of_chosen(output: ModelOutput, batch: Batch) -> Sums:
    """Nats of the better texts' targets, and how many they are."""
    totals_BS = segments.totals(output.token_nll(batch["targets"]), batch, 2)
    return Sums(jnp.sum(totals_BS[:, CHOSEN]), jnp.sum(segments.num_targets(batch, 2)[:, CHOSEN]))


def with_tokens(weights: dict[str, Array], batch: Batch) -> dict[str, Array]:
    """Weights of terms, that of `nll` being the better texts' targets."""
    if "nll" not in weights:
        return weights
    return weights | {"nll": jnp.sum(segments.num_targets(batch, 2)[:, CHOSEN])}
