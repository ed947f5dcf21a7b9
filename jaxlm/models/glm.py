"""GLM: one stack that reads a text with blanks both ways and fills them from left to right (Du et al. 2022, arXiv:2103.10360).

Not for losses (objectives/), what is hidden (data/corruption.py) or search (decode/).
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
from jaxlm.layers.positions import rotary_table_2d
from jaxlm.layers.transformer import Stack
from jaxlm.layers.transformer_config import TransformerConfig

POSITIONS = ("learned", "rotary")


@dataclasses.dataclass(frozen=True)
class GLMConfig(TransformerConfig):
    """GLM base by default."""

    max_len: int = 512  # of examples; learned positions are so many of a source, and of a blank
    positions: str = "learned"  # two tables; or "rotary", half of a head for each of the two places
    rope_base: float = 10_000.0
    mask_id: int = -1  # [MASK], which stands for a blank; -1: the tokenizer's, where it has one
    decoder_start_id: int = 0  # what stands before a blank's first token; the data put it there

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(positions=POSITIONS)
        if self.positions == "rotary" and self.head_width % 4:
            raise ValueError(
                f'model.positions="rotary" needs a head width that is a multiple of 4, not {self.head_width}'
            )
        if self.mask_id < -1:
            raise ValueError(f"model.mask_id={self.mask_id} must be an id, or -1: the tokenizer's")
        self.check_least(decoder_start_id=0)


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer: a row's source, its filling left out, then the tokens of its blank."""

    layers: Caches
    lengths_B: Array  # of the tokens
    source_lengths_B: Array
    blanks_B: Array  # the place in its source of the blank that a row fills


class GLM(nn.Module):
    """tokens int32 [B, T], source int32 [B, S] -> NeuralOutput of the tokens.

    All source tokens see one another; a token sees them and the tokens before it. A token's embedding is the sum of
    three: its own, that of a place in the source (a blank's tokens all have their [MASK]'s), and that of the place
    in its blank (0 in the source; 1, 2, ... from the start symbol on); with positions="rotary" the two turn queries and
    keys instead, as in ChatGLM-6B. Norms stand before the branches, as the authors'. Dropout of attention probabilities is
    left out.
    """

    Config = GLMConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens", "source")
    optional_inputs: ClassVar[tuple[str, ...]] = (
        "segment_ids",
        "source_segment_ids",
        "positions",
        "block_positions",
    )
    source_inputs: ClassVar[tuple[str, ...]] = ("source", "source_segment_ids")
    direction: ClassVar[str] = "encoder_decoder"
    config: GLMConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        source: Array | None = None,
        segment_ids: Array | None = None,
        source_segment_ids: Array | None = None,
        positions: Array | None = None,
        block_positions: Array | None = None,
        *,
        train: bool = False,
        caches: Caches | None = None,
        sight: Sight | None = None,
    ) -> NeuralOutput | tuple[NeuralOutput, Caches]:
        """Score every position of the tokens.

        Args:
          tokens: int32 [B, T], of each blank a start symbol and its tokens but for the last.
          source: int32 [B, S], the text with its blanks; None if `caches` hold its keys and values.
          segment_ids: int32 [B, T]; a token sees its own segment of tokens and of the source. 0 is
            filling; None: all are of segment 1.
          source_segment_ids: int32 [B, S], likewise.
          positions: int32 [B, T], the place in the source of each token's blank. None: all tokens are
            one blank, that of the first [MASK]; in a source without one, what follows its end.
          block_positions: int32 [B, T], places in the blank, from 1; given with `positions`.
          train: dropout (stream "dropout") and rematerialisation on.
          caches: keys and values of earlier tokens.
          sight: with caches, where the tokens stand in them.

        Returns:
          The output; with caches, also the new ones.

        Raises:
          ValueError: more tokens than the tables have places for, or one kind of positions only.
        """
        cfg = self.config
        if (positions is None) != (block_positions is None):
            raise ValueError("positions and block_positions go together: GLM's places are in two")

        def table(rows: int, axes=(None, "embed"), *, name: str) -> Embedding:
            init = nn.initializers.normal(cfg.init_std)
            return Embedding(rows, cfg.d_model, init, axes, cfg.compute_dtype, name=name)

        if positions is None:
            blanks_B = blank_places(source, source_segment_ids, cfg.mask_id)
            positions, block_positions = _in_one_blank(blanks_B, tokens.shape[1])
        ids = tokens
        if source is not None:
            self._check_lengths(source.shape[1], tokens.shape[1])
            where = jnp.arange(source.shape[1], dtype=jnp.int32)[None]
            where = jnp.broadcast_to(where, source.shape)
            ids = jnp.concatenate([source, tokens], axis=1)
            positions = jnp.concatenate([where, positions], axis=1)
            block_positions = jnp.concatenate([jnp.zeros_like(where), block_positions], axis=1)
            sight = _whole_sight(tokens, source, segment_ids, source_segment_ids)
        embed = table(cfg.vocab_rows, ("vocab", "embed"), name="embed")
        x = embed(ids)
        if cfg.positions == "learned":
            x = x + table(cfg.max_len, name="positions")(positions)
            x = x + table(cfg.max_len + 1, name="block_positions")(block_positions)
        else:
            rotary = rotary_table_2d(positions, block_positions, cfg.head_width, cfg.rope_base)
            sight = sight.replace(rotary=rotary)
        x = nn.Dropout(cfg.dropout, deterministic=not train)(x)
        x = nn.with_logical_constraint(x, ("batch", "length", None))
        x, new_caches, aux = Stack(cfg, Spec(), train=train, name="stack")(x, sight, caches)
        x = cfg.make_norm("final_norm")(x[:, -tokens.shape[1] :])
        output = NeuralOutput(x, embed.embedding.T, aux, cfg.vocab_size, chunk=cfg.loss_chunk)
        return output if caches is None else (output, new_caches)

    def init_cache(
        self,
        params: PyTree,
        batch_size: int,
        max_len: int,
        source: Array,
        source_segment_ids: Array | None = None,
    ) -> Cache:
        """Read the source and keep its keys and values, with room for `max_len` tokens a row.

        Args:
          source: int32 [batch_size, S].
          source_segment_ids: int32 [batch_size, S]: 1, then 0 for filling behind a row's end. None: all of it is real.

        Raises:
          ValueError: more tokens than the tables have places for.
        """
        cfg, length = self.config, source.shape[1]
        self._check_lengths(length, max_len - 1)  # the last token that is written is not read
        if source_segment_ids is None:
            source_segment_ids = jnp.ones_like(source)
        layers = empty_caches(
            cfg.num_layers,
            batch_size,
            length + max_len,
            cfg.kv_heads,
            cfg.head_width,
            cfg.compute_dtype,
            stacked=cfg.scan_layers,
        )
        real_B = jnp.sum((source_segment_ids > 0).astype(jnp.int32), axis=1)
        where_BS = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], source.shape)
        _, layers = self.apply(
            {"params": params},
            source,
            positions=where_BS,
            block_positions=jnp.zeros_like(where_BS),
            caches=layers,
            sight=Sight(where_BS, real_B, prefix_B=real_B),
        )
        blanks_B = blank_places(source, source_segment_ids, cfg.mask_id)
        return Cache(layers, jnp.zeros_like(real_B), real_B, blanks_B)

    def extend(
        self, params: PyTree, cache: Cache, tokens_BT: Array, lengths_B: Array
    ) -> tuple[NeuralOutput, Cache]:
        """Score the next tokens of each row's blank after what the cache holds.

        Args:
          tokens_BT: int32; row b's first lengths_B[b] count, the rest is filling.
          lengths_B: int32, how many tokens of each row are real.

        Returns:
          The output for tokens_BT, and the cache with lengths_B more tokens, which must fit in it.
        """
        positions, block_positions = _in_one_blank(cache.blanks_B, tokens_BT.shape[1])
        block_positions = block_positions + cache.lengths_B[:, None]
        slots_BT = block_positions - 1 + cache.source_lengths_B[:, None]
        output, layers = self.apply(
            {"params": params},
            tokens_BT,
            positions=positions,
            block_positions=block_positions,
            caches=cache.layers,
            sight=Sight(slots_BT, lengths_B),
        )
        return output, cache.replace(layers=layers, lengths_B=cache.lengths_B + lengths_B)

    def rewind(self, cache: Cache, lengths_B: Array) -> Cache:
        """Forget what lies behind the blank's first lengths_B tokens."""
        return cache.replace(lengths_B=jnp.minimum(cache.lengths_B, lengths_B))

    @property
    def position_limit(self) -> int | None:
        """How many tokens of a source, and of a blank, the model can read; None: any number."""
        return self.config.max_len if self.config.positions == "learned" else None

    def _check_lengths(self, source: int, tokens: int) -> None:
        """A table of positions would be read beyond its end in silence."""
        limit = self.position_limit
        for name, length in (("source", source), ("blank", tokens)):
            if limit is not None and length > limit:
                raise ValueError(
                    f"a {name} of {length} tokens has more positions than were learned, model.max_len={limit}"
                )

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """The attention backend that will run on this device for a batch with these entries, and why."""
        cfg = self.config
        segments = not {"segment_ids", "source_segment_ids"}.isdisjoint(batch_keys)
        spec = Spec(prefix=True, segments=segments)
        return attention_backends.choose(cfg.attention, spec, cfg.compute_dtype, cfg.head_width)

    def flops_per_token(self, params: PyTree, target_len: int, source_len: int) -> float:
        """Training FLOPs of a row by its target_len + source_len tokens: 6 a weight and token that meets it.

        And 12 a layer, head width and pair of positions in attention (PaLM, arXiv:2204.02311, appendix B);
        causality is not discounted, as is the custom.
        """
        cfg, length = self.config, target_len + source_len
        inner = cfg.num_layers * cfg.num_heads * cfg.head_width
        stack = sum(leaf.size for leaf in jax.tree.leaves(params["stack"]))
        head = cfg.vocab_rows * cfg.d_model + sum(
            leaf.size for leaf in jax.tree.leaves(params["final_norm"])
        )
        pairs = source_len**2 + target_len * length
        return (6.0 * (length * stack + target_len * head) + 12.0 * inner * pairs) / length

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch of so many tokens, source and target, needs for its backward pass, bytes.

        As if all of them were scored: rather too much than too little.
        """
        return self.config.activation_bytes(num_tokens)


def blank_places(source_BS: Array, segment_ids_BS: Array | None, mask_id: int) -> Array:
    """Where in its source a row writes: at its first [MASK], or at its last real token; int32 [B]."""
    real_BS = jnp.ones_like(source_BS, bool) if segment_ids_BS is None else segment_ids_BS > 0
    masks_BS = real_BS & (source_BS == mask_id)
    last_B = jnp.maximum(jnp.sum(real_BS.astype(jnp.int32), axis=1) - 1, 0)
    first_B = jnp.argmax(masks_BS, axis=1).astype(jnp.int32)
    return jnp.where(jnp.any(masks_BS, axis=1), first_B, last_B)


def _in_one_blank(blanks_B: Array, length: int) -> tuple[Array, Array]:
    """Positions and block positions of a blank's first tokens, int32 [B, T]."""
    shape = (blanks_B.shape[0], length)
    block_positions = jnp.arange(1, length + 1, dtype=jnp.int32)[None]
    return jnp.broadcast_to(blanks_B[:, None], shape), jnp.broadcast_to(block_positions, shape)


def _whole_sight(tokens: Array, source: Array, segment_ids, source_segment_ids) -> Sight:
    """Sight of sources with their tokens behind them: each source is a prefix that all of its row sees."""
    (batch, length), total = source.shape, source.shape[1] + tokens.shape[1]
    segments = None
    if segment_ids is not None or source_segment_ids is not None:
        mine = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        theirs = jnp.ones_like(source) if source_segment_ids is None else source_segment_ids
        segments = jnp.concatenate([theirs, mine], axis=1)
    return Sight(
        jnp.arange(total, dtype=jnp.int32)[None],
        segment_ids_BT=segments,
        prefix_B=jnp.full((batch,), length, jnp.int32),
    )
