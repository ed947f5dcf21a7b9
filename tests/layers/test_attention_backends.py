"""Every shape of attention against a plain loop over queries in float64, and refusals by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers import attention_backends as backends
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.positions import alibi_slopes


def reference(q, k, v, spec, segments=None):
    """One query at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    batch, heads, length, width = q.shape
    groups = k.shape[1]
    out = np.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            g = h // (heads // groups)
            for t in range(length):
                scores = k[b, g] @ q[b, h, t] / np.sqrt(width)
                if spec.soft_cap:
                    scores = spec.soft_cap * np.tanh(scores / spec.soft_cap)
                if spec.alibi:
                    scores = scores - alibi_slopes(heads)[h] * (t - np.arange(length))
                seen = np.ones(length, bool)
                if spec.causal:
                    seen &= np.arange(length) <= t
                if spec.window:
                    seen &= t - np.arange(length) < spec.window
                if segments is not None:
                    seen &= np.asarray(segments[b]) == segments[b][t]
                scores[~seen] = -np.inf
                probs = np.exp(scores - scores.max())
                out[b, h, t] = probs / probs.sum() @ v[b, g]
    return out


def make(key, length, heads=4, groups=2, width=8):
    keys = jax.random.split(key, 3)
    q = jax.random.normal(keys[0], (2, heads, length, width))
    k, v = (jax.random.normal(x, (2, groups, length, width)) for x in keys[1:])
    return q, k, v


CASES = {
    "causal": Spec(),
    "bidirectional": Spec(causal=False),
    "window": Spec(window=5),
    "long window": Spec(window=150),
    "soft cap": Spec(soft_cap=2.0),
    "alibi": Spec(alibi=True),
}


@pytest.mark.parametrize("length", [1, 33, 300])
@pytest.mark.parametrize("name", CASES)
def test_xla_equals_the_reference(key, name, length):
    q, k, v = make(key, length)
    out = backends.attend(q, k, v, CASES[name], "xla")
    np.testing.assert_allclose(out, reference(q, k, v, CASES[name]), rtol=1e-5, atol=1e-5)


def test_packed_segments_do_not_see_each_other(key):
    q, k, v = make(key, 300)
    segments = np.sort(np.random.default_rng(0).integers(0, 4, (2, 300)), axis=1)
    out = backends.attend(q, k, v, Spec(), "xla", jnp.asarray(segments))
    np.testing.assert_allclose(out, reference(q, k, v, Spec(), segments), rtol=1e-5, atol=1e-5)


def whole_matrix(q, k, v, spec, segments):
    """The same attention by one softmax over all scores, differentiated by JAX."""
    places = jnp.arange(q.shape[2], dtype=jnp.int32)[None]
    ids = () if segments is None else (segments, segments)
    scores = backends._scores(backends._group(q, k), k, spec, places, places, *ids)
    return jnp.einsum("BGRTS,BGSK->BGRTK", jax.nn.softmax(scores), v).reshape(q.shape)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_blocks_equal_those_of_the_whole_matrix(key, name, packed):
    q, k, v = make(key, 150)
    segments = jnp.repeat(jnp.array([[1, 2]]), jnp.array([70, 80]), axis=1, total_repeat_length=150)
    segments = jnp.broadcast_to(segments, (2, 150)) if packed else None

    def loss(attend):
        return lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v)))

    blocks = loss(lambda q, k, v: backends.attend(q, k, v, CASES[name], "xla", segments))
    whole = loss(lambda q, k, v: whole_matrix(q, k, v, CASES[name], segments))
    fast, slow = (jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (blocks, whole))
    for left, right in zip(fast, slow, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_attention_equals_that_of_jax(key):
    q, k, v = make(key, 150)
    out = backends.attend(q, k, v, Spec(window=40), "xla")
    theirs = jax.nn.dot_product_attention(
        *(jnp.swapaxes(x, 1, 2) for x in (q, k, v)), is_causal=True, local_window_size=(39, 0)
    )
    np.testing.assert_allclose(out, jnp.swapaxes(theirs, 1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cudnn", "splash"])
def test_a_requested_backend_runs_or_raises(key, name):
    q, k, v = make(key, 8)
    with pytest.raises(ValueError, match=f'model.attention="{name}" can\'t run'):
        backends.attend(q, k, v, Spec(), name)


def test_auto_says_what_and_why():
    assert backends.choose("auto", Spec(), "float32", 64, 128) == ("xla", "auto: fastest on cpu")
    with pytest.raises(ValueError, match="accepted are auto, xla"):
        backends.choose("flash", Spec(), "float32", 64, 128)


@pytest.mark.parametrize(
    ("spec", "dtype", "why"),
    [
        (Spec(alibi=True), "bfloat16", "no ALiBi"),
        (Spec(segments=True), "bfloat16", "packed documents apart"),
        (Spec(soft_cap=1.0), "bfloat16", "no soft-cap"),
        (Spec(), "float32", "bfloat16"),
    ],
)
def test_cudnn_refuses_by_name_what_it_cannot_do(monkeypatch, spec, dtype, why):
    class Card:
        device_kind = "NVIDIA H100 80GB HBM3"
        compute_capability = "9.0"

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Card()])
    with pytest.raises(ValueError, match=why):
        backends.choose("cudnn", spec, dtype, 64, 128)
    chosen, reason = backends.choose("auto", spec, dtype, 64, 128)
    assert chosen == "xla" and why in reason
    assert backends.choose("auto", Spec(), "bfloat16", 64, 128)[0] == "cudnn"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "window", "soft cap"])
def test_splash_in_interpret_mode_equals_the_reference(key, name):
    q, k, v = make(key, 128, heads=2, groups=1, width=128)
    out = backends._splash(q, k, v, CASES[name], None, interpret=True)
    np.testing.assert_allclose(out, reference(q, k, v, CASES[name]), rtol=1e-4, atol=1e-4)
