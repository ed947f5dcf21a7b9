"""Decoder-only transformers: GPT-2 (Radford et al. 2019) and Llama (arXiv:2302.13971) shapes from one config.

Not for losses (objectives/) or search (decode/).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers import attention_backends
from jaxlm.layers import positions as places
from jaxlm.layers.attention import LayerCache, Sight, empty_cache
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.linear import Initializer, named
from jaxlm.layers.transformer import Stack, TransformerConfig


@dataclasses.dataclass(frozen=True)
class GPTConfig(TransformerConfig):
    """GPT-2 by default; Llama: positions="rotary", norm="rmsnorm", mlp="swiglu", bias=False."""

    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 128  # tables are padded to it; padding never enters a loss or a sample
    tie_embeddings: bool = True
    embedding_norm: bool = False  # normalise embeddings before the first block, as BLOOM does
    logit_soft_cap: float = 0.0
    loss_chunk: int = (
        0  # tokens whose logits exist at once; 0: all while they fit in 1 GiB, else 8192
    )

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 0:
            raise ValueError(
                f"model.vocab_size={self.vocab_size} must be 0 (the tokenizer's) or more"
            )
        if self.vocab_multiple < 1:
            raise ValueError(f"model.vocab_multiple={self.vocab_multiple} must be at least 1")

    @property
    def vocab_rows(self) -> int:
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer, [N, B, G, S, K], and how many positions each row has used."""

    layers: LayerCache
    lengths_B: Array


class GPT(nn.Module):
    """tokens int32 [B, T] -> NeuralOutput."""

    Config = GPTConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "positions")
    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        *,
        train: bool = False,
        caches: LayerCache | None = None,
    ) -> NeuralOutput | tuple[NeuralOutput, LayerCache]:
        """Score every position.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; a token sees its own segment only.
          positions: int32 [B, T]; 0.. by default.
          train: dropout (stream "dropout") and rematerialisation on.
          caches: keys and values of earlier positions, from `extend`.

        Returns:
          The output; with caches, also the new ones.
        """
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        dtype = cfg.compute_dtype
        if positions is None:
            positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        embed = Embedding(cfg.vocab_rows, cfg.d_model, init, dtype=dtype, name="embed")
        x = embed(tokens)
        rotary = None
        if cfg.positions == "learned":
            axes = (None, "embed")
            x = x + Embedding(cfg.max_len, cfg.d_model, init, axes, dtype, name="positions")(
                positions
            )
        elif cfg.positions == "rotary":
            rotary = places.rotary_table(positions, cfg.head_width, cfg.rope_base)
        if cfg.embedding_norm:
            x = cfg.make_norm("embedding_norm")(x)
        x = nn.Dropout(cfg.dropout, deterministic=not train)(x)
        x = nn.with_logical_constraint(x, ("batch", "length", None))
        sight = Sight(positions, rotary, segment_ids)
        x, new_caches = Stack(cfg, train, name="stack")(x, sight, caches)
        x = cfg.make_norm("final_norm")(x)
        if cfg.tie_embeddings:
            head = embed.embedding.T
        else:
            zero = cfg.init == "zero_out"
            head_init = nn.initializers.zeros if zero else init
            head = Head(cfg.vocab_rows, cfg.d_model, head_init, name="head")()
        output = NeuralOutput(x, head, {}, cfg.vocab_size, cfg.logit_soft_cap, cfg.loss_chunk)
        return output if caches is None else (output, new_caches)

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Cache:
        """An empty cache with room for `max_len` positions a row."""
        cfg = self.config
        layers = empty_cache(
            cfg.num_layers, batch_size, max_len, cfg.kv_heads, cfg.head_width, cfg.compute_dtype
        )
        return Cache(layers, jnp.zeros((batch_size,), jnp.int32))

    def extend(
        self, params: PyTree, cache: Cache, tokens_BT: Array, lengths_B: Array
    ) -> tuple[NeuralOutput, Cache]:
        """Score the next tokens of each row after what the cache holds.

        Args:
          tokens_BT: int32; row b's first lengths_B[b] count, the rest is filling.
          lengths_B: int32, how many tokens of each row are real.

        Returns:
          The output for tokens_BT, and the cache with lengths_B more positions. T more positions
          must fit behind every row's length.
        """
        places_BT = cache.lengths_B[:, None] + jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None]
        output, layers = self.apply(
            {"params": params}, tokens_BT, positions=places_BT, caches=cache.layers
        )
        return output, Cache(layers, cache.lengths_B + lengths_B)

    def attention_choice(self) -> tuple[str, str]:
        """The attention backend that will run on this device, and why."""
        cfg = self.config
        return attention_backends.choose(
            cfg.attention, cfg.spec, cfg.compute_dtype, cfg.head_width, cfg.max_len
        )

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 N + 12 L H K T (PaLM, arXiv:2204.02311, appendix B).

        N leaves out tables that are only looked up. Causality is not discounted, as is the custom.
        """
        cfg = self.config
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        lookups = cfg.max_len * cfg.d_model if cfg.positions == "learned" else 0
        if not cfg.tie_embeddings:
            lookups += cfg.vocab_rows * cfg.d_model
        attention = 12.0 * cfg.num_layers * cfg.num_heads * cfg.head_width * seq_len
        return 6.0 * (total - lookups) + attention

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes; fitted to GPT-2 small on a CPU."""
        cfg = self.config
        size = jnp.dtype(cfg.compute_dtype).itemsize
        kept = {"none": 30 * cfg.d_model + 6 * cfg.ff_width, "dots": 8 * cfg.d_model + cfg.ff_width}
        layer = kept[cfg.remat] if cfg.remat in kept else cfg.d_model
        logits = 3 * 4 * min(num_tokens * cfg.vocab_rows, 2**28)
        return size * num_tokens * layer * cfg.num_layers + logits


class Head(nn.Module):
    """An output projection of its own, [D, V]."""

    rows: int
    width: int
    kernel_init: Initializer

    @nn.compact
    def __call__(self) -> Array:
        init = named(self.kernel_init, "embed", "vocab")
        return self.param("kernel", init, (self.width, self.rows))
