"""Classes of texts by the mean of their embeddings: fastText's classifier (Joulin et al. 2016, arXiv:1607.01759), and with
layers above the mean the deep averaging network (Iyyer et al. 2015, ACL, P15-1162).

Not for losses (objectives/) or labels (data/tasks/labelled.py).
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
from jaxlm.layers.linear import Linear
from jaxlm.layers.table_config import TableConfig
from jaxlm.models.bert import Classifier

POOLINGS = ("mean", "attention")
MULTIPLIER = 116_049_371
"""fastText's, by which the hash of an n-gram is multiplied before its next word is added."""


@dataclasses.dataclass(frozen=True)
class BagOfEmbeddingsConfig(TableConfig):
    """fastText's classifier by default; a deep averaging network by `num_layers` and `word_dropout`."""

    head: ClassVar[str] = "sequence"

    d_model: int = 100
    num_labels: int = 0  # 0: the task's labels
    ngrams: int = 1  # up to so many tokens in a row have a vector of their own
    ngram_buckets: int = 0  # vectors that all n-grams of several tokens share, by a hash
    pooling: str = (
        "mean"  # attention: weighed by a softmax of a score that each token and n-gram learns
    )
    num_layers: int = 0  # hidden layers (ReLU) between the mean and the head
    d_ff: int | None = None  # their width; None: d_model
    word_dropout: float = 0.0  # share of tokens and n-grams that a mean is made without in training
    dropout: float = 0.0  # of what each hidden layer and the head read

    def __post_init__(self):
        super().__post_init__()
        self.check_least(num_labels=0, ngrams=1, ngram_buckets=0, num_layers=0, d_ff=1)
        self.check_rates("word_dropout")
        self.check_choices(pooling=POOLINGS)
        if (self.ngrams > 1) != (self.ngram_buckets > 0):
            raise ValueError(
                f"model.ngrams={self.ngrams} with model.ngram_buckets={self.ngram_buckets}: n-grams of several tokens need "
                "buckets (such as 100000), and one token alone needs none (0)"
            )


class BagOfEmbeddings(nn.Module):
    """tokens int32 [B, T] -> NeuralOutput, classes as a vocabulary, for one place a row.

    As fastText's supervised model, which has a row of one table for each word and for each bucket. n-grams are of tokens and
    hashed from their ids in 32 bits, where fastText hashes words' spellings in 64; the head has a bias; [CLS] and [SEP]
    count as tokens, as fastText's </s>. No word has parts here, and its loss is objective.kind's, not a hierarchical one.
    With pooling="attention" a token's score depends on nothing but the token; all scores are 0 at first, which is the mean.
    """

    Config = BagOfEmbeddingsConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids",)
    direction: ClassVar[str] = "bidirectional"
    config: BagOfEmbeddingsConfig

    @nn.compact
    def __call__(
        self, tokens: Array, segment_ids: Array | None = None, *, train: bool = False
    ) -> NeuralOutput:
        """Read whole texts.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; 0 is filling, and no n-gram goes from one id to another. None: all is one text.
          train: dropout (stream "dropout") on.

        Raises:
          ValueError: no number of labels.
        """
        cfg = self.config
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        init = nn.initializers.normal(cfg.init_std)
        rows = cfg.vocab_rows + cfg.ngram_buckets
        embed = Embedding(rows, cfg.d_model, init, dtype=cfg.compute_dtype, name="embed")
        x = self._pool(embed, tokens, segment_ids, train)
        drop = nn.Dropout(cfg.dropout, deterministic=not train)
        init = nn.initializers.xavier_uniform()
        for number in range(cfg.num_layers):
            width, name = cfg.d_ff or cfg.d_model, f"block_{number}"
            layer = Linear(width, ("embed", None), init, True, cfg.compute_dtype, name=name)
            x = nn.relu(layer(drop(x)))
        kernel, bias = Classifier(cfg.num_labels, x.shape[-1], init, name="classifier")()
        return NeuralOutput(drop(x)[:, None], kernel, {}, cfg.num_labels, bias_V=bias)

    def _pool(self, embed: Embedding, tokens: Array, segment_ids: Array, train: bool) -> Array:
        """One vector of all tokens and n-grams of a row, [B, D]; zeros for a row without any."""
        cfg = self.config
        ids_BN, real_BN = self._grams(tokens, segment_ids)
        weights_BN = real_BN.astype(jnp.float32)
        if train and cfg.word_dropout:
            kept = jax.random.bernoulli(
                self.make_rng("dropout"), 1.0 - cfg.word_dropout, ids_BN.shape
            )
            weights_BN = weights_BN * kept
        if cfg.pooling == "attention":
            scores_BN1 = Embedding(embed.rows, 1, nn.initializers.zeros, name="scores")(ids_BN)
            least = jnp.finfo(jnp.float32).min
            scores_BN = jnp.where(weights_BN > 0, scores_BN1[..., 0], least)
            largest_B1 = jax.lax.stop_gradient(scores_BN.max(axis=1, keepdims=True))
            weights_BN = weights_BN * jnp.exp(scores_BN - largest_B1)
        x_BND = embed(ids_BN)
        total_BD = jnp.einsum("BN,BND->BD", weights_BN.astype(x_BND.dtype), x_BND)
        return total_BD / jnp.maximum(weights_BN.sum(1), 1.0)[:, None].astype(total_BD.dtype)

    def _grams(self, tokens: Array, segment_ids: Array) -> tuple[Array, Array]:
        """Rows of the table for each token, then for each n-gram, int32 [B, N], and which of them are of a text, bool [B, N]."""
        cfg = self.config
        ids, real = [tokens], [whole(segment_ids, 1)]
        for size in range(2, min(cfg.ngrams, tokens.shape[1]) + 1):
            ids.append(cfg.vocab_rows + hashed(tokens, size, cfg.ngram_buckets))
            real.append(whole(segment_ids, size))
        return jnp.concatenate(ids, axis=1), jnp.concatenate(real, axis=1)

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 for each number of its vectors, and for each weight behind the mean once a text."""
        cfg = self.config
        tables = {"embed", "scores"}
        behind = {name: part for name, part in params.items() if name not in tables}
        weights = sum(leaf.size for leaf in jax.tree.leaves(behind))
        return 6.0 * (
            cfg.ngrams * (cfg.d_model + len(tables & params.keys()) - 1) + weights / seq_len
        )

    flops_formula: ClassVar[str] = "6 N / T + 6 D an n-gram"

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        return 8.0 * num_tokens * self.config.ngrams * self.config.d_model


def hashed(tokens_BT: Array, size: int, num_buckets: int) -> Array:
    """The bucket of the n-gram that begins at each position, int32 [B, T - size + 1].

    Of tokens a, b, c: (((a + 1) M + b + 1) M + c + 1) mod 2^32 mod num_buckets, M = MULTIPLIER.
    """
    ids = tokens_BT.astype(jnp.uint32) + jnp.uint32(1)
    length = ids.shape[1] - size + 1
    total = ids[:, :length]
    for later in range(1, size):
        total = total * jnp.uint32(MULTIPLIER) + ids[:, later : later + length]
    return (total % jnp.uint32(num_buckets)).astype(jnp.int32)


def whole(segment_ids_BT: Array, size: int) -> Array:
    """Where an n-gram begins that has no filling in it and is of one text, bool [B, T - size + 1]."""
    length = segment_ids_BT.shape[1] - size + 1
    first = segment_ids_BT[:, :length]
    found = first > 0
    for later in range(1, size):
        found &= segment_ids_BT[:, later : later + length] == first
    return found
