"""BERT (Devlin et al. 2019, arXiv:1810.04805): a bidirectional encoder with a head for its task.

Not for masking (data/corruption.py) or losses (objectives/).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers import attention_backends
from jaxlm.layers.attention import SHOWN, Sight
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.linear import Initializer, Linear, named
from jaxlm.layers.mlp import ACTIVATIONS
from jaxlm.layers.transformer import Stack
from jaxlm.layers.transformer_config import TransformerConfig

HEADS = ("mlm", "sequence", "token", "none")


@dataclasses.dataclass(frozen=True)
class BERTConfig(TransformerConfig):
    """BERT base by default."""

    post_norm: ClassVar[bool] = True

    head: str = (
        "mlm"  # sequence, token: a class of each; none: hidden states only, for sentence encoders
    )
    num_labels: int = 0  # of heads sequence and token; 0: the task's labels
    pooler: bool = False  # head sequence reads tanh(W [CLS] + b), not the mean over real tokens
    num_token_types: int = 2
    max_len: int = 512
    norm_eps: float = 1e-12
    mlp: str = "gelu_exact"
    dropout: float = 0.1  # also of what a classifier reads; never of attention probabilities
    init: str = "normal"

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(head=HEADS)
        self.check_least(num_token_types=1)
        if self.num_labels < 0:
            raise ValueError(
                f"model.num_labels={self.num_labels} must be 0 (the task's labels) or more"
            )

    @property
    def spec(self) -> Spec:
        """What the stack asks of attention."""
        return Spec(causal=False)


class BERT(nn.Module):
    """tokens int32 [B, T] -> NeuralOutput; the deviation is the one that `BERTConfig.dropout` names.

    A packed row holds several sequences for heads mlm, token and none. Heads sequence and pooler read one a row.
    """

    Config = BERTConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "token_types", "positions")
    direction: ClassVar[str] = "bidirectional"
    shows: ClassVar[tuple[str, ...]] = SHOWN
    config: BERTConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        token_types: Array | None = None,
        positions: Array | None = None,
        *,
        prefix: Array | None = None,
        train: bool = False,
        shown: tuple[str, ...] = (),
    ) -> NeuralOutput:
        """Read whole sequences.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; a token sees its own segment only. 0 is filling; without ids nothing is.
          token_types: int32 [B, T]; which of a pair of texts a token is of; 0 by default.
          positions: int32 [B, T]; 0.. by default.
          prefix: float [B, P, D], vectors that are no tokens (a learned prompt), read right behind every row's first token, of
            its segment and without positions or token types.
          train: dropout (stream "dropout") and rematerialisation on.
          shown: what of every layer is to stand in `aux`: "states", "attention" (layers/transformer.py: Stack).

        Returns:
          head mlm: the decoder's input for every token, tied embeddings and a bias as its head. sequence, token: classes
          as a vocabulary, for one place a row or for every token. none: hidden states; its logits are those of the bare
          embeddings. aux["pooled_BD"], where the config has a pooler, is its output.

        Raises:
          ValueError: a classifier without a number of labels, more tokens than learned positions, or token types
            for a model with a single one.
        """
        cfg = self.config
        init, dtype = nn.initializers.normal(cfg.init_std), cfg.compute_dtype
        if positions is None:
            if tokens.shape[1] > cfg.max_len:
                raise ValueError(
                    f"{tokens.shape[1]} positions are more than the learned ones, model.max_len={cfg.max_len}"
                )
            positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        if token_types is None:
            token_types = jnp.zeros((1, tokens.shape[1]), jnp.int32)
        elif cfg.num_token_types == 1:
            raise ValueError(
                "model.num_token_types=1, but there are token_types: they tell apart two or more"
            )

        def table(name: str, rows: int, axis: str | None = None) -> Embedding:
            return Embedding(rows, cfg.d_model, init, (axis, "embed"), dtype, name=name)

        embed = table("embed", cfg.vocab_rows, "vocab")
        x = embed(tokens) + table("token_types", cfg.num_token_types)(token_types)
        x = x + table("positions", cfg.max_len)(positions)
        num_inside, read_segments = 0, segment_ids
        if prefix is not None:
            num_inside = prefix.shape[1]
            x = jnp.concatenate([x[:, :1], prefix.astype(x.dtype), x[:, 1:]], axis=1)
            if segment_ids is not None:
                first = jnp.repeat(segment_ids[:, :1], 1 + num_inside, axis=1)
                read_segments = jnp.concatenate([first, segment_ids[:, 1:]], axis=1)
        x = cfg.make_norm("embedding_norm")(x)
        drop = nn.Dropout(cfg.dropout, deterministic=not train)
        x = nn.with_logical_constraint(drop(x), ("batch", "length", None))
        sight = Sight(positions, segment_ids_BT=read_segments, shown=tuple(shown))
        x, _, aux = Stack(cfg, cfg.spec, train=train, name="stack")(x, sight)
        if num_inside:
            x = jnp.concatenate([x[:, :1], x[:, 1 + num_inside :]], axis=1)
        if cfg.pooler:
            dense = Linear(cfg.d_model, ("embed", None), init, True, dtype, name="pooler")
            aux["pooled_BD"] = jnp.tanh(dense(x[:, 0]))
        if cfg.head in ("sequence", "token"):
            if cfg.head == "sequence":
                pooled = aux["pooled_BD"] if cfg.pooler else mean_over_tokens(x, segment_ids)
                x = pooled[:, None]
            kernel, bias = Classifier(cfg.num_labels, cfg.d_model, init, name="classifier")()
            return NeuralOutput(drop(x), kernel, aux, cfg.num_labels, bias_V=bias)
        bias = None
        if cfg.head == "mlm":
            x, bias = MaskedHead(cfg, name="mlm")(x)
        chunk, head = cfg.loss_chunk, embed.embedding.T
        return NeuralOutput(x, head, aux, cfg.vocab_size, chunk=chunk, bias_V=bias)

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """The attention backend that will run on this device for a batch with these entries, and why."""
        cfg = self.config
        spec = dataclasses.replace(cfg.spec, segments="segment_ids" in set(batch_keys))
        return attention_backends.choose(cfg.attention, spec, cfg.compute_dtype, cfg.head_width)

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 N + 12 L H K T, as `GPT.flops_per_token`; N leaves out tables only looked up."""
        cfg = self.config
        lookups = (cfg.max_len + cfg.num_token_types) * cfg.d_model
        if cfg.head != "mlm":
            lookups += cfg.vocab_rows * cfg.d_model
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        attention = 12.0 * cfg.num_layers * cfg.num_heads * cfg.head_width * seq_len
        return 6.0 * (total - lookups) + attention

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        return self.config.activation_bytes(num_tokens)


def mean_over_tokens(x_BTD: Array, segment_ids: Array | None) -> Array:
    """Mean over a row's real tokens, [B, D]; those of segment 0 are filling."""
    if segment_ids is None:
        segment_ids = jnp.ones(x_BTD.shape[:2], jnp.int32)
    real_BT1 = (segment_ids != 0).astype(jnp.float32)[..., None]
    total_BD = jnp.sum(x_BTD.astype(jnp.float32) * real_BT1, axis=1)
    return (total_BD / jnp.maximum(jnp.sum(real_BT1, axis=1), 1)).astype(x_BTD.dtype)


class MaskedHead(nn.Module):
    """norm(act(W x + b)) for the tied decoder, and that decoder's bias."""

    config: BERTConfig

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        dense = Linear(
            cfg.d_model, ("embed", None), init, True, cfg.compute_dtype, name="transform"
        )
        x = cfg.make_norm("norm")(ACTIVATIONS[cfg.mlp](dense(x)))
        bias = self.param("bias", named(nn.initializers.zeros, "vocab"), (cfg.vocab_rows,))
        return x, bias


class Classifier(nn.Module):
    """A linear layer over classes, [D, C] and [C], not applied: `NeuralOutput` does that."""

    num_labels: int
    width: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        if not self.num_labels:
            raise ValueError("model.num_labels=0, and the task names no labels: give their number")
        kernel = self.param(
            "kernel", named(self.kernel_init, "embed", None), (self.width, self.num_labels)
        )
        return kernel, self.param("bias", named(nn.initializers.zeros, None), (self.num_labels,))
