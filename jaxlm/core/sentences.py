"""One vector for a text from the states of its tokens: what training, scores and `embed` share."""

from __future__ import annotations

import jax.numpy as jnp

from jaxlm.core.types import Array

POOLINGS = ("mean", "first")


def vectors(
    hidden_BTD: Array,
    segment_ids_BT: Array,
    num_texts: int,
    pooling: str = "mean",
    normalise: bool = True,
) -> Array:
    """A vector for each text of a row, float32 [B, C, D]; zeros for one that is not there. C: texts of a row.

    Args:
      hidden_BTD: states.
      segment_ids_BT: 1..C, which text a token is of; 0 is filling.
      num_texts: C.
      pooling: "mean" over a text's tokens, or its "first" one's state.
      normalise: to length 1.
    """
    numbers_C = jnp.arange(1, num_texts + 1, dtype=segment_ids_BT.dtype)
    own_BTC = (segment_ids_BT[..., None] == numbers_C[None, None]).astype(jnp.float32)
    if pooling == "first":
        own_BTC = own_BTC * (jnp.cumsum(own_BTC, axis=1) == 1)
    total_BCD = jnp.einsum("BTD,BTC->BCD", hidden_BTD.astype(jnp.float32), own_BTC)
    found_BCD = total_BCD / jnp.maximum(own_BTC.sum(1), 1.0)[..., None]
    if normalise:
        squares_BC1 = jnp.square(found_BCD).sum(-1, keepdims=True)
        found_BCD = found_BCD / jnp.sqrt(jnp.maximum(squares_BC1, 1e-24))  # smooth at zeros
    return found_BCD
