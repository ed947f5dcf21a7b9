"""Decoder-only transformers from one config: GPT-2 (Radford et al. 2019), Llama 2 and 3 (arXiv:2307.09288, 2407.21783),
Mistral (arXiv:2310.06825), Qwen 2 and 3 (arXiv:2407.10671, 2505.09388), SmolLM2 (arXiv:2502.02737).

Not for losses (objectives/) or search (decode/).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers import attention_backends
from jaxlm.layers import positions as places
from jaxlm.layers.attention import RING_SLACK, SHOWN, Caches, Sight, empty_caches
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.future_heads import FutureHeads
from jaxlm.layers.linear import Head, Linear
from jaxlm.layers.moe_config import ExpertsConfig
from jaxlm.layers.positions_config import PositionsConfig
from jaxlm.layers.transformer import Stack
from jaxlm.layers.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class GPTConfig(PositionsConfig, ExpertsConfig, TransformerConfig):
    """GPT-2 by default. Llama: positions="rotary", norm="rmsnorm", mlp="swiglu", bias=False, tie_embeddings=False.

    Mistral is that with `window`, Qwen 2 with qkv_bias=True, Qwen 3 with qk_norm=True and a head_dim of its own.
    """

    window: int = 0  # attend to the last `window` positions, a token's own included; 0: all
    qk_norm: bool = False
    norm_gains: bool = True  # off: rmsnorm without parameters
    qkv_bias: bool | None = None  # None: as bias
    attention_soft_cap: float = 0.0
    tie_embeddings: bool = True
    embedding_norm: bool = False  # normalise embeddings before the first block, as BLOOM does
    logit_soft_cap: float = 0.0
    value_head: bool = False  # also a number for every position: a reward, or what is to come
    num_future: int = (
        1  # next tokens that are predicted; each after the first takes one of num_layers
    )

    def __post_init__(self):
        super().__post_init__()
        if self.norm == "layernorm" and not self.norm_gains:
            raise ValueError('model.norm_gains=False needs model.norm="rmsnorm"')
        if self.window < 0:
            raise ValueError(f"model.window={self.window} must be 0 (no limit) or more")
        if not 1 <= self.num_future <= self.num_layers:
            raise ValueError(
                f"model.num_future={self.num_future} must be from 1 to model.num_layers={self.num_layers}, "
                "a block each"
            )

    @property
    def trunk(self) -> GPTConfig:
        """Of the blocks on the next token's way, its own head the last of them: a GPT without other heads."""
        if self.num_future == 1:
            return self
        depth = self.num_layers - self.num_future + 1
        return dataclasses.replace(self, num_layers=depth, num_future=1)

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
    shows: ClassVar[tuple[str, ...]] = SHOWN
    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        prefix_lengths: Array | None = None,
        *,
        prefix: Array | None = None,
        train: bool = False,
        caches: Caches | None = None,
        lengths: Array | None = None,
        future: bool = False,
        shown: tuple[str, ...] = (),
    ) -> NeuralOutput | tuple[NeuralOutput, Caches]:
        """Score every position.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; a token sees its own segment only. 0 is filling.
          positions: int32 [B, T]; 0.. by default.
          prefix_lengths: int32 [B]; every token of a row sees its first so many (prefix LM).
          prefix: float [B, P, D], vectors that are no tokens (an image's patches, a learned prompt) before every row.
            Tokens stand after them: `positions`, `prefix_lengths` and `lengths` count them too. Of segment 1.
          train: dropout (stream "dropout") and rematerialisation on.
          caches: keys and values of earlier positions, from `extend`.
          lengths: int32 [B], with caches; the rest of a row is filling.
          future: also the final states of the heads of further tokens, aux["future_BNTD"]; head n predicts n + 2 ahead.
          shown: what of every layer is to stand in `aux`: "states", "attention" (layers/transformer.py: Stack); of whole
            sequences only.

        Returns:
          The output, where the config has a value head with aux["value_BT"], float32; with caches, also the new ones.

        Raises:
          ValueError: segment_ids with caches: a cached row is one text. Or more tokens than learned positions.
        """
        if caches is not None and segment_ids is not None:
            raise ValueError("segment_ids with caches: a cached row is one text")
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        dtype = cfg.compute_dtype
        embed = Embedding(cfg.vocab_rows, cfg.d_model, init, dtype=dtype, name="embed")
        x = embed(tokens)
        num_before = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            x = jnp.concatenate([prefix.astype(x.dtype), x], axis=1)
            if segment_ids is not None:
                segment_ids = jnp.pad(segment_ids, ((0, 0), (num_before, 0)), constant_values=1)
        if positions is None:
            self._check_length(x.shape[1])
            positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
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
        sight = Sight(positions, lengths, rotary, segment_ids, prefix_lengths, shown=tuple(shown))
        future = cfg.num_future > 1 and (future or self.is_initializing())
        shape = cfg.trunk, cfg.spec
        stack = Stack(*shape, train=train, fork=future, name="stack")
        x, new_caches, aux = stack(x, sight, caches)
        norm = cfg.make_norm("final_norm")
        x = norm(x[:, num_before:])
        if future:
            heads = FutureHeads(*shape, cfg.num_future - 1, train, name="future")
            states, more = heads(aux.pop("fork_BTD"), sight.replace(shown=()))
            aux |= {name: jnp.concatenate([aux[name], part]) for name, part in more.items()}
            aux["future_BNTD"] = norm(states[:, :, num_before:])
        if cfg.value_head:
            value = Linear(1, ("embed", None), nn.initializers.zeros, True, name="value")
            aux["value_BT"] = value(x)[..., 0]
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
            cfg.trunk.num_layers,
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

    @property
    def aux_terms(self) -> Mapping[str, float]:
        """Entries of an output's `aux` that are terms of a loss, with their coefficients."""
        return self.config.aux_terms

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """The attention backend that will run on this device for a batch with these entries, and why."""
        cfg, keys = self.config, set(batch_keys)
        packed, prefix = "segment_ids" in keys, "prefix_lengths" in keys
        spec = dataclasses.replace(cfg.spec, segments=packed, prefix=prefix)
        return attention_backends.choose(cfg.attention, spec, cfg.compute_dtype, cfg.head_width)

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 N + 12 L H K T (PaLM, arXiv:2204.02311, appendix B).

        N leaves out tables that are only looked up, and experts that are not. Causality is not discounted, as is the custom.
        """
        cfg = self.config
        total = cfg.active_size(params)
        lookups = cfg.max_len * cfg.d_model if cfg.positions == "learned" else 0
        if not cfg.tie_embeddings:
            lookups += cfg.vocab_rows * cfg.d_model
        attention = 12.0 * cfg.num_layers * cfg.num_heads * cfg.head_width * seq_len
        further = (cfg.num_future - 1) * cfg.vocab_rows * cfg.d_model  # the same unembedding
        return 6.0 * (total - lookups + further) + attention

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        return self.config.activation_bytes(num_tokens, self.config.num_future)
