"""Attention as its definition says, for the tests: loops say who sees whom, float32, one softmax, gradients by JAX."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def bucket(distance, num_buckets, farthest, bidirectional):
    """T5's bucket of a key `distance` after its query, as the paper's code goes about it."""
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(farthest / exact)
    return first + min(exact + int(share * (num_buckets - exact) + 1e-6), num_buckets - 1)


def sees(spec, t, s, query_segment, key_segment, prefix):
    """Whether query t sees key s."""
    if spec.causal and s > t and s >= prefix:
        return False
    if spec.window and t - s >= spec.window:
        return False
    return query_segment == key_segment


def slope(head, heads):
    """ALiBi's, of a power of two of heads."""
    return 2.0 ** (-8.0 * (head + 1) / heads)


def attend(q, k, v, spec, segments=None, prefix_B=None, bias_RH=None):
    """float32 [B, H, T, K], whatever comes in."""
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    batch, heads, num_queries, width = q.shape
    num_keys = k.shape[2]
    k, v = (jnp.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    mask = np.zeros((batch, 1, num_queries, num_keys), bool)
    for b, _, t, s in np.ndindex(*mask.shape):
        ids = (0, 0) if segments is None else (segments[0][b, t], segments[1][b, s])
        mask[b, 0, t, s] = sees(spec, t, s, *ids, 0 if prefix_B is None else prefix_B[b])
    scale = 1 / math.sqrt(width) if spec.scale is None else spec.scale
    scores = scale * jnp.einsum("BHTK,BHSK->BHTS", q, k, precision="highest")
    if spec.soft_cap:
        scores = spec.soft_cap * jnp.tanh(scores / spec.soft_cap)
    bias = np.zeros((num_queries, num_keys), int)
    for t, s in np.ndindex(*bias.shape):
        bias[t, s] = (
            s - t
            if spec.alibi
            else bucket(s - t, *spec.relative, not spec.causal)
            if spec.relative
            else 0
        )
    if spec.alibi:
        slopes = np.array([slope(h, heads) for h in range(heads)], np.float32)
        scores = scores - slopes[None, :, None, None] * np.abs(bias)[None, None].astype(np.float32)
    if spec.relative:
        scores = scores + jnp.moveaxis(bias_RH[bias], -1, 0)[None]
    probs = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    return jnp.einsum("BHTS,BHSK->BHTK", probs, v, precision="highest")
