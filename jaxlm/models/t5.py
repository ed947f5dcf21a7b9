"""Encoder-decoder transformers: T5 1.0 (Raffel et al. 2020, arXiv:1910.10683) and 1.1 from one config.

Not for losses (objectives/), span corruption (data/) or search (decode/).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers import attention_backends
from jaxlm.layers.attention import Caches, Sight, empty_caches
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.linear import Head
from jaxlm.layers.transformer import Stack, TransformerConfig

MLPS = ("relu", "geglu")


@dataclasses.dataclass(frozen=True)
class T5Config(TransformerConfig):
    """T5 1.0 small by default; 1.1: mlp="geglu", tie_embeddings=False."""

    # What T5 leaves no choice in.
    num_kv_heads: ClassVar[None] = None
    norm: ClassVar[str] = "rmsnorm"
    bias: ClassVar[bool] = False
    inits: ClassVar[tuple[str, ...]] = ("fan_in",)
    init: ClassVar[str] = "fan_in"
    init_std: ClassVar[float] = 1.0  # of embeddings

    num_layers: int = 6  # of the encoder
    num_decoder_layers: int | None = None  # None: num_layers
    d_model: int = 512
    num_heads: int = 8
    max_len: int = 512  # of examples; the model itself has no limit
    norm_eps: float = 1e-6
    mlp: str = "relu"  # or "geglu"
    tie_embeddings: bool = True  # then the decoder's states are scaled by d_model ** -0.5
    relative_buckets: int = 32
    relative_max_distance: int = 128  # keys farther away share a bucket
    decoder_start_id: int = 0  # the first decoder input; the data put it there

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(mlp=MLPS)
        for name, value, least in (
            ("num_decoder_layers", self.decoder_layers, 1),
            ("relative_buckets", self.relative_buckets, 4),
            ("decoder_start_id", self.decoder_start_id, 0),
        ):
            if value < least:
                raise ValueError(f"model.{name}={value} must be at least {least}")
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"model.relative_max_distance={self.relative_max_distance} must be more than half of "
                f"model.relative_buckets={self.relative_buckets}"
            )

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def decoder(self) -> T5Config:
        """The config of the decoder's stack."""
        return dataclasses.replace(self, num_layers=self.decoder_layers)

    def spec(self, causal: bool) -> Spec:
        """What a stack's self-attention asks: scores are not scaled, the initial weights are."""
        relative = (self.relative_buckets, self.relative_max_distance)
        return Spec(causal=causal, scale=1.0, relative=relative)


@flax.struct.dataclass
class Cache:
    """Keys and values of every decoder layer, the source's included; positions used; the source's segments."""

    layers: Caches
    lengths_B: Array
    source_segment_ids_BS: Array


class T5(nn.Module):
    """tokens int32 [B, T], source int32 [B, S] -> NeuralOutput of the tokens.

    Initialised as the authors' code, but for the untied head (variance 1 / d_model instead of 1, so that
    a fresh model's predictions are as even as 1.0's). Dropout of attention probabilities and inside
    the feed-forward layers is left out.
    """

    Config = T5Config
    inputs: ClassVar[tuple[str, ...]] = ("tokens", "source")
    optional_inputs: ClassVar[tuple[str, ...]] = (
        "segment_ids",
        "source_segment_ids",
        "positions",
    )
    source_inputs: ClassVar[tuple[str, ...]] = ("source", "source_segment_ids")
    direction: ClassVar[str] = "encoder_decoder"
    config: T5Config

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        source: Array | None = None,
        segment_ids: Array | None = None,
        source_segment_ids: Array | None = None,
        positions: Array | None = None,
        *,
        train: bool = False,
        caches: Caches | None = None,
        lengths: Array | None = None,
    ) -> NeuralOutput | tuple[NeuralOutput, Caches]:
        """Score every position of the decoder.

        Args:
          tokens: int32 [B, T], the decoder's inputs: targets shifted right.
          source: int32 [B, S]; None if `caches` hold its keys and values.
          segment_ids: int32 [B, T]; a token sees its own segment of tokens and of the source. 0 is
            filling; None: all are of segment 1.
          source_segment_ids: int32 [B, S], likewise.
          positions: int32 [B, T]; where a token stands in `caches`. Without them only the distances
            in a row count, which are the same wherever a segment begins.
          train: dropout (stream "dropout") and rematerialisation on.
          caches: keys and values of earlier positions, from `extend`.
          lengths: int32 [B], with caches; the rest of a row is filling.

        Returns:
          The output; with caches, also the new ones.
        """
        cfg = self.config
        embed = Embedding(
            cfg.vocab_rows,
            cfg.d_model,
            nn.initializers.normal(cfg.init_std),
            dtype=cfg.compute_dtype,
            name="embed",
        )
        drop = nn.Dropout(cfg.dropout, deterministic=not train)

        def run(name: str, config: T5Config, ids: Array, sight: Sight, caches: Caches | None):
            decoding = name == "decoder"
            x = nn.with_logical_constraint(drop(embed(ids)), ("batch", "length", None))
            stack = Stack(config, config.spec(decoding), decoding, train, name=name)
            x, caches, aux = stack(x, sight, caches)
            return drop(config.make_norm(f"{name}_norm")(x)), caches, aux

        encoded = None
        if source is not None:
            places = jnp.arange(source.shape[1], dtype=jnp.int32)[None]
            sight = Sight(places, segment_ids_BT=source_segment_ids)
            encoded, _, aux = run("encoder", cfg, source, sight, None)
        if positions is None:
            positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        sight = Sight(
            positions,
            lengths,
            segment_ids_BT=segment_ids,
            source_BSD=encoded,
            source_segment_ids_BS=source_segment_ids,
        )
        x, new_caches, aux = run("decoder", cfg.decoder, tokens, sight, caches)
        if cfg.tie_embeddings:
            x = x * jnp.asarray(cfg.d_model**-0.5, x.dtype)
            head = embed.embedding.T
        else:
            init = nn.initializers.normal(cfg.d_model**-0.5)
            head = Head(cfg.vocab_rows, cfg.d_model, init, name="head")()
        output = NeuralOutput(x, head, aux, cfg.vocab_size, chunk=cfg.loss_chunk)
        return output if caches is None else (output, new_caches)

    def init_cache(
        self,
        params: PyTree,
        batch_size: int,
        max_len: int,
        source: Array,
        source_segment_ids: Array | None = None,
    ) -> Cache:
        """Run the encoder and keep what the decoder reads of it, with room for `max_len` tokens a row.

        Args:
          source: int32 [batch_size, S].
          source_segment_ids: int32 [batch_size, S]; tokens see segment 1. None: all of it.
        """
        cfg = self.config
        if source_segment_ids is None:
            source_segment_ids = jnp.ones_like(source)
        layers = empty_caches(
            cfg.decoder_layers,
            batch_size,
            max_len,
            cfg.kv_heads,
            cfg.head_width,
            cfg.compute_dtype,
            stacked=cfg.scan_layers,
        )
        # The decoder makes the source's keys at its first call; the token given here is filling.
        first = jnp.zeros((batch_size, 1), jnp.int32)
        _, layers = self.apply(
            {"params": params},
            first,
            source,
            source_segment_ids=source_segment_ids,
            positions=first,
            caches=layers,
            lengths=first[:, 0],
        )
        return Cache(layers, jnp.zeros((batch_size,), jnp.int32), source_segment_ids)

    def extend(
        self, params: PyTree, cache: Cache, tokens_BT: Array, lengths_B: Array
    ) -> tuple[NeuralOutput, Cache]:
        """Score the next tokens of each row after what the cache holds.

        Args:
          tokens_BT: int32; row b's first lengths_B[b] count, the rest is filling.
          lengths_B: int32, how many tokens of each row are real.

        Returns:
          The output for tokens_BT, and the cache with lengths_B more positions, which must fit in it.
        """
        places_BT = cache.lengths_B[:, None] + jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None]
        output, layers = self.apply(
            {"params": params},
            tokens_BT,
            source_segment_ids=cache.source_segment_ids_BS,
            positions=places_BT,
            caches=cache.layers,
            lengths=lengths_B,
        )
        return output, cache.replace(layers=layers, lengths_B=cache.lengths_B + lengths_B)

    def rewind(self, cache: Cache, lengths_B: Array) -> Cache:
        """Forget what lies behind the first lengths_B positions."""
        return cache.replace(lengths_B=jnp.minimum(cache.lengths_B, lengths_B))

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """The attention backend that will run on this device for a batch with these entries, and why.

        By place where they differ.
        """
        cfg, keys = self.config, set(batch_keys)
        mine, theirs = "segment_ids" in keys, "source_segment_ids" in keys
        specs = {
            "encoder": dataclasses.replace(cfg.spec(causal=False), segments=theirs),
            "decoder": dataclasses.replace(cfg.spec(causal=True), segments=mine),
            "cross": Spec(causal=False, cross=True, scale=1.0, segments=mine or theirs),
        }
        chosen = {
            place: attention_backends.choose(cfg.attention, spec, cfg.compute_dtype, cfg.head_width)
            for place, spec in specs.items()
        }
        if len(set(chosen.values())) == 1:
            return chosen["encoder"]
        backends = ", ".join(f"{place} {backend}" for place, (backend, _) in chosen.items())
        return backends, "; ".join(dict.fromkeys(why for _, why in chosen.values()))

    def flops_per_token(self, params: PyTree, target_len: int, source_len: int) -> float:
        """Training FLOPs of a row by its target_len + source_len tokens: 6 a weight and token that meets it.

        And 12 a layer, head width and pair of positions in attention (PaLM, arXiv:2204.02311, appendix B);
        causality is not discounted, as is the custom.
        """
        cfg = self.config
        inner = cfg.num_heads * cfg.head_width

        def size(*names: str) -> int:
            return sum(leaf.size for name in names for leaf in jax.tree.leaves(params[name]))

        source_keys = cfg.decoder_layers * 2 * cfg.d_model * inner
        products = source_len * (size("encoder", "encoder_norm") + source_keys)
        head = cfg.vocab_rows * cfg.d_model
        products += target_len * (size("decoder", "decoder_norm") - source_keys + head)
        pairs = cfg.num_layers * source_len**2
        pairs += cfg.decoder_layers * target_len * (target_len + source_len)
        return (6.0 * products + 12.0 * inner * pairs) / (target_len + source_len)

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch of so many tokens, source and target, needs for its backward pass, bytes.

        As if all of them went through the deeper stack and were scored: rather too much than too little.
        """
        cfg = self.config
        with_cross = -(-3 * cfg.decoder_layers // 2)  # cross-attention is half a layer more
        deeper = dataclasses.replace(cfg, num_layers=max(cfg.num_layers, with_cross))
        return deeper.activation_bytes(num_tokens)
