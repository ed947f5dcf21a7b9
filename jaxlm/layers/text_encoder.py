"""A whole text to one vector by a recurrent layer and a pool over its states.

Not for models that score every position (models/rnn.py).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.embedding import ONE_HOT_LIMIT, Embedding
from jaxlm.layers.history import marks
from jaxlm.layers.linear import Linear
from jaxlm.layers.lookups import Looked
from jaxlm.layers.recurrent import CELLS, Recurrent

POOLINGS = ("last", "mean", "max")


class TextEncoder(nn.Module):
    """A text [B, T] -> a linear map of its pooled states, float32 [B, features].

    Filling stands behind a text: it is read, but after all states that count.
    """

    cell: str  # of recurrent.CELLS
    vocab_rows: int
    d_model: int  # of the tokens' vectors
    d_hidden: int
    features: int
    pooling: str = "last"  # how states become one: see `pool`
    forget_bias: float = 1.0
    init_std: float = 0.02
    dtype: str = "float32"

    @nn.compact
    def __call__(self, ids_BT: Array, real_BT: Array) -> Array:
        """`real_BT`, bool: which ids belong to the text."""
        init = nn.initializers.normal(self.init_std)
        embed = Embedding(self.vocab_rows, self.d_model, init, dtype=self.dtype, name="embed")
        few = self.vocab_rows <= min(ids_BT.size, ONE_HOT_LIMIT)
        x = Looked(embed.embedding, ids_BT) if few else embed(ids_BT)
        zeros = jnp.zeros((ids_BT.shape[0], self.d_hidden), jnp.float32)
        state = (zeros,) * CELLS[self.cell].num_states
        layer = Recurrent(
            self.cell, self.d_hidden, self.forget_bias, dtype=self.dtype, name="block"
        )
        states_BTD, _ = layer(x, state, marks(ids_BT.shape[1]))
        pooled_BD = pool(self.pooling, states_BTD.astype(jnp.float32), real_BT)
        return Linear(self.features, ("embed", None), init, True, name="out")(pooled_BD)


def pool(how: str, states_BTD: Array, real_BT: Array) -> Array:
    """One vector for each text: its last state, their mean or their maximum, [B, D]; 0 where a row has no text."""
    real_BT1 = real_BT[..., None]
    if how == "mean":
        total_BD = jnp.sum(states_BTD * real_BT1, axis=1)
        return total_BD / jnp.maximum(jnp.sum(real_BT1, axis=1), 1)
    if how == "max":
        highest_BD = jnp.max(jnp.where(real_BT1, states_BTD, -jnp.inf), axis=1)
        return jnp.where(jnp.any(real_BT1, axis=1), highest_BD, 0.0)
    places_T = jnp.arange(real_BT.shape[1], dtype=jnp.int32)
    last_B = jnp.max(jnp.where(real_BT, places_T[None], -1), axis=1)
    chosen_BT1 = (places_T[None] == last_B[:, None])[..., None]
    return jnp.sum(states_BTD * chosen_BT1, axis=1)
