"""Additive attention (Bahdanau, Cho and Bengio 2015, arXiv:1409.0473): a small network compares a query with each key.

Not for a layer's own tokens, which have no order here: it reads another sequence.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core import masks
from jaxlm.core.types import Array
from jaxlm.layers import attention_scores
from jaxlm.layers.attention import LayerCache, Sight, source_segments
from jaxlm.layers.linear import Initializer, Linear, named

CHUNK_ELEMENTS = {"cpu": 2**20}
"""How many of the sums of a query and a key, [B, H, T, K, S], exist at once: on a CPU what its caches hold; else MANY."""
MANY = 2**24


class AdditiveAttention(nn.Module):
    """Heads whose scores are w^T tanh(W x + U s), for states x and source tokens s (equations in section A.1.2).

    With one head this is the paper's alignment model. There what is read are the source's states themselves; here, as in
    `Attention`, they are projected for each head, and what the heads read is projected once more. The paper omits all
    biases; `bias` gives them to queries (and so to the sums), values and what is read.
    """

    num_heads: int
    head_dim: int
    kernel_init: Initializer
    out_init: Initializer
    bias: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Array, sight: Sight, cache: LayerCache | None = None
    ) -> tuple[Array, LayerCache, None]:
        """As a cross-attending `Attention`: the cache holds U s, so that decoding makes it once.

        Raises:
          ValueError: probabilities are asked for: no more than a chunk of them exists at once.
        """
        if "attention" in sight.shown:
            raise ValueError('model.cross_attention="additive" can\'t show its probabilities')

        def heads(name: str, origin: Array, bias: bool) -> Array:
            width = self.num_heads * self.head_dim
            init = self.kernel_init
            linear = Linear(width, ("embed", "heads"), init, bias, self.dtype, name=name)
            parts = linear(origin).reshape(*origin.shape[:2], self.num_heads, self.head_dim)
            return jnp.swapaxes(parts, 1, 2)

        q = heads("q", x, self.bias)
        if cache is None:
            k = jnp.swapaxes(heads("k", sight.source_BSD, False), 2, 3)
            cache = LayerCache(k, heads("v", sight.source_BSD, self.bias))
        init = nn.initializers.normal(self.head_dim**-0.5)
        axes = ("heads", "head_dim")
        weights = self.param("score", named(init, *axes), (self.num_heads, self.head_dim))
        pair = source_segments(sight, x.shape[1], cache.v_BGSK.shape[2])
        y = attend(q, cache.k_BGKS, cache.v_BGSK, weights, pair)
        y = jnp.swapaxes(y, 1, 2).reshape(*x.shape[:2], -1)
        out = Linear(
            x.shape[-1], ("heads", "embed"), self.out_init, self.bias, self.dtype, name="out"
        )
        return out(y), cache, None


def attend(
    q_BHTK: Array,
    k_BHKS: Array,
    v_BHSK: Array,
    weights_HK: Array,
    segments: tuple[Array, Array] | None = None,
    chunk: int = 0,
) -> Array:
    """What each query reads of all values, [B, H, T, K], by a softmax over sum_K w tanh(q + k).

    Queries go through in chunks, each of which is computed again in the backward pass, so that memory grows with T x S
    only by the scores of a chunk.

    Args:
      segments: ids of the queries [B, T] and of the keys [B, S]; a query sees keys of its own id only.
      chunk: queries at once; 0: as many as CHUNK_ELEMENTS allows.

    Source: Bahdanau et al. 2015, arXiv:1409.0473, section A.1.2.
    """
    batch, heads, length, width = q_BHTK.shape
    each = max(1, batch * heads * width * k_BHKS.shape[3])
    fitting = CHUNK_ELEMENTS.get(jax.default_backend(), MANY) // each
    chunk = min(length, chunk or max(1, fitting))
    one = functools.partial(_read, k_BHKS=k_BHKS, v_BHSK=v_BHSK, weights_HK=weights_HK)
    mine, theirs = (None, None) if segments is None else segments
    if chunk == length:
        return jax.checkpoint(one)(q_BHTK, mine, theirs)
    number = -(-length // chunk)
    fill = number * chunk - length
    q = jnp.pad(q_BHTK, ((0, 0), (0, 0), (0, fill), (0, 0)))
    q = jnp.moveaxis(q.reshape(batch, heads, number, chunk, width), 2, 0)
    if mine is not None:
        mine = jnp.pad(mine, ((0, 0), (0, fill)))
        mine = jnp.moveaxis(mine.reshape(batch, number, chunk), 1, 0)
    step = jax.checkpoint(lambda part: one(*part, theirs))
    y = jax.lax.map(step, (q, mine))
    return jnp.moveaxis(y, 0, 2).reshape(batch, heads, -1, v_BHSK.shape[3])[:, :, :length]


def _read(
    q_BHTK: Array, mine_BT, theirs_BS, *, k_BHKS: Array, v_BHSK: Array, weights_HK: Array
) -> Array:
    sums = jnp.tanh(q_BHTK[..., None] + k_BHKS[:, :, None])
    weights = weights_HK.astype(sums.dtype)[None, :, None, :, None]
    scores_BHTS = jnp.sum(sums * weights, axis=3, dtype=jnp.float32)
    mask = None if mine_BT is None else masks.segments(mine_BT, theirs_BS)
    scores_BHTS = attention_scores.finish(scores_BHTS, None, mask)
    probs_BHTS = jax.nn.softmax(scores_BHTS, axis=-1).astype(v_BHSK.dtype)
    return jnp.einsum("BHTS,BHSK->BHTK", probs_BHTS, v_BHSK)
