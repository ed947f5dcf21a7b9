"""Models small enough to do by hand: logits are rows of a table."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import LossContext

PROBS = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])


def output(logits):
    return NeuralOutput(logits, jnp.eye(3), {}, vocab_size=3)


class Table(nn.Module):
    """A token's logits by the token itself: read as a bigram model, or as one of masked tokens."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ()

    @nn.compact
    def __call__(self, tokens, *, train=False):
        return output(self.param("table", nn.initializers.zeros, (3, 3))[tokens])


class Bidirectional(Table):
    direction: ClassVar[str] = "bidirectional"


class Prefixed(Table):
    """Inside the prefix every token has the logits of the prefix's last token."""

    direction: ClassVar[str] = "causal"
    optional_inputs: ClassVar[tuple[str, ...]] = ("prefix_lengths",)

    @nn.compact
    def __call__(self, tokens, prefix_lengths=None, *, train=False):
        table = self.param("table", nn.initializers.zeros, (3, 3))
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        last = prefix_lengths[:, None] - 1
        seen = jnp.where(places < last, jnp.broadcast_to(last, places.shape), places)
        return output(table[jnp.take_along_axis(tokens, seen, axis=1)])


class Pair(nn.Module):
    """Log-probabilities of the decoder's token, halved where the source begins with 1."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "source")
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    direction: ClassVar[str] = "encoder_decoder"

    @nn.compact
    def __call__(self, tokens, source, *, train=False):
        table = self.param("table", nn.initializers.zeros, (3, 3))
        scale = jnp.where(source[:, :1, None] == 1, 0.5, 1.0)
        return output(table[tokens] * jnp.broadcast_to(scale, (*tokens.shape, 3)))


class Blanked(Pair):
    """As Pair, halved where a blank begins."""

    optional_inputs: ClassVar[tuple[str, ...]] = ("positions", "block_positions")

    @nn.compact
    def __call__(self, tokens, source, positions=None, block_positions=None, *, train=False):
        table = self.param("table", nn.initializers.zeros, (3, 3))
        scale = jnp.where(block_positions == 1, 0.5, 1.0)[:, :, None]
        return output(table[tokens] * jnp.broadcast_to(scale, (*tokens.shape, 3)))


class Classifier(Table):
    """One class a row, by its first token."""

    direction: ClassVar[str] = "bidirectional"

    @nn.compact
    def __call__(self, tokens, *, train=False):
        return output(self.param("table", nn.initializers.zeros, (3, 3))[tokens[:, :1]])


def loss_out(objective, batch, table=PROBS):
    """The objective's sums with these probabilities in the table."""
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    return objective({"table": jnp.log(jnp.asarray(table))}, ctx, batch)
