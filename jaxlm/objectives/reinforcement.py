"""Learning from rewards of whole completions: PPO with a critic, and GRPO, whose yardstick are completions of the same prompt.

Losses only. Completions are written, and rewarded by rules, in train/steps/policy.py; a reward model is read here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree
from jaxlm.objectives import estimators
from jaxlm.objectives.rollouts import Drawn, FromRollouts, check_average, drawn


@dataclasses.dataclass(frozen=True)
class Config:
    """What both have.

    Attributes:
      reference: the run or folder whose probabilities the model is held to; "": its own as it began.
      reward_model: a run or folder with a value head, whose number at the last token is added to step.reward; "": none.
      clip: how far from 1 a token's probability ratio counts; PPO, eq. 7.
      kl_coef: of the KL to the reference.
      kl_in: "loss", a term of it, or "reward", taken off the rewards.
      kl_estimator: of the KL from a token's log-probabilities (estimators.kl): "k1" or "k3".
      entropy_coef: of the entropy, which is added.
      average: of the tokens' losses: see rollouts.averaged.
    """

    reference: str = ""
    reward_model: str = ""
    clip: float = 0.2
    kl_coef: float = 0.04
    kl_in: str = "loss"
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    average: str = "sequence"

    def __post_init__(self):
        check_average(self.average)
        if not 0 < self.clip < 1:
            raise ValueError(f"objective.clip={self.clip} must be in (0, 1)")
        for name in ("kl_coef", "entropy_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name}={getattr(self, name)} must be 0 or more")
        for name, accepted in (("kl_in", ("loss", "reward")), ("kl_estimator", ("k1", "k3"))):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f'objective.{name}="{getattr(self, name)}": accepted are {", ".join(accepted)}'
                )
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                'objective.kl_estimator="k1" has no gradient on average in a loss: take "k3", or kl_in="reward"'
            )


@dataclasses.dataclass(frozen=True)
class GRPOConfig(Config):
    """As Config.

    Attributes:
      scale: divide by the standard deviation of a group's rewards. Without, and with average="constant", it is Dr. GRPO
        (Liu et al. 2025, arXiv:2503.20783); average="token" is DAPO's (Yu et al. 2025, arXiv:2503.14476, eq. 8).
    """

    scale: bool = True


@dataclasses.dataclass(frozen=True)
class PPOConfig(Config):
    """As Config, with the KL in the reward as Ziegler et al. 2019 have it (arXiv:1909.08593, eq. 2).

    Attributes:
      gamma: discount of a later token's reward.
      gae_lambda: of generalised advantage estimation.
      value_clip: how far from the old one a value counts.
      value_coef: of the critic's loss.
      whiten: advantages get mean 0 and standard deviation 1 over a rollout.
    """

    kl_coef: float = 0.05
    kl_in: str = "reward"
    kl_estimator: str = "k1"
    average: str = "token"
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_clip: float = 0.2
    value_coef: float = 0.1
    whiten: bool = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name}={getattr(self, name)} must be from 0 to 1")
        for name in ("value_clip", "value_coef"):
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name}={getattr(self, name)} must be above 0")


class Reinforcement(FromRollouts):
    """What PPO and GRPO share."""

    others: ClassVar[tuple[str, ...]] = ("reference", "reward_model")
    own: ClassVar[tuple[str, ...]] = ("reference",)
    optional: ClassVar[tuple[str, ...]] = ("reward_model",)
    made: ClassVar[str] = "advantages"
    has_critic: ClassVar[bool] = False

    def __init__(self, config: Config, model: Any, terms: dict[str, float], modules: dict):
        """Raises ValueError for a reward model without a value head."""
        in_loss = config.kl_coef if config.kl_in == "loss" else 0.0
        terms = terms | {"kl": in_loss, "entropy": -config.entropy_coef}
        super().__init__(config, model, {"policy": 1.0} | terms, modules)
        self.rewards_itself = bool(config.reward_model)
        if self.rewards_itself:
            require_values(modules["reward_model"], "objective.reward_model is a model")

    def rewards(self, frozen: PyTree, rollout: Batch) -> Array:
        """Those of the rules, and the reward model's at each completion's last token, [B]."""
        if not self.rewards_itself:
            return rollout["rewards"]
        params = {"params": frozen["reward_model"]}
        values_BT = self.modules["reward_model"].apply(params, rollout["tokens"]).aux["value_BT"]
        before_BT = estimators.last(
            rollout["weights"]
        )  # the last target is the token that comes next
        last_BT = jnp.pad(before_BT[:, :-1], ((0, 0), (1, 0)))
        return rollout["rewards"] + jnp.sum(values_BT * last_BT, axis=1)

    def kl_to_reference(self, log_probs_BT: Array, reference_BT: Array) -> Array:
        """By the config's estimator, [B, T]."""
        return estimators.kl(log_probs_BT, reference_BT, self.config.kl_estimator)

    def scores(self, params: PyTree, frozen: PyTree, rollout: Batch) -> dict[str, Array]:
        """Rewards float32 [B], and [B, T] `old_log_probs`, `reference_log_probs` and, of a critic, `old_values`."""
        reference = self.modules["reference"].apply(
            {"params": frozen["reference"]}, rollout["tokens"]
        )
        output = self.run(params, rollout)
        found = {
            "rewards": self.rewards(frozen, rollout),
            "old_log_probs": drawn(output, rollout).log_probs,
            "reference_log_probs": drawn(reference, rollout).log_probs,
        }
        if self.has_critic:
            found["old_values"] = output.aux["value_BT"] * rollout["weights"]
        return found

    def charged_kl(self, rollout: Batch) -> Array:
        """What the KL takes off the reward at each token, [B, T]; nothing where it is in the loss."""
        if self.config.kl_in == "loss":
            return jnp.zeros_like(rollout["weights"])
        estimate = self.kl_to_reference(rollout["old_log_probs"], rollout["reference_log_probs"])
        return self.config.kl_coef * estimate * rollout["weights"]

    def policy_terms(self, now: Drawn, batch: Batch) -> tuple[dict[str, Array], dict[str, Array]]:
        """Losses [B, T], and figures that are shown."""
        log_ratio = now.log_probs - batch["old_log_probs"]
        policy, clipped = estimators.clipped_policy_loss(
            log_ratio, batch["advantages"], self.config.clip
        )
        estimate = self.kl_to_reference(now.log_probs, batch["reference_log_probs"])
        losses = {"policy": policy, "kl": estimate, "entropy": now.entropy}
        losses = {name: values for name, values in losses.items() if name in self.terms}
        return losses, {"kl": estimate, "entropy": now.entropy, "clip_fraction": clipped}


class GRPO(Reinforcement):
    """Group relative policy optimisation: -min(r A, clip(r) A) + beta KL, A a completion's reward less its group's mean, / std.

    Source: Shao et al., DeepSeekMath, 2024, arXiv:2402.03300, eq. 3 and 4, outcome supervision (section 4.1.2). The standard
    deviation is a sample's (n - 1), with 1e-4 added, as in trl. With one update of a rollout r = 1.

    Batch: a rollout of at least two completions a prompt; `experience` adds what the loss reads.
    """

    Config = GRPOConfig
    kind: ClassVar[str] = "grpo"

    def __init__(self, config: GRPOConfig, model: Any, **modules: Any):
        super().__init__(config, model, {}, modules)

    def experience(self, rollout: Batch, group_size: int) -> dict[str, Array]:
        """The rollout with `advantages`, float32 [B, T].

        Raises:
          ValueError: one completion of each prompt.
        """
        if group_size < 2:
            raise ValueError(
                f'objective.kind="grpo" compares completions of one prompt: step.num_completions={group_size} must be '
                "at least 2"
            )
        rewards_B = rollout["rewards"] - jnp.sum(self.charged_kl(rollout), axis=1)
        advantages_B = estimators.group_advantages(rewards_B, group_size, self.config.scale)
        return rollout | {"advantages": advantages_B[:, None] * rollout["weights"]}

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums over this batch."""
        output = self.run(params, batch, ctx.key, train=ctx.train)
        losses, shown = self.policy_terms(drawn(output, batch), batch)
        return self.out(losses, shown, output.aux, ctx, batch)


class PPO(Reinforcement):
    """Proximal policy optimisation with a critic on the same trunk (model.value_head).

    Source: Schulman et al., Proximal Policy Optimization Algorithms, 2017, arXiv:1707.06347, eq. 7, 9, 11 and 12; advantages by
    GAE (arXiv:1506.02438, eq. 16). Every token is a step, the reward stands at the last one, behind which the value is 0. As
    is usual since OpenAI's code, and not in the paper: values are clipped as ratios are, and advantages whitened.

    Batch: a rollout; `experience` adds what the loss reads.
    """

    Config = PPOConfig
    kind: ClassVar[str] = "ppo"
    has_critic: ClassVar[bool] = True

    def __init__(self, config: PPOConfig, model: Any, **modules: Any):
        """Raises ValueError for a model without a value head."""
        require_values(model, 'objective.kind="ppo" has a critic')
        super().__init__(config, model, {"value": config.value_coef}, modules)

    def experience(self, rollout: Batch, group_size: int) -> dict[str, Array]:
        """The rollout with `advantages` and `returns`, float32 [B, T]."""
        del group_size
        weights, values_BT = rollout["weights"], rollout["old_values"]
        rewards_BT = rollout["rewards"][:, None] * estimators.last(weights)
        rewards_BT -= self.charged_kl(rollout)
        gamma, gae_lambda = self.config.gamma, self.config.gae_lambda
        advantages_BT = estimators.gae(rewards_BT, values_BT, weights, gamma, gae_lambda)
        returns_BT = advantages_BT + values_BT
        if self.config.whiten:
            advantages_BT = estimators.whitened(advantages_BT, weights)
        return rollout | {"advantages": advantages_BT, "returns": returns_BT}

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums over this batch."""
        output = self.run(params, batch, ctx.key, train=ctx.train)
        losses, shown = self.policy_terms(drawn(output, batch), batch)
        losses["value"] = estimators.clipped_value_loss(
            output.aux["value_BT"], batch["old_values"], batch["returns"], self.config.value_clip
        )
        return self.out(losses, shown, output.aux, ctx, batch)


def require_values(model: Any, why: str) -> None:
    """Raises ValueError for a model without a value head."""
    if not getattr(getattr(model, "config", None), "value_head", False):
        raise ValueError(f"{why} with model.value_head=True, and this one has none")
