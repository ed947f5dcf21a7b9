"""What blockwise attention is for: hidden blocks are never read, and memory grows with the length only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.layers import attention_backends, blockwise
from jaxlm.layers.attention_backends import Spec


@pytest.mark.parametrize("unrolled", [False, True])
def test_blocks_that_nobody_sees_are_not_read(monkeypatch, unrolled):
    """Any arithmetic with what is not a number would give what is not a number, hidden or not."""
    monkeypatch.setattr(blockwise, "BLOCK", 8)
    monkeypatch.setattr(blockwise, "UNROLLED_BLOCK", 8)
    monkeypatch.setattr(blockwise, "UNROLL_TO", 1000 if unrolled else 0)
    poisoned = jnp.ones((1, 1, 32, 4)).at[:, :, 16:24].set(jnp.nan)
    q = jnp.ones((1, 1, 32, 4))

    @jax.jit
    def both(q, x):
        specs = Spec(), Spec(window=8)
        return [attention_backends.attend(q, x, x, spec, "blockwise") for spec in specs]

    causal, window = both(q, poisoned)
    seen = np.isfinite(np.asarray(causal)[0, 0, :, 0])
    assert seen.tolist() == [True] * 16 + [False] * 16
    # With a window the queries of the fourth block see keys of the third; a fifth block would not.
    longer = jnp.concatenate([poisoned, jnp.ones((1, 1, 8, 4))], axis=2)
    _, window = both(jnp.ones((1, 1, 40, 4)), longer)
    seen = np.isfinite(np.asarray(window)[0, 0, :, 0])
    assert seen.tolist() == [True] * 16 + [False] * 16 + [True] * 8


@pytest.mark.parametrize("unrolled", [False, True])
def test_a_query_that_sees_no_key_has_no_gradient(monkeypatch, unrolled):
    """Its scores are all hidden: whatever is made of its output must not come back as anybody's gradient."""
    monkeypatch.setattr(blockwise, "UNROLL_TO", 1000 if unrolled else 0)
    q, k, v = np.random.default_rng(0).normal(size=(3, 1, 1, 6, 4)).astype("float32")
    segments = jnp.array([[1, 1, 1, 1, 2, 2]]), jnp.array([[1, 1, 1, 1, 0, 0]])

    def loss(q, k, v, first, stop):
        spec = Spec(causal=False, cross=True)
        out = attention_backends.attend(q, k, v, spec, "blockwise", segments=segments)
        return jnp.sum(out[:, :, first:stop] ** 2)

    grad = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=(3, 4))
    assert all(not np.asarray(x).any() for x in grad(q, k, v, 4, 6))
    for whole, seeing in zip(grad(q, k, v, 0, 6), grad(q, k, v, 0, 4), strict=True):
        np.testing.assert_allclose(whole, seeing, rtol=0, atol=1e-6)


def test_rows_on_eight_devices_are_as_on_one(monkeypatch):
    """The loops' ends hang on the longest prefix of all rows."""
    monkeypatch.setattr(blockwise, "BLOCK", 8)
    monkeypatch.setattr(blockwise, "UNROLL_TO", 0)
    q, k, v = np.random.default_rng(0).normal(size=(3, 8, 1, 32, 4)).astype("float32")
    prefixes = np.array([0, 3, 8, 9, 1, 17, 32, 24], np.int32)

    @jax.jit
    def grads(q, k, v, prefix_B):
        def loss(*arrays):
            return jnp.sum(
                attention_backends.attend(*arrays, Spec(), "blockwise", prefix_B=prefix_B) ** 2
            )

        return jax.grad(loss, (0, 1, 2))(q, k, v)

    rows = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    one, eight = (grads(*jax.device_put((q, k, v, prefixes), where)) for where in (None, rows))
    assert len(eight[0].sharding.device_set) == 8
    for left, right in zip(one, eight, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-6)


def peak(backend, length):
    """Bytes that XLA plans for forward and backward beside inputs and outputs."""
    x = jax.ShapeDtypeStruct((1, 2, length, 8), jnp.float32)

    def loss(q, k, v):
        return jnp.sum(attention_backends.attend(q, k, v, Spec(), backend))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_length_and_not_with_its_square():
    assert peak("blockwise", 4096) < 2.1 * peak("blockwise", 2048)
    assert peak("xla", 4096) > 3.5 * peak("xla", 2048)
    assert peak("blockwise", 2048) < peak("xla", 2048) / 10


def test_diagonals_by_hand():
    """Queries down, keys across: each place has the bias of its distance, here -2 -1 0 1 2 3 as 1 to 6."""
    bias_HL = jnp.array([[1.0, 2, 3, 4, 5, 6]])
    spread = blockwise._spread_diagonals(bias_HL, rows=3, cols=4)
    assert spread[0].tolist() == [[3, 4, 5, 6], [2, 3, 4, 5], [1, 2, 3, 4]]
    assert blockwise._sum_diagonals(jnp.ones((1, 3, 4)))[0].tolist() == [1, 2, 3, 3, 2, 1]
