"""Losses of two players, a generator of texts and a discriminator, as functions of what was judged; and the likelihood.

Goodfellow et al. 2014 (arXiv:1406.2661); with a policy gradient, SeqGAN (Yu et al. 2017, arXiv:1609.05473). Not for how texts
are written (train/steps/fakes.py) or who learns when (train/steps/adversarial.py).
Letters here: P judgements of a text, 1 or one at each position.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.objectives import causal_lm, token_nll

GENERATORS = ("gumbel", "policy")
LOSSES = ("non_saturating", "minimax")
BASELINES = ("others", "none")


@dataclasses.dataclass(frozen=True)
class Config(token_nll.NoOptions):
    """How the generator learns behind its pretraining.

    Attributes:
      generator: "gumbel", through relaxed tokens; "policy", by REINFORCE.
      generator_loss: of "gumbel": "non_saturating", -log D(fake), or "minimax", log(1 - D(fake)).
      discount: of "policy" with rewards at several positions: what a reward counts for the token before.
      baseline: of "policy": "others", the mean return of the batch's other texts at the same position; or "none", as in SeqGAN.
      likelihood: coefficient of the likelihood of real text beside that; 0: none, as in both papers.
    """

    generator: str = "gumbel"
    generator_loss: str = "non_saturating"
    discount: float = 1.0
    baseline: str = "others"
    likelihood: float = 0.0

    def __post_init__(self):
        for name, accepted in (
            ("generator", GENERATORS),
            ("generator_loss", LOSSES),
            ("baseline", BASELINES),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f'objective.{name}="{getattr(self, name)}": accepted are {", ".join(accepted)}'
                )
        if not 0 <= self.discount <= 1:
            raise ValueError(f"objective.discount={self.discount} must be from 0 to 1")
        if not 0 <= self.likelihood < math.inf:
            raise ValueError(f"objective.likelihood={self.likelihood} must be 0 or more")


class Adversarial(causal_lm.CausalLM):
    """Called, it is the likelihood, as objective.kind="causal_lm"; the players' own losses are this file's functions.

    They are of a whole batch: an update of one player comes before the other's, so batches are not cut.
    """

    Config = Config
    kind: ClassVar[str] = "adversarial"
    coupled: ClassVar[bool] = True

    def __init__(self, config: Config, model: Any):
        """Raises ValueError where the model has no discriminator, or is not causal."""
        super().__init__(config, model)
        if not hasattr(model, "judge"):
            raise ValueError(
                'objective.kind="adversarial" needs a model with a discriminator (model.kind="gan"), not '
                f"{type(model).__name__}"
            )

    def of_fakes(self, logits_BP: Array) -> Array:
        """The generator's loss by the config, of its relaxed texts; see `generator_loss`."""
        return generator_loss(logits_BP, self.config.generator_loss)

    def advantages(self, returns_BT: Array) -> Array:
        """Returns less the config's baseline."""
        if self.config.baseline == "none":
            return returns_BT
        return returns_BT - mean_of_others(returns_BT)


def discriminator_loss(real_BP: Array, fake_BP: Array) -> Array:
    """-mean log D(real) - mean log(1 - D(fake)), nats (Goodfellow et al. 2014, eq. 1, with its sign turned).

    Args:
      real_BP, fake_BP: log-odds that a text is real; as many of both are not needed.
    """
    return jnp.mean(jax.nn.softplus(-real_BP)) + jnp.mean(jax.nn.softplus(fake_BP))


def generator_loss(fake_BP: Array, kind: str) -> Array:
    """What the generator makes small, of the log-odds of its texts, nats.

    "non_saturating": -mean log D(fake), whose gradient is largest where the discriminator is right (Goodfellow et al. 2014,
    section 3); "minimax": mean log(1 - D(fake)), the other player's loss turned.
    """
    if kind == "minimax":
        return -jnp.mean(jax.nn.softplus(fake_BP))
    return jnp.mean(jax.nn.softplus(-fake_BP))


def accuracies(real_BP: Array, fake_BP: Array) -> dict[str, Array]:
    """The share of judgements that are right, of real texts and of fakes; odds of one to one are no judgement."""
    return {
        "real_accuracy": jnp.mean((real_BP > 0).astype(jnp.float32)),
        "fake_accuracy": jnp.mean((fake_BP < 0).astype(jnp.float32)),
    }


def returns(rewards_BT: Array, discount: float) -> Array:
    """R_t = r_t + discount R_{t+1}."""

    def before(later_B: Array, reward_B: Array) -> tuple[Array, Array]:
        total_B = reward_B + discount * later_B
        return total_B, total_B

    zeros_B = jnp.zeros(len(rewards_BT), rewards_BT.dtype)
    return jax.lax.scan(before, zeros_B, rewards_BT.T, reverse=True)[1].T


def mean_of_others(values_BT: Array) -> Array:
    """Of each row the mean of all others: what a row drew plays no part in it, so it is a baseline without bias.

    Source: Kool, van Hoof and Welling, Buy 4 REINFORCE Samples, Get a Baseline for Free!, 2019.

    Raises:
      ValueError: a single row.
    """
    if (count := len(values_BT)) < 2:
        raise ValueError(
            'batch_size=1: objective.baseline="others" needs at least 2 texts; or take "none"'
        )
    return (jnp.sum(values_BT, axis=0, keepdims=True) - values_BT) / (count - 1)


def policy_loss(log_probs_BT: Array, advantages_BT: Array) -> Array:
    """-mean over texts of sum_t A_t log p(y_t), divided by T; its gradient is REINFORCE's (Williams 1992; SeqGAN eq. 7).

    No gradient flows into the advantages. SeqGAN's sum is not divided by T, which a rate of Adam's would not notice.
    """
    return -jnp.mean(log_probs_BT * jax.lax.stop_gradient(advantages_BT))
