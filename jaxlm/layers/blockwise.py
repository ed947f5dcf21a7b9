"""Attention in blocks of scores, none of them kept: memory grows with T, not with T x S. Plain JAX, any device.

FlashAttention-2 (Dao 2023, arXiv:2307.08691): a block of queries walks over the blocks of keys that some of them can
see (algorithm 1), and the backward pass computes each block of probabilities again from the saved normalisers
(algorithm 2), here too by blocks of queries. Blocks that causality or a window hides are never visited.
Up to `UNROLL_TO` positions the blocks of queries are unrolled, and each meets all its keys at once.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.core import numerics
from jaxlm.core.types import Array
from jaxlm.layers import attention_scores
from jaxlm.layers.attention_scores import Spec, product

BLOCK, UNROLLED_BLOCK, UNROLL_TO = 128, 64, 512
"""Positions. Measured on a CPU: loops are slower than unrolled blocks up to 512 (1.2 to 1.5 times), faster from 1024."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is known before compiling."""

    spec: Spec
    num_keys: int  # without the filling of the last block
    rows: int  # queries in a block
    cols: int  # keys in a block
    first_distance: int  # of the table of biases: from the last query to key 0
    unrolled: bool


class _Extras(NamedTuple):
    """What scores depend on beside queries and keys; a block cuts its part out of each."""

    query_seg_BT: Array | None
    key_seg_BS: Array | None
    prefix_B: Array | None
    bias_HL: Array | None  # of all distances from a query to a key, 1-T ... S-1


class _Part(NamedTuple):
    """A softmax over some of the keys: its weighted mean of values is `mixed / total`."""

    highest: Array  # [B, G, R, T, 1]
    total: Array  # [B, G, R, T, 1], of exp(score - highest)
    mixed: Array  # [B, G, R, T, K]


class _Grads(NamedTuple):
    """Sums over the blocks visited so far, float32."""

    k: Array
    v: Array
    bias_HL: Array | None


def attend(q_BHTK, k_BGSK, v_BGSK, spec: Spec, segments, prefix_B, bias_RH) -> Array:
    """As `attention_backends.attend`. Lengths are filled up to whole blocks and the filling is hidden."""
    num_queries, num_keys = q_BHTK.shape[2], k_BGSK.shape[2]
    unrolled = max(num_queries, num_keys) <= UNROLL_TO
    rows, cols = (_block_size(length, unrolled) for length in (num_queries, num_keys))
    query_pad, key_pad = -num_queries % rows, -num_keys % cols
    q = _pad(attention_scores.group(attention_scores.scaled(q_BHTK, spec), k_BGSK), query_pad, 3)
    k, v = _pad(k_BGSK, key_pad, 2), _pad(v_BGSK, key_pad, 2)
    query_seg, key_seg, bias = None, None, None
    if segments is not None:
        query_seg, key_seg = _pad(segments[0], query_pad, 1), _pad(segments[1], key_pad, 1)
    plan = _Plan(spec, num_keys, rows, cols, 1 - q.shape[3], unrolled)
    if spec.alibi or spec.relative:
        distance_L = jnp.arange(plan.first_distance, k.shape[2], dtype=jnp.int32)
        bias = attention_scores.distance_bias(spec, distance_L, q_BHTK.shape[1], bias_RH)
    out = _attend(plan, q, k, v, _Extras(query_seg, key_seg, prefix_B, bias))
    return out[:, :, :, :num_queries].reshape(q_BHTK.shape)


def _block_size(length: int, unrolled: bool) -> int:
    """Of `length` cut evenly into the fewest blocks; a multiple of 8 unless there is one."""
    count = -(-length // (UNROLLED_BLOCK if unrolled else BLOCK))
    return length if count == 1 else -(-length // (8 * count)) * 8


def _pad(x: Array, count: int, axis: int) -> Array:
    return jnp.pad(x, [(0, count * (axis == i)) for i in range(x.ndim)]) if count else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Plan, q_BGRTK, k_BGSK, v_BGSK, extras: _Extras) -> Array:
    return _forward(plan, q_BGRTK, k_BGSK, v_BGSK, extras)[0]


def _forward(plan: _Plan, q_BGRTK, k_BGSK, v_BGSK, extras: _Extras):
    def query_block(_, i):
        q = _cut(q_BGRTK, i * plan.rows, plan.rows, 3)

        def part(j, count: int = 1) -> _Part:
            start, size = j * plan.cols, count * plan.cols
            k, v = (_cut(x, start, size, 2) for x in (k_BGSK, v_BGSK))
            capped = numerics.soft_cap(product("BGRTK,BGSK->BGRTS", q, k), plan.spec.soft_cap)
            bias, mask = _bias_and_mask(plan, extras, i, start, k)
            scores = attention_scores.finish(capped, bias, mask)
            highest = jnp.max(scores, axis=-1, keepdims=True)
            weights = jnp.exp(scores - highest)
            mixed = product("BGRTS,BGSK->BGRTK", weights.astype(v.dtype), v)
            return _Part(highest, jnp.sum(weights, axis=-1, keepdims=True), mixed)

        first, end = _seen_blocks(plan, extras, i, k_BGSK)
        if plan.unrolled:
            whole = part(first, end - first)
        else:  # from the first block on, not from zeros: all of them would have to be hidden
            whole = lax.fori_loop(first + 1, end, lambda j, x: _merge(x, part(j)), part(first))
        out = (whole.mixed / whole.total).astype(q.dtype)
        # Of a query that sees no key the normaliser is so large that no gradient comes back.
        blind = whole.highest == jnp.finfo(jnp.float32).min
        return None, (out, jnp.where(blind, 0.0, whole.highest + jnp.log(whole.total)))

    _, (out, normaliser) = _each_query_block(plan, query_block, None, q_BGRTK)
    return out, (q_BGRTK, k_BGSK, v_BGSK, extras, out, normaliser)


def _merge(left: _Part, right: _Part) -> _Part:
    highest = jnp.maximum(left.highest, right.highest)
    by_left, by_right = jnp.exp(left.highest - highest), jnp.exp(right.highest - highest)
    total = left.total * by_left + right.total * by_right
    return _Part(highest, total, left.mixed * by_left + right.mixed * by_right)


def _backward(plan: _Plan, saved, grad_out):
    q_BGRTK, k_BGSK, v_BGSK, extras, out, normaliser = saved
    inner = jnp.sum(grad_out.astype(jnp.float32) * out, axis=-1, keepdims=True)

    def query_block(sums: _Grads, i):
        of_queries = (q_BGRTK, grad_out, normaliser, inner)
        rows = tuple(_cut(x, i * plan.rows, plan.rows, 3) for x in of_queries)

        def key_blocks(j, carry, count: int = 1):
            start, size = j * plan.cols, count * plan.cols
            keys = _cut(k_BGSK, start, size, 2), _cut(v_BGSK, start, size, 2)
            grad_q, sums = _backward_block(plan, extras, rows, keys, i, start, carry[1])
            return carry[0] + grad_q, sums

        first, end = _seen_blocks(plan, extras, i, k_BGSK)
        carry = jnp.zeros(rows[0].shape, jnp.float32), sums
        if plan.unrolled:
            grad_q, sums = key_blocks(first, carry, end - first)
        else:
            grad_q, sums = lax.fori_loop(first, end, key_blocks, carry)
        return sums, grad_q.astype(q_BGRTK.dtype)

    bias = None if plan.spec.relative is None else jnp.zeros_like(extras.bias_HL)
    none = _Grads(*(jnp.zeros(x.shape, jnp.float32) for x in (k_BGSK, v_BGSK)), bias)
    sums, grad_q = _each_query_block(plan, query_block, none, q_BGRTK)
    extras = _Extras(None, None, None, sums.bias_HL)
    return grad_q, sums.k.astype(k_BGSK.dtype), sums.v.astype(v_BGSK.dtype), extras


def _backward_block(plan: _Plan, extras, rows, keys, i, start, sums: _Grads):
    """Scores lie keys first here, [B, G, S, R, T]: two of the three products with them need no transposed copy."""
    (q, grad_out, normaliser, inner), (k, v) = rows, keys
    normaliser, inner = (jnp.moveaxis(x, -1, 2) for x in (normaliser, inner))
    capped = numerics.soft_cap(product("BGSK,BGRTK->BGSRT", k, q), plan.spec.soft_cap)
    bias, mask = (
        None if x is None else jnp.moveaxis(x, -1, 2)
        for x in _bias_and_mask(plan, extras, i, start, k)
    )
    probs = jnp.exp(attention_scores.finish(capped, bias, mask) - normaliser)
    grad_scores = probs * (product("BGSK,BGRTK->BGSRT", v, grad_out) - inner)
    grad_bias = sums.bias_HL
    if grad_bias is not None:
        by_head = jnp.moveaxis(jnp.sum(grad_scores, axis=0), 1, -1)
        diagonals = _sum_diagonals(by_head.reshape(-1, plan.rows, k.shape[2]))
        grad_bias = _add(grad_bias, diagonals, _bias_start(plan, i, start), 1)
    if plan.spec.soft_cap:
        grad_scores = grad_scores * (1 - (capped / plan.spec.soft_cap) ** 2)
    grad_scores, probs = grad_scores.astype(q.dtype), probs.astype(grad_out.dtype)
    grad_k = product("BGSRT,BGRTK->BGSK", grad_scores, q)
    grad_v = product("BGSRT,BGRTK->BGSK", probs, grad_out)
    sums = _Grads(_add(sums.k, grad_k, start, 2), _add(sums.v, grad_v, start, 2), grad_bias)
    return product("BGSRT,BGSK->BGRTK", grad_scores, k), sums


_attend.defvjp(_forward, _backward)


def _each_query_block(plan: _Plan, body, carry, q_BGRTK: Array):
    """`body(carry, i)` gives the next carry and block i of the results, which are put together along T."""
    count = q_BGRTK.shape[3] // plan.rows
    if not plan.unrolled:
        carry, blocks = lax.scan(body, carry, jnp.arange(count, dtype=jnp.int32))
        moved = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 3), blocks)
        return carry, jax.tree.map(lambda x: x.reshape(*x.shape[:3], -1, x.shape[-1]), moved)
    blocks = []
    for i in range(count):
        carry, block = body(carry, i)
        blocks.append(block)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=3), *blocks)


def _seen_blocks(plan: _Plan, extras: _Extras, i, k_BGSK: Array):
    """The blocks of keys that query block `i` can see: the first, and the one after the last."""
    spec, count = plan.spec, k_BGSK.shape[2] // plan.cols
    if not spec.causal:
        return 0, count
    least, most = (min, max) if plan.unrolled else (jnp.minimum, jnp.maximum)
    first = most((i * plan.rows - spec.window + 1) // plan.cols, 0) if spec.window else 0
    end = ((i + 1) * plan.rows - 1) // plan.cols + 1
    if extras.prefix_B is None:
        return first, least(end, count)
    if plan.unrolled:  # the prefix is not known yet
        return first, count
    in_prefix = (jnp.max(extras.prefix_B) - 1) // plan.cols + 1
    return first, least(most(end, in_prefix), count)


def _bias_and_mask(plan: _Plan, extras: _Extras, i, start, k_BGSK: Array):
    """What query block i adds to its scores of the keys from `start`, [1, G, R, T, S]; which count, [B or 1, 1, 1, T, S]."""
    groups, size = k_BGSK.shape[1:3]
    query_pos = (i * plan.rows + jnp.arange(plan.rows, dtype=jnp.int32))[None]
    key_pos = (start + jnp.arange(size, dtype=jnp.int32))[None]
    segments = None
    if extras.query_seg_BT is not None:
        query_seg = _cut(extras.query_seg_BT, i * plan.rows, plan.rows, 1)
        segments = query_seg, _cut(extras.key_seg_BS, start, size, 1)
    mask = attention_scores.visible(plan.spec, query_pos, key_pos, segments, extras.prefix_B)
    if not plan.spec.causal and plan.num_keys % plan.cols:  # causality hides the filling already
        real = (key_pos < plan.num_keys)[:, None, None, :]
        mask = real if mask is None else mask & real
    bias = None
    if extras.bias_HL is not None:
        first, count = _bias_start(plan, i, start), plan.rows + size - 1
        bias_HTS = _spread_diagonals(_cut(extras.bias_HL, first, count, 1), plan.rows, size)
        bias = bias_HTS.reshape(1, groups, -1, plan.rows, size)
    return bias, None if mask is None else mask[:, :, None]


def _bias_start(plan: _Plan, i, start):
    """Where the table of biases has the distance of query block i's last query to the key at `start`."""
    return start - (i + 1) * plan.rows + 1 - plan.first_distance


def _spread_diagonals(bias_HL: Array, rows: int, cols: int) -> Array:
    """[H, T, S] whose element (t, s) is number rows - 1 - t + s: by reshapes, since CPUs gather slowly."""
    heads, length = bias_HL.shape
    longer = jnp.pad(bias_HL, ((0, 0), (0, 1)))[:, None]
    flat = jnp.broadcast_to(longer, (heads, rows, length + 1)).reshape(heads, -1)
    return flat[:, : rows * length].reshape(heads, rows, length)[:, :, rows - 1 :]


def _sum_diagonals(grad_HTS: Array) -> Array:
    """The transpose of `_spread_diagonals`."""
    heads, rows, cols = grad_HTS.shape
    length = rows + cols - 1
    flat = jnp.pad(grad_HTS, ((0, 0), (0, 0), (rows - 1, 0))).reshape(heads, rows * length)
    skewed = jnp.pad(flat, ((0, 0), (0, rows))).reshape(heads, rows, length + 1)
    return jnp.sum(skewed, axis=1)[:, :length]


def _cut(x: Array, start, size: int, axis: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis)


def _add(x: Array, part: Array, start, axis: int) -> Array:
    old = _cut(x, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(x, old + part, start, axis)
