"""Additive attention: by hand, against a plain loop, in chunks, and through a cache."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.layers import additive_attention
from jaxlm.layers.additive_attention import AdditiveAttention
from jaxlm.layers.attention import Sight

QUICK = {"xla_backend_optimization_level": 0}  # compiled sooner
attend = jax.jit(additive_attention.attend, static_argnames="chunk", compiler_options=QUICK)


def test_two_queries_and_two_keys_by_hand():
    """tanh(1) = 0.7616, tanh(2) = 0.9640, tanh(3) = 0.9951; weights 1 and 2; values are the unit vectors."""
    queries = jnp.array([[0.0, 0.0], [1.0, -1.0]])[None, None]
    keys = jnp.array([[0.0, 1.0], [2.0, 0.0]])  # key 0, key 1
    # Query 0: 1 tanh(0) + 2 tanh(1) = 1.5232 and 1 tanh(2) + 2 tanh(0) = 0.9640.
    # Query 1: 1 tanh(1) + 2 tanh(0) = 0.7616 and 1 tanh(3) + 2 tanh(-1) = -0.5281.
    read = attend(queries, keys.T[None, None], jnp.eye(2)[None, None], jnp.array([[1.0, 2.0]]))
    first, second = 1 / (1 + math.exp(0.9640 - 1.5232)), 1 / (1 + math.exp(-0.5281 - 0.7616))
    np.testing.assert_allclose(first, 0.6363, atol=1e-4)
    np.testing.assert_allclose(second, 0.7841, atol=1e-4)
    expected = [[first, 1 - first], [second, 1 - second]]
    np.testing.assert_allclose(read[0, 0], expected, atol=1e-4)


def arguments():
    """Two rows, three heads of width 4, five queries and seven keys; the second row is packed, and ends with filling."""
    draw = np.random.default_rng(0).normal
    arrays = [draw(size=s).astype(np.float32) for s in ((2, 3, 5, 4), (2, 3, 4, 7), (2, 3, 7, 4))]
    mine = np.array([[1, 1, 1, 1, 1], [1, 1, 2, 2, 0]], np.int32)
    theirs = np.array([[1, 1, 1, 1, 1, 1, 1], [1, 2, 2, 2, 1, 0, 0]], np.int32)
    return [*arrays, draw(size=(3, 4)).astype(np.float32)], (mine, theirs)


def by_loop(q, k, v, weights, segments=None):
    """The definition, one query and one key at a time."""
    read = np.zeros((*q.shape[:3], v.shape[3]))
    for b, h, t in np.ndindex(q.shape[:3]):
        keys = [
            s
            for s in range(k.shape[3])
            if segments is None or segments[0][b, t] == segments[1][b, s]
        ]
        scores = [weights[h] @ np.tanh(q[b, h, t] + k[b, h, :, s]) for s in keys]
        shares = np.exp(scores) / np.exp(scores).sum()
        read[b, h, t] = shares @ v[b, h, keys]
    return read


def test_against_a_plain_loop_whatever_the_chunk():
    """Chunks of 5, of 2 (one of them half filled) and of single queries; with and without segments."""
    given, segments = arguments()
    for chunk in (0, 2, 1):
        found = attend(*given, segments, chunk=chunk)
        np.testing.assert_allclose(found, by_loop(*given, segments), atol=1e-5)
    np.testing.assert_allclose(attend(*given, chunk=2), by_loop(*given), atol=1e-5)


def test_gradients_do_not_depend_on_the_chunk():
    given, segments = arguments()

    def gradients(chunk):
        def total(*args):
            return jnp.sum(jnp.square(additive_attention.attend(*args, segments, chunk)))

        return jax.jit(jax.grad(total, (0, 1, 2, 3)), compiler_options=QUICK)(*given)

    for whole, parts in zip(gradients(0), gradients(2), strict=True):
        assert float(jnp.abs(whole).max()) > 1e-3
        np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_what_exists_at_once_does_not_grow_with_the_queries():
    """The backward pass of 512 queries to 64 keys of width 16 in chunks of 8, next to all at once."""
    shapes = [(1, 1, 512, 16), (1, 1, 16, 64), (1, 1, 64, 16), (1, 16)]
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def room(chunk):
        read = functools.partial(additive_attention.attend, chunk=chunk)
        grad = jax.grad(lambda *args: jnp.sum(jnp.square(read(*args))), (0, 1))
        return jax.jit(grad).lower(*given).compile().memory_analysis().temp_size_in_bytes

    assert room(512) > 512 * 64 * 16 * 4 > 4 * room(8)


def test_the_layer_is_the_papers_equations_and_its_cache_changes_nothing(key):
    """e = w^T tanh(W x + b + U s), softmax over the source, a projection of each state for each head, and one of what is read."""
    layer = AdditiveAttention(2, 3, nn.initializers.normal(1.0), nn.initializers.normal(1.0), True)
    draw = np.random.default_rng(0).normal
    x, source = draw(size=(1, 4, 5)), draw(size=(1, 6, 7))
    sight = Sight(jnp.arange(4)[None], source_BSD=source)
    shapes = nn.unbox(jax.eval_shape(layer.init, key, x, sight))["params"]
    params = jax.tree.map(lambda leaf: draw(size=leaf.shape).astype(np.float32), shapes)
    assert "bias" not in params["k"]  # the query's is one of the sums
    run = jax.jit(layer.apply, compiler_options=QUICK)
    found, cache, _ = run({"params": params}, x, sight)

    q = x[0] @ params["q"]["kernel"] + params["q"]["bias"][None]
    k = source[0] @ params["k"]["kernel"]
    v = source[0] @ params["v"]["kernel"] + params["v"]["bias"][None]
    q, k, v = (part.reshape(-1, 2, 3).transpose(1, 0, 2)[None] for part in (q, k, v))
    read = by_loop(q, k.swapaxes(2, 3), v, params["score"])[0].transpose(1, 0, 2).reshape(4, 6)
    expected = read @ params["out"]["kernel"] + params["out"]["bias"][None]
    np.testing.assert_allclose(found[0], expected, atol=1e-4)

    again, kept, _ = run({"params": params}, x[:, 2:3], Sight(jnp.array([[2]])), cache)
    np.testing.assert_allclose(again[0, 0], found[0, 2], atol=1e-5)
    np.testing.assert_array_equal(kept.k_BGKS, cache.k_BGKS)
