"""Every backend over every case of docs/attention.md against one reference; refusals by name."""

import dataclasses
import functools

import attention_reference
import attention_table
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers import attention_backends as backends
from jaxlm.layers import attention_kernels, blockwise
from jaxlm.layers.attention_backends import Spec

CASES = {case.name: case for case in attention_table.CASES}

FORMS = ("xla", "loops", "unrolled", "splash")  # loops and unrolled are the two forms of blockwise
FORM_PARAMS = [pytest.param(form, marks=[pytest.mark.slow] * (form == "splash")) for form in FORMS]


def name_of(form):
    return "blockwise" if form in ("loops", "unrolled") else form


def names_of(form):
    """The cases that the table says it can do."""
    return [name for name in CASES if not attention_table.refusal(name_of(form), CASES[name])]


@pytest.fixture
def form(request, monkeypatch):
    """A backend's name, made ready: its kernel as if on its device, its blocks small enough to be several."""
    monkeypatch.setattr(attention_kernels, "device_refusal", lambda backend: "")
    interpreted = functools.partial(attention_kernels.splash, interpret=True)
    monkeypatch.setattr(attention_kernels, "splash", interpreted)
    monkeypatch.setattr(blockwise, "BLOCK", 16)
    monkeypatch.setattr(blockwise, "UNROLLED_BLOCK", 16)
    monkeypatch.setattr(blockwise, "UNROLL_TO", 0 if request.param == "loops" else 1000)
    return request.param


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Programs that run once: soon compiled."""


def documents(kind, length):
    """Segment ids of two rows; 0 is filling."""
    short = length - 7
    if kind == "padded":
        rows = [1] * short + [0] * 7, [1] * length
    else:
        rows = [1] * 9 + [2] * (short - 9) + [0] * 7, [1] * 2 + [2] * 11 + [3] * (length - 13)
    return np.array(rows, np.int32)


def inputs(case, head_dim):
    """q, k, v and the table of biases; the keywords of `attend`; the gradient of the output."""
    draw = np.random.default_rng(7).normal
    queries, kv = (2, 4, case.num_queries, head_dim), (2, case.kv_heads, case.num_keys, head_dim)
    q, k, v, grad = (draw(size=shape).astype(case.dtype) for shape in (queries, kv, kv, queries))
    bias = draw(size=(case.spec.relative[0], 4)).astype("float32") if case.spec.relative else None
    keywords = {}
    if case.documents:
        pair = (documents(case.documents, n) for n in (case.num_queries, case.num_keys))
        keywords["segments"] = tuple(pair)
    if case.spec.prefix:
        keywords["prefix_B"] = np.array([5, 19], np.int32)
    return (q, k, v, bias), keywords, grad


def with_bias(attend):
    return lambda q, k, v, bias: attend(q, k, v, bias_RH=bias)


def run(attend, cases, head_dim):
    """Output and gradients of all cases in one program; `attend` takes q, k, v, the case's spec and keywords."""
    given = {name: inputs(case, head_dim) for name, case in cases.items()}

    def every(given_arrays):
        results = {}
        for name, (arrays, grad) in given_arrays.items():
            spec, keywords = cases[name].spec, given[name][1]
            one = with_bias(functools.partial(attend, spec=spec, **keywords))
            out, pull = jax.vjp(one, *arrays)
            results[name] = out, pull(grad.astype(out.dtype))
        return results

    arrays = {name: (parts[0], parts[2]) for name, parts in given.items()}
    return jax.jit(every, compiler_options=QUICK)(arrays)


def check(form, cases):
    """Every case equals the reference: output, gradients of queries, keys, values and the table of biases."""
    width = attention_table.HEAD_DIM[name_of(form)]
    attend = functools.partial(backends.attend, backend=name_of(form))
    ours, theirs = run(attend, cases, width), run(attention_reference.attend, cases, width)
    for name, case in cases.items():
        assert ours[name][0].dtype == case.dtype
        pairs = zip(jax.tree.leaves(ours[name]), jax.tree.leaves(theirs[name]), strict=True)
        for part, (left, right) in enumerate(pairs):
            left, right = (np.asarray(x, np.float32) for x in (left, right))
            off = np.abs(left - right).max() / np.abs(right).max()
            assert off < (2e-2 if case.dtype == "bfloat16" else 1e-5), (name, "oqkvb"[part], off)


@pytest.mark.parametrize("form", FORM_PARAMS, indirect=True)
def test_output_and_gradients_equal_the_reference(form):
    """In every case that the table has as "yes"."""
    check(form, {name: CASES[name] for name in names_of(form)})


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_every_case_in_bfloat16(form):
    cases = {name: CASES[name] for name in names_of(form) if CASES[name].dtype == "float32"}
    check(form, {name: dataclasses.replace(case, dtype="bfloat16") for name, case in cases.items()})


@pytest.mark.parametrize("form", FORM_PARAMS, indirect=True)
def test_packed_documents_are_as_each_alone(form):
    """Two documents of 10 and 14 tokens in one row: what each gives is what it gives alone, gradients too."""
    backend, width = name_of(form), attention_table.HEAD_DIM[name_of(form)]
    q, k, v, grad = np.random.default_rng(3).normal(size=(4, 1, 2, 24, width)).astype("float32")
    segments = np.repeat([[1, 2]], [10, 14], axis=1).astype(np.int32)

    def whole(q, k, v):
        return backends.attend(q, k, v, Spec(), backend, segments=(segments, segments))

    def alone(q, k, v):
        parts = [[x[:, :, :10] for x in (q, k, v)], [x[:, :, 10:] for x in (q, k, v)]]
        return jnp.concatenate([backends.attend(*x, Spec(), backend) for x in parts], axis=2)

    def both(q, k, v, grad):
        pairs = [jax.vjp(attend, q, k, v) for attend in (whole, alone)]
        return [(out, pull(grad)) for out, pull in pairs]

    packed, separate = jax.jit(both, compiler_options=QUICK)(q, k, v, grad)
    for left, right in zip(jax.tree.leaves(packed), jax.tree.leaves(separate), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=2e-5)


@pytest.mark.parametrize("form", ["xla"], indirect=True)
def test_a_cache_gives_what_the_whole_sequence_gives(form):
    """The last queries; slots behind hold anything, and keys in two parts, out of order, are the same keys."""
    spec = Spec(window=9, relative=(8, 16))
    q, k, v = np.random.default_rng(3).normal(size=(3, 2, 2, 20, 8)).astype("float32")
    bias = np.random.default_rng(4).normal(size=(8, 2)).astype("float32")
    whole = attention_reference.attend(q, k, v, spec, bias_RH=jnp.asarray(bias))
    places = np.broadcast_to(np.arange(17, 20, dtype=np.int32), (2, 3))

    def part(positions):
        """As many slots; there is no position 20 to 24."""
        known = [np.pad(x, ((0, 0), (0, 0), (0, 5), (0, 0)), constant_values=100) for x in (k, v)]
        k_BGSK, v_BGSK = (jnp.asarray(x[:, :, positions]) for x in known)
        return backends.Part(jnp.swapaxes(k_BGSK, 2, 3), v_BGSK, positions[None])

    for parts in ([np.arange(25)], [np.arange(16, 25), np.arange(16)[::-1].copy()]):
        parts = [part(positions.astype(np.int32)) for positions in parts]
        last = backends.attend_cache(
            jnp.asarray(q[:, :, 17:]), parts, spec, places, bias_RH=jnp.asarray(bias)
        )
        np.testing.assert_allclose(last, whole[:, :, 17:], rtol=0, atol=2e-6)


REFUSED = [(case, backend) for backend in ("cudnn", "splash") for case in CASES
           if attention_table.refusal(backend, CASES[case])]  # fmt: skip


@pytest.mark.parametrize(("name", "backend"), REFUSED)
def test_what_a_backend_cannot_do_it_refuses_by_name(monkeypatch, name, backend):
    """On a device of its own; `auto` there goes on with blockwise and says why."""
    case = CASES[name]
    why = attention_table.refusal(backend, case)
    monkeypatch.setattr(attention_kernels, "device_refusal", lambda backend: "")
    platform = {"cudnn": "gpu", "splash": "tpu"}[backend]
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    dtype = "float32" if name == "float32" else "bfloat16"
    asked = case.spec, dtype, attention_table.HEAD_DIM[backend]
    with pytest.raises(ValueError, match=f'model.attention="{backend}" can\'t run: {why[:20]}'):
        backends.choose(backend, *asked)
    assert backends.choose("auto", *asked) == ("blockwise", f"auto: not {backend}, {why}")
    assert backends.choose("auto", Spec(), "bfloat16", 128)[0] == backend


@pytest.mark.parametrize(
    ("backend", "asked", "why"),
    [
        ("cudnn", (Spec(), "float32", 64), "it needs model.dtype=bfloat16, not float32"),
        ("cudnn", (Spec(), "bfloat16", 60), "a head width that is a multiple of 8 up to 128"),
        ("cudnn", (Spec(segments=True), "bfloat16", 64), "packed documents apart"),
        ("cudnn", (Spec(soft_cap=1.0), "bfloat16", 64), "no soft-cap"),
        ("cudnn", (Spec(prefix=True), "bfloat16", 64), "no mask for a prefix"),
        ("cudnn", (Spec(alibi=True), "bfloat16", 64), "no ALiBi"),
        ("splash", (Spec(relative=(8, 16)), "float32", 128), "no relative position bias"),
        ("splash", (Spec(), "float32", 64), "a head width that is a multiple of 128, not 64"),
    ],
)
def test_refusals(backend, asked, why):
    assert why in backends.refusal(backend, *asked)


@pytest.mark.parametrize("backend", ["cudnn", "splash"])
def test_a_kernel_needs_its_device(backend):
    x = jnp.zeros((1, 1, 8, 128), jnp.bfloat16)
    needs = {"cudnn": "an NVIDIA GPU", "splash": "a TPU"}[backend]
    with pytest.raises(ValueError, match=f"can't run: it needs {needs} and this is cpu"):
        backends.attend(x, x, x, Spec(), backend)


def test_auto_says_what_and_why():
    chosen = backends.choose("auto", Spec(), "float32", 64)
    assert chosen == ("blockwise", "auto: fastest on cpu")
    with pytest.raises(ValueError, match="accepted are auto, xla, blockwise"):
        backends.choose("flash", Spec(), "float32", 64)


def test_what_makes_no_sense_is_refused_by_every_backend():
    for fields, why in (
        ({"cross": True}, "needs causal=False"),
        ({"causal": False, "prefix": True}, "needs causal=True"),
        ({"causal": False, "window": 3}, "needs causal=True"),
    ):
        with pytest.raises(ValueError, match=why):
            Spec(**fields)
    short, long = jnp.zeros((1, 1, 3, 8)), jnp.zeros((1, 1, 5, 8))
    with pytest.raises(ValueError, match="3 queries and 5 keys need"):
        backends.attend(short, long, long, Spec(), "xla")
    with pytest.raises(ValueError, match="go together"):
        backends.attend(short, short, short, Spec(relative=(8, 16)), "xla")
    with pytest.raises(ValueError, match="needs prefix_B"):
        backends.attend(short, short, short, Spec(prefix=True), "xla")
