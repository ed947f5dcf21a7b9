"""Classes of texts or of their tokens by recurrent layers: embeddings, a (bidirectional) LSTM or GRU, a pooling, a linear head.

Not for losses (objectives/) or labels (data/tasks/labelled.py, tagged.py).
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
from jaxlm.layers.recurrent_stack import StackConfig, States, both_ways
from jaxlm.models.bert import Classifier, mean_over_tokens

HEADS = ("sequence", "token")
POOLINGS = ("max", "mean", "last")


@dataclasses.dataclass(frozen=True)
class RNNClassifierConfig(StackConfig):
    """A bidirectional LSTM with max pooling by default (InferSent's encoder: Conneau et al. 2017, arXiv:1705.02364)."""

    num_layers: int = 1
    head: str = "sequence"  # or token: a class of each
    num_labels: int = 0  # 0: the task's labels
    pooling: str = (
        "max"  # of head sequence; mean; last: the state behind the last token, back the first
    )
    dropout: float = 0.3  # of embeddings, what layers but the first read, and what the head reads

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(head=HEADS, pooling=POOLINGS)
        self.check_least(num_labels=0)


class RNNClassifier(nn.Module):
    """tokens int32 [B, T] -> NeuralOutput, classes as a vocabulary: for one place a row, or for every token.

    With head token a packed row may hold several texts; head sequence reads one a row. With bidirectional=False a token's
    class is known from the tokens up to it.
    """

    Config = RNNClassifierConfig
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids",)
    direction: ClassVar[str] = "bidirectional"
    config: RNNClassifierConfig

    @nn.compact
    def __call__(
        self, tokens: Array, segment_ids: Array | None = None, *, train: bool = False
    ) -> NeuralOutput:
        """Read whole texts.

        Args:
          tokens: int32 [B, T].
          segment_ids: int32 [B, T]; states begin anew where the id changes within a row. 0 is filling.
          train: dropout (stream "dropout") on.

        Raises:
          ValueError: no number of labels.
        """
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        drop = nn.Dropout(cfg.dropout, deterministic=not train)
        embed = Embedding(cfg.vocab_rows, cfg.d_model, init, dtype=cfg.compute_dtype, name="embed")
        places, back = both_ways(tokens.shape[1], segment_ids, cfg.bidirectional)
        x, states = cfg.make_stack("stack")(drop(embed(tokens)), places, back, train=train)
        if cfg.head == "sequence":
            x = self._pool(x, states, segment_ids)[:, None]
        init = nn.initializers.xavier_uniform()
        kernel, bias = Classifier(cfg.num_labels, cfg.hidden_width, init, name="classifier")()
        return NeuralOutput(drop(x), kernel, {}, cfg.num_labels, bias_V=bias)

    def _pool(self, x_BTD: Array, states: States, segment_ids: Array | None) -> Array:
        """One vector a row, [B, D]; zeros for a row without a token."""
        if self.config.pooling == "mean":
            return mean_over_tokens(x_BTD, segment_ids)
        if self.config.pooling == "last":
            return states[-1][0].astype(x_BTD.dtype)
        return max_over_tokens(x_BTD, segment_ids)

    def flops_per_token(self, params: PyTree, seq_len: int) -> float:
        """Training FLOPs a token: 6 N; N leaves out the table, which is only looked up, and counts a text's head once."""
        cfg = self.config
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        head = sum(leaf.size for leaf in jax.tree.leaves(params["classifier"]))
        layers = total - cfg.vocab_rows * cfg.d_model - head
        return 6.0 * (layers + (head / seq_len if cfg.head == "sequence" else head))

    flops_formula: ClassVar[str] = "6 N"

    def activation_bytes(self, num_tokens: int) -> float:
        """About what one micro-batch needs for its backward pass, bytes."""
        cfg = self.config
        return cfg.kept_bytes(num_tokens) + 12.0 * num_tokens * cfg.hidden_width


def max_over_tokens(x_BTD: Array, segment_ids: Array | None) -> Array:
    """The largest value of each feature over a row's real tokens, [B, D]; zeros where there is none."""
    if segment_ids is None:
        return jnp.max(x_BTD, axis=1)
    real_BT1 = (segment_ids > 0)[..., None]
    largest = jnp.max(jnp.where(real_BT1, x_BTD, jnp.finfo(x_BTD.dtype).min), axis=1)
    return jnp.where(jnp.any(real_BT1, axis=1), largest, 0)
