"""What every model of an encoder and a decoder does: run both stacks, keep the source while decoding, predict its costs.

Not for what tells the families apart: how tokens become states and states logits (models/t5.py, models/encoder_decoder.py).
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
from jaxlm.layers.attention import SHOWN, Caches, Sight, empty_caches
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.transformer import Stack
from jaxlm.layers.two_stacks_config import TwoStacksConfig


@flax.struct.dataclass
class Cache:
    """Keys and values of every decoder layer, the source's included; positions used; the source's segments."""

    layers: Caches
    lengths_B: Array
    source_segment_ids_BS: Array


class TwoStacks(nn.Module):
    """tokens int32 [B, T], source int32 [B, S] -> NeuralOutput of the tokens.

    A family says with `tables`, `begin`, `end` and `head` what stands before and behind the stacks.
    """

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "source")
    optional_inputs: ClassVar[tuple[str, ...]] = (
        "segment_ids",
        "source_segment_ids",
        "positions",
        "source_positions",
    )
    source_inputs: ClassVar[tuple[str, ...]] = ("source", "source_segment_ids")
    direction: ClassVar[str] = "encoder_decoder"
    shows: ClassVar[tuple[str, ...]] = SHOWN
    config: TwoStacksConfig

    def tables(self) -> tuple[Embedding, Embedding]:
        """Of source and target; may be the same one."""
        raise NotImplementedError

    def begin(self, side: str, x: Array, positions: Array) -> Array:
        """What the stack of "encoder" or "decoder" reads, of embedded tokens and where they stand."""
        return x

    def end(self, side: str, x: Array, drop: nn.Dropout) -> Array:
        """The states of a side behind its stack."""
        raise NotImplementedError

    def head(self, x: Array, target: Embedding) -> tuple[Array, Array]:
        """States that a head reads, and the head [D, V]."""
        raise NotImplementedError

    @property
    def position_limit(self) -> int | None:
        """How many tokens of either side the model can read; None: any number."""
        return None

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        source: Array | None = None,
        segment_ids: Array | None = None,
        source_segment_ids: Array | None = None,
        positions: Array | None = None,
        source_positions: Array | None = None,
        *,
        prefix: Array | None = None,
        train: bool = False,
        caches: Caches | None = None,
        lengths: Array | None = None,
        shown: tuple[str, ...] = (),
    ) -> NeuralOutput | tuple[NeuralOutput, Caches]:
        """Score every position of the decoder.

        Args:
          tokens: int32 [B, T], the decoder's inputs: targets shifted right.
          source: int32 [B, S]; None if `caches` hold its keys and values.
          segment_ids: int32 [B, T]; a token sees its own segment of tokens and of the source. 0 is
            filling; None: all are of segment 1.
          source_segment_ids: int32 [B, S], likewise.
          positions: int32 [B, T]; 0.. by default. In packed rows they begin again with each segment.
          source_positions: int32 [B, S], likewise.
          prefix: float [B, P, D], vectors that are no tokens (a learned prompt), read before every source, of segment 1 and
            without positions in a table or a wave.
          train: dropout (stream "dropout") and rematerialisation on.
          caches: keys and values of earlier positions, from `extend`.
          lengths: int32 [B], with caches; the rest of a row is filling.
          shown: what of every layer is to stand in `aux`: "states", "attention" (layers/transformer.py: Stack), each
            behind its side ("encoder/states", "decoder/cross_attention"); of whole sequences only.

        Returns:
          The output; with caches, also the new ones. What routers of both stacks report under one name stands in
          its `aux` one after the other, the encoder's first.

        Raises:
          ValueError: more positions than the model can hold.
        """
        cfg = self.config
        drop = nn.Dropout(cfg.dropout, deterministic=not train)
        source_table, target_table = self.tables()

        def run(side: str, config: TwoStacksConfig, x: Array, sight: Sight, caches: Caches | None):
            x = self.begin(side, x, sight.positions_BT)
            if side == "encoder" and prefix is not None:
                x = jnp.concatenate([prefix.astype(x.dtype), x], axis=1)
            x = drop(x)
            x = nn.with_logical_constraint(x, ("batch", "length", None))
            decoding = side == "decoder"
            stack = Stack(config, config.spec(decoding), decoding, train, name=side)
            x, caches, aux = stack(x, sight, caches)
            own = (*SHOWN, "cross_attention")
            aux = {f"{side}/{n}" if n in own else n: values for n, values in aux.items()}
            return self.end(side, x, drop), caches, aux

        if prefix is not None and source_segment_ids is not None:
            before = ((0, 0), (prefix.shape[1], 0))
            source_segment_ids = jnp.pad(source_segment_ids, before, constant_values=1)
        encoded, source_aux = None, {}
        if source is not None:
            places = self._places(source, source_positions)
            sight = Sight(places, segment_ids_BT=source_segment_ids, shown=tuple(shown))
            encoded, _, source_aux = run("encoder", cfg, source_table(source), sight, None)
        sight = Sight(
            self._places(tokens, positions),
            lengths,
            segment_ids_BT=segment_ids,
            source_BSD=encoded,
            source_segment_ids_BS=source_segment_ids,
            shown=tuple(shown),
        )
        x, new_caches, aux = run("decoder", cfg.decoder, target_table(tokens), sight, caches)
        x, head = self.head(x, target_table)
        aux = joined(source_aux, aux)
        output = NeuralOutput(x, head, aux, cfg.vocab_size, chunk=cfg.loss_chunk)
        return output if caches is None else (output, new_caches)

    def _places(self, ids: Array, given: Array | None) -> Array:
        self._check_length(ids.shape[1])
        return jnp.arange(ids.shape[1], dtype=jnp.int32)[None] if given is None else given

    def _check_length(self, length: int) -> None:
        """A table of positions would be read beyond its end in silence."""
        if self.position_limit is not None and length > self.position_limit:
            raise ValueError(
                f"{length} positions are more than the learned ones, model.max_len={self.position_limit}"
            )

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

        Raises:
          ValueError: more positions than the model can hold.
        """
        self._check_length(max_len - 1)  # the last token that is written is not read
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

    @property
    def aux_terms(self) -> Mapping[str, float]:
        """Entries of an output's `aux` that are terms of a loss, with their coefficients."""
        return self.config.aux_terms

    def attention_choice(self, batch_keys: Iterable[str] = ()) -> tuple[str, str]:
        """The attention backend that will run on this device for a batch with these entries, and why.

        By place where they differ.
        """
        cfg, keys = self.config, set(batch_keys)
        mine, theirs = "segment_ids" in keys, "source_segment_ids" in keys
        chosen = {}
        for side, packed in (("encoder", theirs), ("decoder", mine)):
            spec = dataclasses.replace(cfg.spec(side == "decoder"), segments=packed)
            chosen[side] = attention_backends.choose(
                cfg.attention, spec, cfg.compute_dtype, cfg.head_width
            )
        scale = cfg.spec(causal=True).scale
        spec = Spec(causal=False, cross=True, scale=scale, segments=mine or theirs)
        chosen["cross"] = cfg.cross_choice(spec)
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
            return cfg.active_size([params[name] for name in names if name in params])

        source_keys = cfg.decoder_layers * 2 * cfg.d_model * inner  # and values
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


def joined(first: dict[str, Array], second: dict[str, Array]) -> dict[str, Array]:
    """Entries of both; those of one name one after the other along their first axis."""
    both = {name: jnp.concatenate([first[name], second[name]]) for name in first if name in second}
    return first | second | both
