"""A GAN of texts (Goodfellow et al. 2014, arXiv:1406.2661): a recurrent language model, and a judge of whole texts.

The generator is a language model like any other, so perplexity, sampling and comparison need no special case. It can also read
tokens that are mixtures, which is what the Gumbel-softmax GAN (Kusner and Hernandez-Lobato 2016, arXiv:1611.04051) is trained
through; SeqGAN (Yu et al. 2017, arXiv:1609.05473) trains the same two. Not for losses (objectives/adversarial.py) or for who
learns when (train/steps/adversarial.py).
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
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.history import Marks
from jaxlm.layers.linear import Linear
from jaxlm.layers.lookups import Looked
from jaxlm.layers.recurrent import Recurrent
from jaxlm.models.rnn import RNN, Carry, RNNConfig

JUDGES = ("cnn", "gru")


@dataclasses.dataclass(frozen=True)
class GANConfig(RNNConfig):
    """The generator's as of model.kind="rnn"; and of the discriminator:

    Attributes:
      discriminator: "cnn" judges a whole text, "gru" what it has read at each position.
      discriminator_width: of its embeddings, and of the GRU's states.
      filter_widths: tokens that each of the CNN's kinds of filters reads.
      num_filters: of each kind.
      discriminator_dropout: of what its last layer reads, while it learns.
    """

    discriminator: str = "cnn"
    discriminator_width: int = 64
    filter_widths: tuple[int, ...] = (2, 3, 4, 5)
    num_filters: int = 64
    discriminator_dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.discriminator not in JUDGES:
            raise ValueError(
                f'model.discriminator="{self.discriminator}": accepted are {", ".join(JUDGES)}'
            )
        for name in ("discriminator_width", "num_filters"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)} must be at least 1")
        if not self.filter_widths or any(width < 1 for width in self.filter_widths):
            raise ValueError(
                f"model.filter_widths={self.filter_widths} must be numbers of at least 1"
            )
        if not 0 <= self.discriminator_dropout < 1:
            raise ValueError(
                f"model.discriminator_dropout={self.discriminator_dropout} must be in [0, 1)"
            )


class Generator(RNN):
    """The recurrent model, which also reads mixtures of tokens, float [B, T, V]: their vectors are mixed alike."""

    def _read(self, embed: Embedding, tokens: Array, train: bool) -> Array | Looked:
        if tokens.ndim == 2:
            return super()._read(embed, tokens, train)
        return _mixed(embed, tokens)


class Discriminator(nn.Module):
    """Texts, int32 [B, T] or mixtures float [B, T, V], to the log-odds that they are real: float32 [B, P].

    P is 1 with "cnn": filters over windows of tokens, each one's largest answer, one linear layer (Kim 2014, arXiv:1408.5882;
    SeqGAN has a highway layer before that). P is T with "gru", a judgement of the text up to each position.
    """

    config: GANConfig

    @nn.compact
    def __call__(self, texts: Array, train: bool = False) -> Array:
        cfg = self.config
        width, dtype = cfg.discriminator_width, cfg.compute_dtype
        init = nn.initializers.normal(width**-0.5)
        embed = Embedding(cfg.vocab_rows, width, init, dtype=dtype, name="embed")
        x = embed(texts) if texts.ndim == 2 else _mixed(embed, texts)
        if cfg.discriminator == "gru":
            state = (jnp.zeros((len(x), width), jnp.float32),)
            x, _ = Recurrent("gru", width, dtype=dtype, name="block_0")(x, state, Marks())
        else:
            x = jnp.concatenate([self._filtered(x, size) for size in cfg.filter_widths], axis=-1)
        x = nn.Dropout(cfg.discriminator_dropout, deterministic=not train)(x)
        init = nn.initializers.normal(x.shape[-1] ** -0.5)
        logits = Linear(1, ("embed", None), init, True, dtype, name="out")(x)
        return logits[..., 0].astype(jnp.float32)

    def _filtered(self, x: Array, size: int) -> Array:
        """The largest answer of each filter to any `size` tokens, [B, 1, num_filters]; behind a text stand zeros."""
        cfg, length = self.config, x.shape[1]
        padded = jnp.pad(x, ((0, 0), (0, size - 1), (0, 0)))
        windows = jnp.concatenate([padded[:, n : n + length] for n in range(size)], axis=-1)
        init = nn.initializers.he_normal()
        filters = Linear(
            cfg.num_filters, ("embed", None), init, True, cfg.compute_dtype, name=f"filters_{size}"
        )
        return jnp.max(jax.nn.relu(filters(windows)), axis=1, keepdims=True)


class GAN(nn.Module):
    """tokens int32 [B, T] -> the generator's NeuralOutput; `judge` is the discriminator."""

    Config = GANConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    direction: ClassVar[str] = "causal"
    unbounded: ClassVar[bool] = True
    flops_formula: ClassVar[str] = "of the generator's likelihood alone"
    config: GANConfig

    def setup(self):
        self.generator = Generator(self.config)
        self.discriminator = Discriminator(self.config)

    def __call__(
        self,
        tokens: Array,
        *,
        carry: Carry | None = None,
        lengths: Array | None = None,
        train: bool = False,
    ) -> NeuralOutput | tuple[NeuralOutput, Carry]:
        """Score every position.

        Args:
          tokens: int32 [B, T], or mixtures of tokens, float [B, T, V].
          carry: the states behind what came before, from `init_cache` or from here.
          lengths: int32 [B]; the rest of a row is filling.
          train: dropout (stream "dropout") on.

        Returns:
          The output; with carry, also the new one.
        """
        if self.is_initializing():
            self.discriminator(tokens)
        return self.generator(tokens, carry=carry, lengths=lengths, train=train)

    def judge(self, texts: Array, train: bool = False) -> Array:
        """The log-odds that texts are real, float32 [B, P]; see `Discriminator`."""
        return self.discriminator(texts, train)

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Carry:
        """The generator's states before any text; they have room for any number of positions."""
        return RNN(self.config, parent=None).empty(batch_size)

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
        return RNN(self.config, parent=None).aux_terms

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """As model.kind="rnn" counts them, of the generator."""
        return RNN(self.config, parent=None).flops_per_token(params["generator"], seq_len)

    def activation_bytes(self, num_tokens: int) -> float:
        """About what the backward pass through texts that the generator wrote needs, bytes.

        Mixtures of tokens, their noise and their logits stand for a token, beside what the generator itself keeps.
        """
        cfg = self.config
        judged = len(cfg.filter_widths) * cfg.num_filters + 8 * cfg.discriminator_width
        mixtures = 6 * cfg.vocab_size
        return cfg.activation_bytes(num_tokens) + 4.0 * num_tokens * (mixtures + 3 * judged)


def _mixed(embed: Embedding, texts: Array) -> Array:
    """The vectors of mixtures of tokens, [B, T, D]."""
    table = embed.embedding[: texts.shape[-1]].astype(embed.dtype)
    return jnp.matmul(texts.astype(embed.dtype), table)
