"""On-policy distillation: a student learns, at every token of what it has written itself, its teacher's distribution.

Not for a teacher's texts or soft targets of given data (distillation.py).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core.outputs import scored
from jaxlm.core.types import Array, Batch, LossContext, LossOut, PyTree
from jaxlm.objectives.rollouts import FromRollouts, check_average

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is matched, and where.

    Attributes:
      teacher: the run or folder of a model with this vocabulary.
      divergence: "forward_kl", KL(teacher || student); "reverse_kl", KL(student || teacher); "jsd", the generalised one.
      beta: the teacher's share of jsd's mixture.
      on_policy: share of the steps that learn from the student's completions; the others from those of the data.
      average: of the tokens' divergences: see rollouts.averaged.
    """

    teacher: str = ""
    divergence: str = "jsd"
    beta: float = 0.5
    on_policy: float = 1.0
    average: str = "sequence"

    def __post_init__(self):
        check_average(self.average)
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f'objective.divergence="{self.divergence}": accepted are {", ".join(DIVERGENCES)}'
            )
        if not 0 < self.beta < 1:
            raise ValueError(
                f"objective.beta={self.beta} must be in (0, 1): its ends are forward_kl and reverse_kl"
            )
        if not 0 <= self.on_policy <= 1:
            raise ValueError(f"objective.on_policy={self.on_policy} must be from 0 to 1")


class OnPolicyDistillation(FromRollouts):
    """The mean over a completion's tokens of a divergence between the teacher's and the student's next-token distributions.

    Source: Agarwal et al., On-Policy Distillation of Language Models, 2023, arXiv:2306.13649, eq. 1 and algorithm 1 (lambda is
    `on_policy`); no gradient goes through what was drawn.

    Batch: a rollout. The loss runs the teacher itself, so that its distributions are never kept.
    """

    Config = Config
    kind: ClassVar[str] = "on_policy_distillation"
    others: ClassVar[tuple[str, ...]] = ("teacher",)
    made: ClassVar[str] = "temperature"
    rewards_itself: ClassVar[bool] = True  # none is needed

    def __init__(self, config: Config, model: Any, **modules: Any):
        super().__init__(config, model, {config.divergence: 1.0}, modules)

    @property
    def on_policy(self) -> float:
        """Share of the steps for which completions are drawn."""
        return self.config.on_policy

    def scores(self, params: PyTree, frozen: PyTree, rollout: Batch) -> dict[str, Array]:
        """Nothing: the loss asks the teacher itself."""
        del params, frozen, rollout
        return {}

    def experience(self, rollout: Batch, group_size: int) -> dict[str, Array]:
        """The rollout as it is."""
        del group_size
        return {name: value for name, value in rollout.items() if name != "rewards"}

    def __call__(self, params: PyTree, ctx: LossContext, batch: Batch) -> LossOut:
        """Sums over this batch.

        Raises:
          ValueError: the teacher's vocabulary has another size.
        """
        output = self.run(params, batch, ctx.key, train=ctx.train)
        teacher = self.modules["teacher"].apply({"params": ctx.frozen["teacher"]}, batch["tokens"])
        if teacher.vocab_size != output.vocab_size:
            raise ValueError(
                f"objective.teacher has {teacher.vocab_size} ids, and the model {output.vocab_size}: their probabilities "
                "can't be compared"
            )
        figures = functools.partial(divergence, kind=self.config.divergence, beta=self.config.beta)
        values_BT = scored((output, teacher), figures)
        return self.out({self.config.divergence: values_BT}, {}, output.aux, ctx, batch)


def divergence(student_logits: Array, teacher_logits: Array, kind: str, beta: float) -> Array:
    """Over the last axis, nats; jsd = beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q, P the teacher."""
    student = jax.nn.log_softmax(student_logits, axis=-1)
    teacher = jax.nn.log_softmax(teacher_logits, axis=-1)
    if kind == "forward_kl":
        return _kl(teacher, student)
    if kind == "reverse_kl":
        return _kl(student, teacher)
    mixture = jnp.logaddexp(teacher + jnp.log(beta), student + jnp.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(left: Array, right: Array) -> Array:
    """KL(left || right) of log-probabilities."""
    return jnp.sum(jnp.exp(left) * (left - right), axis=-1)
