"""The part of a transformer's config that says what its mixtures of experts are. The layer: moe.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from jaxlm.core.types import PyTree
from jaxlm.layers import grouped

EXPERTS = "experts"
"""The subtree of parameters of which a token meets experts_per_token / num_experts; a layer's first axis is the expert."""


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """Fields of a TransformerConfig whose blocks may hold experts: class GPTConfig(ExpertsConfig, TransformerConfig).

    Mixtral: num_experts=8. Switch: experts_per_token=1, capacity_factor=1.25, moe_every=2. DeepSeekMoE: many experts,
    num_shared_experts, and an expert_d_ff that is a fraction of d_ff.
    """

    num_experts: int = 0  # in a block's MLP; 0: it is dense
    experts_per_token: int = 2
    num_shared_experts: int = 0  # for every token, besides
    expert_d_ff: int | None = None  # None: as d_ff
    capacity_factor: float = 0.0  # in training an expert takes so many times its even share; 0: all
    moe_every: int = 1  # every so many-th block has experts, the others are dense
    load_balance_loss: float = 0.01  # coefficients of losses, whose means over layers count
    router_z_loss: float = 0.001
    expert_backend: str = "auto"

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(expert_backend=grouped.BACKENDS)
        if not self.num_experts:
            for field in dataclasses.fields(ExpertsConfig):
                value = getattr(self, field.name)
                if value != field.default:
                    raise ValueError(
                        f"model.{field.name}={value!r} needs model.num_experts, the number of experts"
                    )
            return
        self.check_least(num_experts=1, experts_per_token=1, expert_d_ff=1, moe_every=1)
        self.check_least(
            num_shared_experts=0, capacity_factor=0, load_balance_loss=0, router_z_loss=0
        )
        for name, most in (("experts_per_token", "num_experts"), ("moe_every", "num_layers")):
            if getattr(self, name) > getattr(self, most):
                raise ValueError(
                    f"model.{name}={getattr(self, name)} must be at most model.{most}={getattr(self, most)}"
                )
        if self.scan_layers and self.moe_every > 1:
            raise ValueError(
                f"model.moe_every={self.moe_every}: model.scan_layers needs blocks that are all alike"
            )

    @property
    def expert_width(self) -> int:
        return self.ff_width if self.expert_d_ff is None else self.expert_d_ff

    def expert_choice(self) -> tuple[str, str]:
        """The backend that will run the experts on this device, and why."""
        return grouped.choose(self.expert_backend)

    @property
    def aux_terms(self) -> Mapping[str, float]:
        """Coefficients of what the routers report of themselves."""
        if not self.num_experts:
            return {}
        found = {"load_balance": self.load_balance_loss, "z": self.router_z_loss}
        return {f"router/{name}": coef for name, coef in found.items() if coef}

    def is_dense(self, layer: int) -> bool:
        """Whether block `layer`, from 0, has no experts: all but every moe_every-th, the last of them at the end."""
        return not self.num_experts or (layer + 1) % self.moe_every != 0

    def active_size(self, params: PyTree) -> int:
        """Parameters that a token meets: of the experts its own only."""
        total = 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            chosen = EXPERTS in (getattr(key, "key", None) for key in path)
            total += leaf.size * self.experts_per_token // self.num_experts if chosen else leaf.size
        return total

    @property
    def mlp_activations(self) -> int:
        """Numbers that a token's way through a block's MLP keeps; of a mixture also the rows that are sorted."""
        if not self.num_experts:
            return super().mlp_activations
        chosen, shared = self.experts_per_token, self.num_shared_experts
        return 6 * (chosen + shared) * self.expert_width + 4 * chosen * self.d_model
