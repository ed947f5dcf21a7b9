"""The Transformer (Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762): one text from another.

Not for losses (objectives/), pairs of texts (data/) or search (decode/).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.additive_attention import AdditiveAttention
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.linear import Head, Initializer
from jaxlm.layers.positions import sinusoids
from jaxlm.layers.two_stacks import TwoStacks
from jaxlm.layers.two_stacks_config import TwoStacksConfig

POSITIONS = ("sinusoidal", "learned")
CROSS_ATTENTIONS = ("dot", "additive")


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig(TwoStacksConfig):
    """The paper's base model by default."""

    inits: ClassVar[tuple[str, ...]] = ("xavier",)
    init: ClassVar[str] = "xavier"
    init_std: ClassVar[None] = None  # of embeddings d_model ** -0.5

    num_layers: int = 6
    d_model: int = 512
    num_heads: int = 8
    max_len: int = 512  # of examples; learned positions are so many, sinusoids have no limit
    mlp: str = "relu"
    dropout: float = 0.1
    post_norm: bool = True  # False: norms before the branches, and one more behind each stack
    positions: str = "sinusoidal"  # or "learned", a table for each side
    share_embeddings: bool = True  # source and target tokens are rows of one table
    tie_embeddings: bool = True  # the head is the target's table
    cross_attention: str = "dot"  # or "additive": the decoder reads the source as Bahdanau et al.

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(positions=POSITIONS, cross_attention=CROSS_ATTENTIONS)

    def initializers(self) -> tuple[Initializer, Initializer, Initializer]:
        """Xavier-uniform (Glorot and Bengio 2010) for all kernels but those of `attention_initializers`."""
        xavier = nn.initializers.xavier_uniform()
        return xavier, xavier, xavier

    def attention_initializers(self) -> tuple[Initializer, Initializer, Initializer]:
        """Half of Xavier's variance where queries, keys and values are made.

        As torch.nn.Transformer and fairseq have it, who make the three by one product of three times the width.
        """
        narrow = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
        return narrow, narrow, nn.initializers.xavier_uniform()

    def make_attention(self, name: str, spec: Spec) -> nn.Module:
        if not (spec.cross and self.cross_attention == "additive"):
            return super().make_attention(name, spec)
        kernel_init, _, out_init = self.attention_initializers()
        return AdditiveAttention(
            self.num_heads,
            self.head_width,
            kernel_init,
            out_init,
            bias=self.bias,
            dtype=self.compute_dtype,
            name=name,
        )

    def cross_choice(self, spec: Spec) -> tuple[str, str]:
        if self.cross_attention == "additive":
            return "additive", 'model.cross_attention="additive"'
        return super().cross_choice(spec)


class EncoderDecoder(TwoStacks):
    """tokens int32 [B, T], source int32 [B, S] -> NeuralOutput of the tokens.

    As the paper's section 3, with dropout where its section 5.4 has it: of the sums of embeddings and positions, and of
    every branch before it is added. Embeddings, and learned positions, are drawn with a standard deviation of
    d_model ** -0.5, and embeddings multiplied by d_model ** 0.5 (section 3.4). Post-norm stacks end with their last
    block's norm (torch.nn.Transformer adds another one behind it).
    """

    Config = EncoderDecoderConfig
    config: EncoderDecoderConfig

    def _table(self, name: str, rows: int, axis: str | None = None) -> Embedding:
        cfg = self.config
        init = nn.initializers.normal(cfg.d_model**-0.5)
        return Embedding(rows, cfg.d_model, init, (axis, "embed"), cfg.compute_dtype, name=name)

    def tables(self) -> tuple[Embedding, Embedding]:
        rows = self.config.vocab_rows
        target = self._table("embed", rows, "vocab")
        if self.config.share_embeddings:
            return target, target
        return self._table("source_embed", rows, "vocab"), target

    def begin(self, side: str, x: Array, positions: Array) -> Array:
        cfg = self.config
        x = x * jnp.asarray(cfg.d_model**0.5, x.dtype)
        if cfg.positions == "learned":
            return x + self._table(f"{side}_positions", cfg.max_len)(positions)
        return x + sinusoids(positions, cfg.d_model).astype(x.dtype)

    def end(self, side: str, x: Array, drop: nn.Dropout) -> Array:
        return x if self.config.post_norm else self.config.make_norm(f"{side}_norm")(x)

    def head(self, x: Array, target: Embedding) -> tuple[Array, Array]:
        cfg = self.config
        if cfg.tie_embeddings:
            return x, target.embedding.T
        init = nn.initializers.xavier_uniform()
        return x, Head(cfg.vocab_rows, cfg.d_model, init, name="head")()

    @property
    def position_limit(self) -> int | None:
        return self.config.max_len if self.config.positions == "learned" else None
