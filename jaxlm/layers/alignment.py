"""Which tokens of a source a recurrent decoder's state reads, by weights that sum to 1: an alignment.

Not for the heads of a transformer (attention.py, additive_attention.py).
"""

from __future__ import annotations

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers import additive_attention, attention_scores
from jaxlm.layers.linear import Initializer, Linear, named

SCORES = ("additive", "dot", "general")


@flax.struct.dataclass
class Memory:
    """A source as a decoder reads it, made once."""

    states_BSD: Array
    keys_BSK: Array | None  # what states are compared with; None: the source's states themselves
    real_BS: Array  # int32, 1; 0 is filling, which no weight falls on


class Alignment(nn.Module):
    """Weights of all source states h for each state s of a decoder, and what they read: the weighted mean of the h.

    additive: w^T tanh(W s + U h) (Bahdanau et al. 2015, arXiv:1409.0473, section A.1.2); dot: s^T h; general: s^T W h
    (Luong et al. 2015, arXiv:1508.04025, equation 8, global attention). No biases, and no scale, as in both papers.
    """

    score: str  # of SCORES
    features: int  # of what is compared: the decoder's states, or the additive score's tanh
    kernel_init: Initializer
    dtype: str = "float32"

    def setup(self):
        def linear() -> Linear:
            return Linear(self.features, ("embed", None), self.kernel_init, False, self.dtype)

        if self.score != "dot":
            self.key = linear()
        if self.score == "additive":
            self.query = linear()
            init = nn.initializers.normal(self.features**-0.5)
            self.weights = self.param("weights", named(init, None), (self.features,))

    def remember(self, states_BSD: Array, real_BS: Array) -> Memory:
        """What is the same for all states that will read this source."""
        keys = None if self.score == "dot" else self.key(states_BSD)
        return Memory(states_BSD, keys, real_BS)

    def __call__(
        self, states_BTD: Array, memory: Memory, shown: bool = False
    ) -> tuple[Array, Array | None]:
        """What each state reads [B, T, D], and its weights, float32 [B, T, S], where they are to be shown.

        A row whose source is all filling reads the mean of it.
        """
        if self.score == "additive":
            return self._by_sums(states_BTD, memory, shown)
        keys = memory.states_BSD if memory.keys_BSK is None else memory.keys_BSK
        scores_BTS = attention_scores.product("BTK,BSK->BTS", states_BTD, keys)
        real = (memory.real_BS > 0)[:, None]
        weights = jax.nn.softmax(attention_scores.finish(scores_BTS, None, real), axis=-1)
        read = jnp.einsum("BTS,BSD->BTD", weights.astype(self.dtype), memory.states_BSD)
        return read, weights if shown else None

    def _by_sums(
        self, states_BTD: Array, memory: Memory, shown: bool
    ) -> tuple[Array, Array | None]:
        """In chunks, so that not all the sums [B, T, K, S] exist at once."""
        queries = self.query(states_BTD)[:, None]
        keys = jnp.swapaxes(memory.keys_BSK, 1, 2)[:, None]
        ones = jnp.ones(states_BTD.shape[:2], jnp.int32)
        segments = ones, (memory.real_BS > 0).astype(jnp.int32)
        values = memory.states_BSD[:, None]
        if not shown:
            read = additive_attention.attend(queries, keys, values, self.weights[None], segments)
            return read[:, 0], None
        # What is read of unit vectors are the weights themselves.
        size = values.shape[2]
        units = jnp.broadcast_to(jnp.eye(size)[None, None], (values.shape[0], 1, size, size))
        weights = additive_attention.attend(queries, keys, units, self.weights[None], segments)
        read = jnp.einsum("BHTS,BHSD->BTD", weights.astype(self.dtype), values)
        return read, weights[:, 0]
