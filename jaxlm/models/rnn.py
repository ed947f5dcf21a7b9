"""Recurrent language models: tanh RNN (Mikolov et al. 2010), GRU and LSTM (layers/recurrent.py), minGRU and minLSTM (Feng et al.
2024, arXiv:2410.01201), and Mamba (Gu and Dao 2023, arXiv:2312.00752).

All that they know of a text is a state of fixed size: it is the cache that they write on from, and what is carried from batch
to batch (data.kind="stream_text") for truncated back-propagation (Williams and Peng 1990). With the dropouts and penalties of
its config the LSTM is AWD-LSTM (Merity et al. 2017, arXiv:1708.02182); not here are its NT-ASGD (any optimizer trains it) and
its windows of random length.
Not for losses (objectives/) or search (decode/).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers.embedding import ONE_HOT_LIMIT, Embedding
from jaxlm.layers.history import Marks, marks
from jaxlm.layers.linear import Head, Linear
from jaxlm.layers.lookups import Looked
from jaxlm.layers.min_recurrent import CausalConv, MinRecurrent
from jaxlm.layers.mlp import MLP
from jaxlm.layers.norm import RMSNorm
from jaxlm.layers.recurrent import CELLS, Recurrent, State
from jaxlm.layers.recurrent_config import RecurrentConfig
from jaxlm.layers.selective_scan import Mamba


@dataclasses.dataclass(frozen=True)
class RNNConfig(RecurrentConfig):
    """A tied LSTM by default. AWD-LSTM: d_hidden, locked_dropout, the five dropouts, activation_reg and temporal_reg."""


Carry = tuple[State, ...]
"""Every layer's state, float32, the batch first."""


class RNN(nn.Module):
    """tokens int32 [B, T] -> NeuralOutput."""

    Config = RNNConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "continues")
    direction: ClassVar[str] = "causal"
    unbounded: ClassVar[bool] = True  # texts may be longer than data.seq_len
    config: RNNConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        continues: Array | None = None,
        *,
        carry: Carry | None = None,
        lengths: Array | None = None,
        train: bool = False,
    ) -> NeuralOutput | tuple[NeuralOutput, Carry]:
        """Score every position.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; states begin anew where the id changes within a row. 0 is filling.
          continues: float [B], with carry; what a row's carry is multiplied with, 0 where the row begins anew.
          carry: the states behind what came before, from `init_cache` or from here.
          lengths: int32 [B]; the rest of a row is filling.
          train: dropout (stream "dropout") on.

        Returns:
          The output, with "ar" and "tar" in `aux` where the config has coefficients for them; with carry, also the new one.

        Raises:
          ValueError: continues without carry.
        """
        if continues is not None and carry is None:
            raise ValueError("continues without carry: there is nothing to go on from")
        cfg = self.config
        states = self.empty(tokens.shape[0]) if carry is None else carry
        if continues is not None:
            states = jax.tree.map(lambda x: x * continues.reshape(-1, *(1,) * (x.ndim - 1)), states)
        places = marks(tokens.shape[1], segment_ids, lengths)
        embed = Embedding(
            cfg.vocab_rows, cfg.d_model, nn.initializers.normal(cfg.std), dtype=cfg.compute_dtype, name="embed"
        )  # fmt: skip
        x = self._read(embed, tokens, train)
        layer = self._layer if cfg.cell in CELLS else self._block
        new = []
        for number, state in enumerate(states):
            if number and cfg.cell in CELLS:
                x = cfg.make_dropout(cfg.dropout, train)(x)
            x, state = layer(number, x, tuple(state), places, train)
            new.append(state)
        if cfg.cell not in CELLS:
            x = RMSNorm(cfg.norm_eps, name="final_norm")(x)
        last = cfg.make_dropout(cfg.rates[2], train)(x)
        if cfg.tie_embeddings:
            head = embed.embedding.T
        else:
            init = nn.initializers.normal(cfg.std)
            head = Head(cfg.vocab_rows, cfg.out_width, init, name="head")()
        aux = self._penalties(last, x, places)
        output = NeuralOutput(last, head, aux, cfg.vocab_size, chunk=cfg.loss_chunk)
        return output if carry is None else (output, tuple(new))

    def _read(self, embed: Embedding, tokens: Array, train: bool) -> Array | Looked:
        """The tokens' vectors, or what they are looked up from.

        In training a vocabulary of fewer tokens than the batch has goes through the first layer's product itself.
        """
        cfg = self.config
        few = train and cfg.vocab_rows <= min(tokens.size, ONE_HOT_LIMIT)
        if cfg.cell in CELLS and few and not (cfg.rates[0] or cfg.word_dropout):
            return Looked(embed.embedding, tokens)
        x = embed(tokens)
        if train and cfg.word_dropout:
            kept = 1.0 - cfg.word_dropout
            words = jax.random.bernoulli(self.make_rng("dropout"), kept, (cfg.vocab_rows,))
            x = x * (words.astype(x.dtype) / kept)[tokens][..., None]
        return cfg.make_dropout(cfg.rates[0], train)(x)

    def _layer(
        self, number: int, x: Array | Looked, state: State, places: Marks, train: bool
    ) -> tuple[Array, State]:
        cfg = self.config
        layer = Recurrent(
            cfg.cell,
            cfg.widths[number],
            cfg.forget_bias,
            cfg.weight_dropout,
            cfg.compute_dtype,
            name=f"block_{number}",
        )
        return layer(x, state, places, train)

    def _block(
        self, number: int, x: Array, state: State, places: Marks, train: bool
    ) -> tuple[Array, State]:
        return Block(self.config, name=f"block_{number}")(x, state, places, train)

    def _penalties(self, last: Array, x: Array, places: Marks) -> dict[str, Array]:
        """AR and TAR (Merity et al. 2017, arXiv:1708.01009): of what is dropped and scaled, and of what is not; float32 []."""
        cfg, aux = self.config, {}
        real = jnp.ones(x.shape[:2], bool) if places.real_BT is None else places.real_BT
        if cfg.activation_reg:
            aux["ar"] = _mean_square(last, real)
        if cfg.temporal_reg:
            pairs = real[:, 1:] & real[:, :-1]
            if places.starts_BT is not None:
                pairs &= ~places.starts_BT[:, 1:]
            aux["tar"] = _mean_square(x[:, 1:] - x[:, :-1], pairs)
        return aux

    def empty(self, batch_size: int) -> Carry:
        """The states before any text, zeros."""
        return tuple(
            tuple(jnp.zeros((batch_size, *shape), jnp.float32) for shape in shapes)
            for shapes in self.config.state_shapes()
        )

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Carry:
        """The states before any text; they have room for any number of positions."""
        return self.empty(batch_size)

    def extend(
        self, params: PyTree, cache: Carry, tokens_BT: Array, lengths_B: Array
    ) -> tuple[NeuralOutput, Carry]:
        """Score the next tokens of each row after what the cache has seen: int32 [B, T], of row b the first lengths_B[b].

        Returns:
          The output for tokens_BT, and the states behind those that count.
        """
        return self.apply({"params": params}, tokens_BT, carry=cache, lengths=lengths_B)

    @property
    def aux_terms(self) -> Mapping[str, float]:
        """Entries of an output's `aux` that are terms of a loss, with their coefficients."""
        terms = {"ar": self.config.activation_reg, "tar": self.config.temporal_reg}
        return {name: coefficient for name, coefficient in terms.items() if coefficient}

    def scan_choice(self, seq_len: int) -> tuple[str, str]:
        """The scan that will run on this device, and why; the same for all lengths."""
        return self.config.scan_choice()

    @property
    def flops_formula(self) -> str:
        """What `flops_per_token` counts."""
        return "6 N + 27 L I N of the scan" if self.config.cell == "mamba" else "6 N"

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 for each weight of a product, recurrent ones too, and 27 I N a layer for Mamba's scan.

        N leaves out tables that are only looked up. No more for longer rows.
        """
        cfg = self.config
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        lookups = 0 if cfg.tie_embeddings else cfg.vocab_rows * cfg.d_model
        scan = 27.0 * cfg.num_layers * cfg.hidden_width * cfg.d_state * (cfg.cell == "mamba")
        return 6.0 * (total - lookups) + scan

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        return self.config.activation_bytes(num_tokens)


class Block(nn.Module):
    """x + mixer(norm(x)): Mamba's; or a convolution, a minimal cell and a projection, and then x + MLP(norm(x)).

    Of the minimal cells the paper gives the recurrence; norms and residual branches around it are as in transformers.
    Kernels that write to the residual stream are drawn smaller by sqrt(branches), as GPT-2's.
    """

    config: RNNConfig

    @nn.compact
    def __call__(self, x: Array, state: State, places: Marks, train: bool) -> tuple[Array, State]:
        cfg = self.config
        branches = cfg.num_layers * (1 if cfg.cell == "mamba" else 2)
        init = nn.initializers.normal(cfg.std)
        out_init = nn.initializers.normal(cfg.std * branches**-0.5)
        method, _ = cfg.scan_choice()
        dtype = cfg.compute_dtype
        drop = cfg.make_dropout(cfg.dropout, train)
        read = RMSNorm(cfg.norm_eps, name="norm")(x)
        if cfg.cell == "mamba":
            sizes = (cfg.hidden_width, cfg.d_state, cfg.conv_width, cfg.rank)
            mixer = Mamba(*sizes, init, out_init, method, dtype, name="mamba")
            read, state = mixer(read, state, places)
            return x + drop(read), state
        hidden, window = state
        read, window = CausalConv(cfg.conv_width, name="conv")(read, window, places)
        cell = MinRecurrent(cfg.cell, cfg.hidden_width, init, method, dtype, name="cell")
        read, hidden = cell(read, hidden, places)
        out = Linear(cfg.d_model, (None, "embed"), out_init, False, dtype, name="out")
        x = x + drop(out(read))
        mlp = MLP("gelu", cfg.d_ff or 4 * cfg.d_model, init, out_init, True, dtype, name="mlp")
        return x + drop(mlp(RMSNorm(cfg.norm_eps, name="mlp_norm")(x))), (hidden, window)


def _mean_square(x: Array, counts_BT: Array) -> Array:
    weights = counts_BT[..., None].astype(jnp.float32)
    total = jnp.sum(jnp.square(x.astype(jnp.float32)) * weights)
    return total / (jnp.maximum(jnp.sum(weights), 1.0) * x.shape[-1])
