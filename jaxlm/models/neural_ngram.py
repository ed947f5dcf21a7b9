"""The neural probabilistic language model (Bengio, Ducharme, Vincent and Jauvin 2003, A Neural Probabilistic Language Model,
JMLR 3): the vectors of the last n - 1 tokens side by side, one tanh layer, a softmax.

An n-gram's context with a network's generalisation: the step between counting and recurrence. Not for losses (objectives/).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import Array, PyTree
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.history import marks, shifted
from jaxlm.layers.linear import Head, Linear, named
from jaxlm.layers.model_config import DTYPES, ModelConfig


@dataclasses.dataclass(frozen=True)
class NPLMConfig(ModelConfig):
    """The paper's MLP1, 3, 5, 7 and 9 in its tables: order 5 or 6, d_hidden 50 or 100, d_model 30 or 60."""

    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 128  # tables are padded to it; padding never enters a loss or a sample
    order: int = 5  # n: a token is predicted from the n - 1 before it
    d_model: int = 64  # of a token's vector
    d_hidden: int = 256
    direct: bool = True  # also from the vectors straight to the scores
    dropout: float = 0.0  # of what the softmax reads
    init_std: float = 0.02  # of output kernels; vectors begin as N(0, 1)
    max_len: int = 1024  # of texts that are written or scored; no weight depends on it
    loss_chunk: int = 0  # tokens whose logits exist at once; 0: as many as fit in 1 GiB, else 8192
    dtype: str = "auto"  # of products; auto: bfloat16 on an accelerator, float32 on CPU

    def __post_init__(self):
        self.check_choices(dtype=DTYPES)
        least = dict.fromkeys(("vocab_multiple", "d_model", "d_hidden", "max_len"), 1)
        self.check_least(**least, order=2, vocab_size=0, loss_chunk=0)
        self.check_rates("dropout")

    @property
    def out_width(self) -> int:
        """Of what the softmax reads."""
        return self.d_hidden + (self.order - 1) * self.d_model * self.direct


class NeuralNGram(nn.Module):
    """tokens int32 [B, T] -> NeuralOutput: scores b + W x + U tanh(d + H x) of the next token (the paper's equation 1).

    W and U are one kernel, of tanh's values and of x side by side. Where a text has not n - 1 tokens yet, the missing ones have
    the vector 0 (the paper does not say). Weight decay is the optimizer's; the paper's mixture with a trigram is not here.
    """

    Config = NPLMConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "continues")
    direction: ClassVar[str] = "causal"
    unbounded: ClassVar[bool] = True  # texts may be longer than data.seq_len
    config: NPLMConfig

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        segment_ids: Array | None = None,
        continues: Array | None = None,
        *,
        carry: Array | None = None,
        lengths: Array | None = None,
        train: bool = False,
    ) -> NeuralOutput | tuple[NeuralOutput, Array]:
        """Score every position.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; a token sees its own segment only. 0 is filling.
          continues: float [B], with carry: 0 where the row begins anew, else 1.
          carry: int32 [B, n - 2], ids + 1 of the tokens before; 0: there was none.
          lengths: int32 [B]; the rest of a row is filling.
          train: dropout (stream "dropout") on.

        Returns:
          The output; with carry, also the new one.

        Raises:
          ValueError: continues without carry.
        """
        if continues is not None and carry is None:
            raise ValueError("continues without carry: there is nothing to go on from")
        cfg, dtype = self.config, self.config.compute_dtype
        before = self.init_cache({}, tokens.shape[0], 0) if carry is None else carry
        if continues is not None:
            before = before * (continues > 0).astype(jnp.int32)[:, None]
        places = marks(tokens.shape[1], segment_ids, lengths)
        count = cfg.order - 2
        _, after = shifted(tokens + 1, before, places, count)
        wide = nn.initializers.normal(1.0)  # narrower ones reach tanh as next to nothing
        embed = Embedding(cfg.vocab_rows, cfg.d_model, wide, dtype=dtype, name="embed")
        known = embed(jnp.maximum(before - 1, 0)) * (before > 0)[..., None].astype(dtype)
        x = jnp.concatenate(shifted(embed(tokens), known, places, count)[0], axis=-1)
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        hidden = Linear(cfg.d_hidden, ("embed", "mlp"), fan_in, True, dtype, name="hidden")
        states = jnp.tanh(hidden(x))
        states = jnp.concatenate([states, x], axis=-1) if cfg.direct else states
        states = nn.Dropout(cfg.dropout, deterministic=not train)(states)
        init = nn.initializers.normal(cfg.init_std)
        head = Head(cfg.vocab_rows, cfg.out_width, init, name="head")()
        bias = self.param("head_bias", named(nn.initializers.zeros, "vocab"), (cfg.vocab_rows,))
        output = NeuralOutput(states, head, {}, cfg.vocab_size, chunk=cfg.loss_chunk, bias_V=bias)
        return output if carry is None else (output, after)

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Array:
        """No tokens before the first one; room for any number of positions."""
        return jnp.zeros((batch_size, self.config.order - 2), jnp.int32)

    def extend(
        self, params: PyTree, cache: Array, tokens_BT: Array, lengths_B: Array
    ) -> tuple[NeuralOutput, Array]:
        """Score the next tokens of each row after those of the cache: int32 [B, T], of row b the first lengths_B[b].

        Returns:
          The output for tokens_BT, and the tokens that the next ones look back on.
        """
        return self.apply({"params": params}, tokens_BT, carry=cache, lengths=lengths_B)

    flops_formula: ClassVar[str] = "6 N"

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 for each weight of a product; the table is only looked up."""
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        return 6.0 * (total - self.config.vocab_rows * self.config.d_model)

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        cfg = self.config
        kept = 6 * (cfg.order - 1) * cfg.d_model + 4 * cfg.d_hidden + 2 * cfg.out_width
        return 4.0 * num_tokens * kept + 3 * 4 * min(num_tokens * cfg.vocab_rows, 2**28)
