"""One text from another by recurrent layers with attention: LSTM or GRU encoder and decoder (Bahdanau et al. 2015, arXiv:1409.0473;
Luong et al. 2015, arXiv:1508.04025).

The order of things is Luong's, whatever the score: the decoder's state is made first, then aligned with the source, and what
it reads is joined to it for the head. Not for losses (objectives/), pairs of texts (data/) or search (decode/).
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
from jaxlm.layers.alignment import SCORES, Alignment, Memory
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.history import Marks, marks
from jaxlm.layers.linear import Head, Linear
from jaxlm.layers.recurrent_stack import StackConfig, States, both_ways

SHOWN = ("cross_attention",)
"""What can be asked for; the encoder and the decoder's own layers have no attention."""


@dataclasses.dataclass(frozen=True)
class RNNSeq2SeqConfig(StackConfig):
    """`num_layers` and `d_hidden` are of both sides, `bidirectional` is of the encoder; `dropout` as Zaremba et al. 2014.

    Dropped are embeddings, what layers but the first read, and what the head reads; never a state on its way through time.
    """

    alignment: str = "additive"  # or dot, general
    align_width: int | None = None  # of the additive score's tanh; None: of states, as in the paper
    init_std: float = 0.3  # of embeddings; of 0.1 the first layers hear little, and learn late
    input_feeding: bool = False  # the decoder reads what the head read one position before, too
    share_embeddings: bool = True  # source and target tokens are rows of one table
    tie_embeddings: bool = True  # the head is the target's table
    decoder_start_id: int = 0  # the first decoder input; the data put it there
    loss_chunk: int = 0  # tokens whose logits exist at once; 0: as many as fit in 1 GiB, else 8192
    dropout: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(alignment=SCORES)
        self.check_least(decoder_start_id=0, loss_chunk=0, align_width=1)
        if self.align_width is not None and self.alignment != "additive":
            raise ValueError(
                f'model.align_width={self.align_width}: model.alignment="{self.alignment}" compares states as wide as '
                'they are; only "additive" has a width of its own'
            )

    @property
    def score_width(self) -> int:
        """Of what an alignment compares."""
        return self.align_width or self.hidden_width


@flax.struct.dataclass
class Carry:
    """What a decoder takes from position to position."""

    states: States
    fed_BD: Array | None  # what the head read, with input feeding; else None


@flax.struct.dataclass
class Cache:
    """Where a decoder stands, and the source that it writes from; as large after a thousand tokens as after one."""

    carry: Carry
    memory: Memory


class RNNSeq2Seq(nn.Module):
    """tokens int32 [B, T], source int32 [B, S] -> NeuralOutput of the tokens.

    Each layer of the decoder begins with the last states of the encoder's layer beside it, both directions side by side
    (Luong; Bahdanau has tanh(W h) of the way back), for which both sides have one depth and width. Bahdanau aligns the state
    before a token and reads the source into the next one; the nearest to it here is `input_feeding`, Luong's, which goes
    through the decoder position by position in training, too. Rows hold one pair: packed ones (data.kind="packed_pairs")
    would need a first state in the middle of a row, and are refused as having segment_ids.
    """

    Config = RNNSeq2SeqConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens", "source")
    optional_inputs: ClassVar[tuple[str, ...]] = ("source_segment_ids",)
    source_inputs: ClassVar[tuple[str, ...]] = ("source", "source_segment_ids")
    direction: ClassVar[str] = "encoder_decoder"
    shows: ClassVar[tuple[str, ...]] = SHOWN
    config: RNNSeq2SeqConfig

    def setup(self):
        cfg = self.config
        self.embed = self._table()
        self.source_embed = self.embed if cfg.share_embeddings else self._table()
        self.encoder = cfg.make_stack()
        self.decoder = Decoder(cfg)
        if not cfg.tie_embeddings:
            self.head = Head(cfg.vocab_rows, cfg.d_model, nn.initializers.normal(cfg.init_std))
        self.drop = nn.Dropout(cfg.dropout)

    def _table(self) -> Embedding:
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        return Embedding(cfg.vocab_rows, cfg.d_model, init, dtype=cfg.compute_dtype)

    def __call__(
        self,
        tokens: Array,
        source: Array | None = None,
        source_segment_ids: Array | None = None,
        *,
        train: bool = False,
        cache: Cache | None = None,
        lengths: Array | None = None,
        shown: tuple[str, ...] = (),
    ) -> NeuralOutput | tuple[NeuralOutput, Cache]:
        """Score every position of the decoder.

        Args:
          tokens: int32 [B, T], the decoder's inputs: targets shifted right.
          source: int32 [B, S]; None if `cache` has read it.
          source_segment_ids: int32 [B, S]; 0 is filling. None: all of it is real.
          train: dropout (stream "dropout") on.
          cache: from `init_cache` or `extend`.
          lengths: int32 [B]; the rest of a row is filling.
          shown: "cross_attention" puts the alignment in `aux["decoder/cross_attention"]`, float32 [1, B, 1, T, S]:
            of one layer and one head, as a transformer's stands there.

        Returns:
          The output; with cache, also the new one.

        Raises:
          ValueError: neither source nor cache, or something else is to be shown.
        """
        if unknown := sorted(set(shown) - set(SHOWN)):
            raise ValueError(f"shown={unknown}: accepted are {', '.join(SHOWN)}")
        if (source is None) == (cache is None):
            raise ValueError("give either source or cache: a cache has read its source")
        found = self.encode(source, source_segment_ids, train) if cache is None else cache
        x = self.drop(self.embed(tokens), deterministic=not train)
        real = marks(tokens.shape[1], None, lengths).real_BT
        asked = bool(shown)
        if self.config.input_feeding:
            carry, (x, weights) = self._fed(found.carry, x, real, found.memory, train, asked)
        else:
            carry, (x, weights) = self.decoder(found.carry, x, real, found.memory, train, asked)
        x = self.drop(x, deterministic=not train)
        aux = {"decoder/cross_attention": weights[None, :, None]} if asked else {}
        head = self.embed.embedding.T if self.config.tie_embeddings else self.head()
        output = NeuralOutput(x, head, aux, self.config.vocab_size, chunk=self.config.loss_chunk)
        return output if cache is None else (output, found.replace(carry=carry))

    def encode(self, source: Array, segment_ids: Array | None = None, train: bool = False) -> Cache:
        """Read sources int32 [B, S]; the decoder stands before its first position."""
        cfg = self.config
        x = self.drop(self.source_embed(source), deterministic=not train)
        places, back = both_ways(source.shape[1], segment_ids, cfg.bidirectional)
        x, states = self.encoder(x, places, back, train=train)
        real = jnp.ones_like(source) if segment_ids is None else (segment_ids > 0).astype(jnp.int32)
        fed = jnp.zeros((len(source), cfg.d_model), x.dtype) if cfg.input_feeding else None
        return Cache(Carry(states, fed), self.decoder.alignment.remember(x, real))

    def _fed(
        self, carry: Carry, x: Array, real: Array | None, memory: Memory, train: bool, shown: bool
    ) -> tuple[Carry, tuple[Array, Array | None]]:
        """The decoder, position by position."""

        def one(decoder: Decoder, carry: Carry, inputs: tuple[Array, Array | None]):
            x_BD, real_B = inputs
            real_BT = None if real_B is None else real_B[:, None]
            carry, (x, weights) = decoder(carry, x_BD[:, None], real_BT, memory, train, shown)
            return carry, (x[:, 0], None if weights is None else weights[:, 0])

        loop = nn.scan(
            one,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=1,
            out_axes=1,
        )
        return loop(self.decoder, carry, (x, real))

    def init_cache(
        self,
        params: PyTree,
        batch_size: int,
        max_len: int,
        source: Array,
        source_segment_ids: Array | None = None,
    ) -> Cache:
        """Read the sources int32 [batch_size, S]; there is room for any number of tokens behind them."""
        given = {"params": params}
        return self.apply(given, source, source_segment_ids, method="encode")

    def extend(
        self, params: PyTree, cache: Cache, tokens_BT: Array, lengths_B: Array
    ) -> tuple[NeuralOutput, Cache]:
        """Score the next tokens of each row after what the cache has seen: int32 [B, T], of row b the first lengths_B[b].

        Returns:
          The output for tokens_BT, and the cache behind those that count.
        """
        return self.apply({"params": params}, tokens_BT, cache=cache, lengths=lengths_B)

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """How the decoder is aligned with the source, and why."""
        name = self.config.alignment
        return f"{name} alignment", f'model.alignment="{name}"'

    def flops_per_token(self, params: PyTree, target_len: int, source_len: int) -> float:
        """Training FLOPs of a row by its target_len + source_len tokens: 6 a weight and token that meets it.

        And 6 for each number of a score, and of a state that is read, and pair of positions.
        """
        cfg = self.config

        def size(tree: PyTree) -> int:
            return sum(leaf.size for leaf in jax.tree.leaves(tree))

        keys = size(params["decoder"].get("alignment", {}).get("key", {}))
        products = source_len * (size(params["encoder"]) + keys)
        head = cfg.vocab_rows * cfg.d_model
        products += target_len * (size(params["decoder"]) - keys + head)
        pairs = (cfg.score_width + cfg.hidden_width) * target_len * source_len
        return 6.0 * (products + pairs) / (target_len + source_len)

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch of so many tokens, source and target, needs for its backward pass, bytes."""
        cfg = self.config
        joined = 4.0 * num_tokens * (4 * cfg.hidden_width + 2 * cfg.d_model)
        return cfg.kept_bytes(num_tokens) + joined + 3 * 4 * min(num_tokens * cfg.vocab_rows, 2**28)


class Decoder(nn.Module):
    """tanh(W [c; s]) of the stack's states s and what they read of the source c (Luong et al. 2015, equation 5)."""

    config: RNNSeq2SeqConfig

    def setup(self):
        cfg = self.config
        init, dtype = nn.initializers.xavier_uniform(), cfg.compute_dtype
        self.stack = cfg.make_stack()
        self.alignment = Alignment(cfg.alignment, cfg.score_width, init, dtype)
        self.join = Linear(cfg.d_model, ("embed", None), init, False, dtype)

    def __call__(
        self,
        carry: Carry,
        x: Array,
        real_BT: Array | None,
        memory: Memory,
        train: bool,
        shown: bool,
    ) -> tuple[Carry, tuple[Array, Array | None]]:
        """What the head reads [B, T, D], of one position with input feeding, and the alignment where it is shown.

        Filling, where real_BT is False, changes nothing of what is carried.
        """
        if carry.fed_BD is not None:
            assert x.shape[1] == 1
            x = jnp.concatenate([x, carry.fed_BD[:, None]], axis=-1)
        x, states = self.stack(x, Marks(real_BT=real_BT), states=carry.states, train=train)
        read, weights = self.alignment(x, memory, shown)
        x = jnp.tanh(self.join(jnp.concatenate([read, x], axis=-1)))
        fed = None
        if carry.fed_BD is not None:
            fed = x[:, 0] if real_BT is None else jnp.where(real_BT, x[:, 0], carry.fed_BD)
        return Carry(states, fed), (x, weights)
