"""T5 1.0 (Raffel et al. 2020, arXiv:1910.10683) and 1.1 from one config.

Not for losses (objectives/), span corruption (data/) or search (decode/).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.linear import Head
from jaxlm.layers.two_stacks import TwoStacks
from jaxlm.layers.two_stacks_config import TwoStacksConfig

MLPS = ("relu", "geglu")


@dataclasses.dataclass(frozen=True)
class T5Config(TwoStacksConfig):
    """T5 1.0 small by default; 1.1: mlp="geglu", tie_embeddings=False."""

    # What T5 leaves no choice in.
    norm: ClassVar[str] = "rmsnorm"
    bias: ClassVar[bool] = False
    inits: ClassVar[tuple[str, ...]] = ("fan_in",)
    init: ClassVar[str] = "fan_in"
    init_std: ClassVar[float] = 1.0  # of embeddings

    num_layers: int = 6
    d_model: int = 512
    num_heads: int = 8
    max_len: int = 512  # of examples; the model itself has no limit
    norm_eps: float = 1e-6
    mlp: str = "relu"  # or "geglu"
    tie_embeddings: bool = True  # then the decoder's states are scaled by d_model ** -0.5
    relative_buckets: int = 32
    relative_max_distance: int = 128  # keys farther away share a bucket

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(mlp=MLPS)
        self.check_least(relative_buckets=4)
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"model.relative_max_distance={self.relative_max_distance} must be more than half of "
                f"model.relative_buckets={self.relative_buckets}"
            )

    def spec(self, causal: bool) -> Spec:
        """What a stack's self-attention asks: scores are not scaled, the initial weights are."""
        relative = (self.relative_buckets, self.relative_max_distance)
        return Spec(causal=causal, scale=1.0, relative=relative)


class T5(TwoStacks):
    """tokens int32 [B, T], source int32 [B, S] -> NeuralOutput of the tokens.

    Initialised as the authors' code, but for the untied head (variance 1 / d_model instead of 1, so that
    a fresh model's predictions are as even as 1.0's). Dropout of attention probabilities and inside
    the feed-forward layers is left out. Of `positions` and `source_positions` only the distances in a row count, which
    are the same wherever a segment begins.
    """

    Config = T5Config
    config: T5Config

    def tables(self) -> tuple[Embedding, Embedding]:
        """One for both sides."""
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        table = Embedding(cfg.vocab_rows, cfg.d_model, init, dtype=cfg.compute_dtype, name="embed")
        return table, table

    def end(self, side: str, x: Array, drop: nn.Dropout) -> Array:
        return drop(self.config.make_norm(f"{side}_norm")(x))

    def head(self, x: Array, target: Embedding) -> tuple[Array, Array]:
        cfg = self.config
        if cfg.tie_embeddings:
            return x * jnp.asarray(cfg.d_model**-0.5, x.dtype), target.embedding.T
        init = nn.initializers.normal(cfg.d_model**-0.5)
        return x, Head(cfg.vocab_rows, cfg.d_model, init, name="head")()
