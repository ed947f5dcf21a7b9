"""Vectors of words: two tables, of words as centres and as what stands around them (word2vec, fastText, GloVe).

Not for losses (core/word_losses.py, objectives/), nor for what is nearest to a word (eval/word_vectors.py).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core import word_losses
from jaxlm.core.types import Array, PyTree
from jaxlm.layers.linear import named


@dataclasses.dataclass(frozen=True)
class WordVectorsConfig:
    """word2vec's skip-gram by default.

    Attributes:
      vocab_size: words; 0: the tokenizer's, filled in by the loop.
      d_model: width of a vector.
      architecture: skip_gram: a word says what stands around it; cbow: what stands around it says the word.
      num_buckets: rows of the table of character n-grams; 0: those of the data (data.num_buckets).
      biases: of both tables, as GloVe has; then both tables start at random, not only the input's.
    """

    vocab_size: int = 0
    d_model: int = 100
    architecture: str = word_losses.SKIP_GRAM
    num_buckets: int = 0
    biases: bool = False

    def __post_init__(self):
        if self.architecture not in word_losses.ARCHITECTURES:
            raise ValueError(
                f'model.architecture="{self.architecture}": accepted are {", ".join(word_losses.ARCHITECTURES)}'
            )
        if self.d_model < 1:
            raise ValueError(f"model.d_model={self.d_model} must be at least 1")
        for name in ("vocab_size", "num_buckets"):
            if getattr(self, name) < 0:
                raise ValueError(f"model.{name}={getattr(self, name)} must be 0 or more")

    @property
    def gives_probabilities(self) -> bool:
        """Not of a text."""
        return False

    @property
    def instead(self) -> str:
        """What to ask for where a probability is asked for."""
        return 'take evaluators=("word_pairs",), the held-out loss'


@flax.struct.dataclass
class WordOutput:
    """The tables by path, for whoever reads rows of them; no probabilities of texts can be made of them."""

    tables: dict[str, Array]
    aux: dict[str, Array]
    architecture: str = flax.struct.field(pytree_node=False)


class WordVectors(nn.Module):
    """tokens int32 [B, T] -> WordOutput.

    Sources: Mikolov et al. 2013, arXiv:1310.4546 and arXiv:1301.3781; Bojanowski et al. 2017, arXiv:1607.04606; Pennington et
    al. 2014 (GloVe). Input vectors start uniform in +-1/(2 D), output vectors at 0, as in word2vec.c.
    """

    Config = WordVectorsConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    direction: ClassVar[str] = "word_vectors"
    flops_formula: ClassVar[str] = "not counted: windows, negatives and pairs are the data's"
    config: WordVectorsConfig

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool = False) -> WordOutput:
        """The tables; of `tokens` nothing is read."""
        cfg = self.config
        tables = _Table(cfg.vocab_size, cfg.d_model, True, cfg.biases, name="input")()
        tables |= _Table(cfg.vocab_size, cfg.d_model, cfg.biases, cfg.biases, name="output")()
        if cfg.num_buckets:
            tables |= _Table(cfg.num_buckets, cfg.d_model, True, False, name="subwords")()
        return WordOutput(tables, {}, cfg.architecture)

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """See `flops_formula`."""
        return 0.0

    def activation_bytes(self, num_tokens: int) -> float:
        """About what a backward pass needs: rows that were read and their gradients, scores of windows and negatives."""
        return 4.0 * num_tokens * (16 * self.config.d_model + 512)


class _Table(nn.Module):
    """One table, and where asked for a number for each of its rows."""

    rows: int
    features: int
    random: bool
    bias: bool

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        init = _uniform(self.features) if self.random else nn.initializers.zeros
        shape = self.rows, self.features
        found = {"embedding": self.param("embedding", named(init, "vocab", "embed"), shape)}
        if self.bias:
            found["bias"] = self.param(
                "bias", named(_uniform(self.features), "vocab"), (self.rows,)
            )
        return {f"{self.name}/{name}": value for name, value in found.items()}


def _uniform(features: int):
    """Uniform in +-1/(2 D)."""

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -0.5 / features, 0.5 / features)

    return init
