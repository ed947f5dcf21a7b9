"""Decoder-only transformers from one config: GPT-2 (Radford et al. 2019), Llama 2 and 3 (arXiv:2307.09288, 2407.21783),
Mistral (arXiv:2310.06825), Qwen 2 and 3 (arXiv:2407.10671, 2505.09388), SmolLM2 (arXiv:2502.02737).

Not for losses (objectives/) or search (decode/).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers import attention_backends
from jaxlm.layers import positions as places
from jaxlm.layers.attention import RING_SLACK, Caches, Sight, empty_caches
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.linear import Head
from jaxlm.layers.positions import POSITIONS, ROPE_SCALINGS, RopeScaling
from jaxlm.layers.transformer import Stack, TransformerConfig


@dataclasses.dataclass(frozen=True)
class GPTConfig(TransformerConfig):
    """GPT-2 by default. Llama: positions="rotary", norm="rmsnorm", mlp="swiglu", bias=False, tie_embeddings=False.

    Mistral is that with `window`, Qwen 2 with qkv_bias=True, Qwen 3 with qk_norm=True and a head_dim of its own.
    """

    positions: str = "learned"
    rope_base: float = 10_000.0
    rope_scaling: str = "none"  # linear, llama3, yarn: read beyond the length of training
    rope_factor: float = 1.0  # how many times longer
    rope_original_len: int = 0  # positions of training; llama3 and yarn need it
    rope_low_freq: float = (
        1.0  # rates with fewer turns over rope_original_len are divided by rope_factor
    )
    rope_high_freq: float | None = None  # rates with more are kept; None: llama3 4, yarn 32
    rope_attention_factor: float | None = None  # None: under yarn 0.1 ln(rope_factor) + 1, else 1
    window: int = 0  # attend to the last `window` positions, a token's own included; 0: all
    qk_norm: bool = False
    norm_gains: bool = True  # off: rmsnorm without parameters
    qkv_bias: bool | None = None  # None: as bias
    attention_soft_cap: float = 0.0
    tie_embeddings: bool = True
    embedding_norm: bool = False  # normalise embeddings before the first block, as BLOOM does
    logit_soft_cap: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(positions=POSITIONS, rope_scaling=ROPE_SCALINGS)
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(
                f'model.positions="rotary" needs an even head width, not {self.head_width}'
            )
        if self.rope_scaling != "none":
            self._check_rope_scaling()
        elif self.rope_factor != 1:
            raise ValueError(
                f"model.rope_factor={self.rope_factor} needs model.rope_scaling: {', '.join(ROPE_SCALINGS[1:])}"
            )
        if self.norm == "layernorm" and not self.norm_gains:
            raise ValueError('model.norm_gains=False needs model.norm="rmsnorm"')
        if self.window < 0:
            raise ValueError(f"model.window={self.window} must be 0 (no limit) or more")

    def _check_rope_scaling(self) -> None:
        name = f'model.rope_scaling="{self.rope_scaling}"'
        if self.positions != "rotary":
            raise ValueError(f'{name} needs model.positions="rotary"')
        if self.rope_factor <= 0:
            raise ValueError(f"model.rope_factor={self.rope_factor} must be positive")
        if self.rope_scaling != "linear" and self.rope_original_len < 1:
            raise ValueError(f"{name} needs model.rope_original_len, the positions of training")
        low, high = self.rope.low_freq, self.rope.high_freq
        if self.rope_scaling != "linear" and not 0 < low < high:
            raise ValueError(
                f"{name} needs 0 < model.rope_low_freq={low} < model.rope_high_freq={high}"
            )

    @property
    def rope(self) -> RopeScaling:
        """The scaling of rotary rates, with what follows from its kind filled in."""
        high, factor = self.rope_high_freq, self.rope_attention_factor
        if high is None:
            high = 32.0 if self.rope_scaling == "yarn" else 4.0
        if factor is None:
            longer = self.rope_scaling == "yarn" and self.rope_factor > 1
            factor = 0.1 * math.log(self.rope_factor) + 1.0 if longer else 1.0
        return RopeScaling(
            self.rope_scaling,
            self.rope_factor,
            self.rope_low_freq,
            high,
            self.rope_original_len,
            factor,
        )

    @property
    def spec(self) -> Spec:
        """What the stack asks of attention."""
        alibi = self.positions == "alibi"
        return Spec(window=self.window, soft_cap=self.attention_soft_cap, alibi=alibi)


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer, and how many positions each row has used."""

    layers: Caches
    lengths_B: Array


class GPT(nn.Module):
    """tokens int32 [B, T] -> NeuralOutput."""

    Config = GPTConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "positions", "prefix_lengths")
    direction: ClassVar[str] = "causal"
    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        prefix_lengths: Array | None = None,
        *,
        train: bool = False,
        caches: Caches | None = None,
        lengths: Array | None = None,
    ) -> NeuralOutput | tuple[NeuralOutput, Caches]:
        """Score every position.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; a token sees its own segment only. 0 is filling.
          positions: int32 [B, T]; 0.. by default.
          prefix_lengths: int32 [B]; every token of a row sees its first so many (prefix LM).
          train: dropout (stream "dropout") and rematerialisation on.
          caches: keys and values of earlier positions, from `extend`.
          lengths: int32 [B], with caches; the rest of a row is filling.

        Returns:
          The output; with caches, also the new ones.

        Raises:
          ValueError: segment_ids with caches: a cached row is one text. Or more tokens than learned positions.
        """
        if caches is not None and segment_ids is not None:
            raise ValueError("segment_ids with caches: a cached row is one text")
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        dtype = cfg.compute_dtype
        if positions is None:
            self._check_length(tokens.shape[1])
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
            rotary = places.rotary_table(positions, cfg.head_width, cfg.rope_base, cfg.rope)
        if cfg.embedding_norm:
            x = cfg.make_norm("embedding_norm")(x)
        x = nn.Dropout(cfg.dropout, deterministic=not train)(x)
        x = nn.with_logical_constraint(x, ("batch", "length", None))
        sight = Sight(positions, lengths, rotary, segment_ids, prefix_lengths)
        x, new_caches, aux = Stack(cfg, cfg.spec, train=train, name="stack")(x, sight, caches)
        x = cfg.make_norm("final_norm")(x)
        if cfg.tie_embeddings:
            head = embed.embedding.T
        else:
            zero = cfg.init == "zero_out"
            head_init = nn.initializers.zeros if zero else init
            head = Head(cfg.vocab_rows, cfg.d_model, head_init, name="head")()
        output = NeuralOutput(x, head, aux, cfg.vocab_size, cfg.logit_soft_cap, cfg.loss_chunk)
        return output if caches is None else (output, new_caches)

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Cache:
        """An empty cache with room for `max_len` positions a row; of a window's ring, a few more than it are enough.

        Raises:
          ValueError: more than the learned ones.
        """
        self._check_length(max_len)
        cfg = self.config
        layers = empty_caches(
            cfg.num_layers,
            batch_size,
            min(max_len, cfg.window + RING_SLACK) if cfg.window else max_len,
            cfg.kv_heads,
            cfg.head_width,
            cfg.compute_dtype,
            stacked=cfg.scan_layers,
        )
        return Cache(layers, jnp.zeros((batch_size,), jnp.int32))

    def _check_length(self, length: int) -> None:
        """A table of positions would be read beyond its end in silence."""
        cfg = self.config
        if cfg.positions == "learned" and length > cfg.max_len:
            raise ValueError(
                f"{length} positions are more than the learned ones, model.max_len={cfg.max_len}"
            )

    def extend(
        self,
        params: PyTree,
        cache: Cache,
        tokens_BT: Array,
        lengths_B: Array,
        prefix_lengths_B: Array | None = None,
    ) -> tuple[NeuralOutput, Cache]:
        """Score the next tokens of each row after what the cache holds.

        Args:
          tokens_BT: int32; row b's first lengths_B[b] count, the rest is filling.
          lengths_B: int32, how many tokens of each row are real.
          prefix_lengths_B: int32, as `prefix_lengths`, and like lengths_B in an empty cache's first call;
            of a prefix LM the prompt, and later calls do not need it.

        Returns:
          The output for tokens_BT, and the cache with lengths_B more positions, which must fit in it.
        """
        places_BT = cache.lengths_B[:, None] + jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None]
        output, layers = self.apply(
            {"params": params},
            tokens_BT,
            positions=places_BT,
            prefix_lengths=prefix_lengths_B,
            caches=cache.layers,
            lengths=lengths_B,
        )
        return output, Cache(layers, cache.lengths_B + lengths_B)

    def rewind(self, cache: Cache, lengths_B: Array) -> Cache:
        """Forget what lies behind the first lengths_B positions; a window's ring can forget RING_SLACK positions."""
        return cache.replace(lengths_B=jnp.minimum(cache.lengths_B, lengths_B))

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """The attention backend that will run on this device for a batch with these entries, and why."""
        cfg, keys = self.config, set(batch_keys)
        packed, prefix = "segment_ids" in keys, "prefix_lengths" in keys
        spec = dataclasses.replace(cfg.spec, segments=packed, prefix=prefix)
        return attention_backends.choose(cfg.attention, spec, cfg.compute_dtype, cfg.head_width)

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
        """About what one micro-batch needs for its backward pass, bytes."""
        return self.config.activation_bytes(num_tokens)
