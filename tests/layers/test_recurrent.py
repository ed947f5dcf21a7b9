"""Recurrences by hand: their gradients against autodiff of a plain loop, resets and filling, scans, and what is drawn."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers import parallel_scan
from jaxlm.layers.history import Marks, marks, shifted
from jaxlm.layers.lookups import looked_up
from jaxlm.layers.min_recurrent import CausalConv, MinRecurrent
from jaxlm.layers.parallel_scan import linear_scan
from jaxlm.layers.recurrent import CELLS, Recurrent, recur
from jaxlm.layers.selective_scan import STEP_SIZES, Mamba, selective_scan

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sigmoid(x):
    return 1 / (1 + jnp.exp(-x))


def by_hand(name, read, kernel, bias, state):
    """One step, as the papers write it."""
    h, told = state[0], state[0] @ kernel
    bias = bias[None]
    if name == "rnn":
        return (jnp.tanh(read + told + bias),)
    width = h.shape[1]
    if name == "lstm":
        i, f, g, o = (part for part in jnp.split(read + told + bias, 4, axis=1))
        c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
        return sigmoid(o) * jnp.tanh(c), c
    r, z = jnp.split(sigmoid((read + told)[:, : 2 * width] + bias[:, : 2 * width]), 2, axis=1)
    both = (read[:, 2 * width :] + bias[:, 2 * width : -width]), told[:, 2 * width :]
    n = jnp.tanh(both[0] + r * (both[1] + bias[:, -width:]))
    return ((1 - z) * n + z * h,)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_the_backward_pass_is_that_of_a_plain_loop(name, masked):
    T, B, D = 5, 3, 4
    cell = CELLS[name]
    arrays = (
        normal(0, T, B, cell.num_products * D),
        normal(1, D, cell.num_products * D),
        normal(2, len(cell.parts) * D),
        tuple(normal(3 + n, B, D) for n in range(cell.num_states)),
    )
    keep = real = None
    if masked:
        keep = jnp.ones((T, B)).at[2, 0].set(0).at[3, 1].set(0)
        real = jnp.ones((T, B), bool).at[3:, 0].set(False).at[1, 2].set(False)

    def loop(read, kernel, bias, state):
        outs = []
        for t in range(T):
            if keep is not None:
                state = tuple(part * keep[t][:, None] for part in state)
            new = by_hand(name, read[t], kernel, bias, state)
            if real is not None:
                new = tuple(jnp.where(real[t][:, None], n, o) for n, o in zip(new, state))
            state = new
            outs.append(state[0])
        return jnp.stack(outs), state

    def ours(*arrays):
        return recur(name, *arrays, keep, real)

    grads = (normal(8, T, B, D), tuple(normal(9 + n, B, D) for n in range(cell.num_states)))
    results = []
    for run in (ours, loop):
        both = quick(lambda *a, run=run: (run(*a), jax.vjp(run, *a)[1](grads)))
        results.append(both(*arrays))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), *results)


def test_the_weights_gradient_is_one_product_outside_of_the_loop():
    """The point of writing the backward pass by hand: no loop holds a sum of the kernel's size."""
    arrays = normal(0, 5, 3, 28), normal(1, 7, 28), normal(2, 28), (normal(3, 3, 7),) * 2
    grad = jax.grad(lambda *a: recur("lstm", *a, None, None)[0].sum(), argnums=1)
    text = str(jax.make_jaxpr(grad)(*arrays))
    loops = [line for line in text.splitlines() if "scan[" in line]
    assert len(loops) == 2
    carried = [v.aval.shape for e in jax.make_jaxpr(grad)(*arrays).eqns for v in e.outvars
               if e.primitive.name == "scan"]  # fmt: skip
    assert (7, 28) not in carried


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_lookups_gradient(platform, monkeypatch):
    table, ids = normal(0, 6, 3), jnp.array([[1, 5, 1], [0, 1, 2]])
    grad = normal(1, 2, 3, 3)
    expected = jax.grad(lambda t: (t[ids] * grad).sum())(table)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    found = jax.grad(lambda t: (looked_up(t, ids) * grad).sum())(table)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 5, 37])
@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_linear_recurrences_and_their_gradients(method, length):
    decay = sigmoid(normal(0, 2, length, 3)).at[0, length // 2].set(0.0)  # begins anew
    drive, first = normal(1, 2, length, 3), normal(2, 2, 3)
    grad = normal(3, 2, length, 3)

    def loop(decay, drive, first):
        states = []
        for t in range(length):
            first = decay[:, t] * first + drive[:, t]
            states.append(first)
        return jnp.stack(states, axis=1)

    results = []
    for run in (functools.partial(linear_scan, method=method), loop):
        both = quick(lambda *a, run=run: (run(*a), jax.vjp(run, *a)[1](grad)))
        results.append(both(decay, drive, first))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_long_rows_keep_their_digits():
    """4,096 steps that forget half: the product of all decays is below what float32 has."""
    args = jnp.full((1, 4096, 1), 0.5), jnp.exp(normal(0, 1, 4096, 1)), jnp.ones((1, 1))
    found, expected = (
        quick(functools.partial(linear_scan, method=m))(*args) for m in ("parallel", "sequential")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["parallel", "sequential"])
@pytest.mark.parametrize("length", [5, 70])
def test_selective_scan_by_the_papers_recurrence(method, length):
    """One step after the other by the equations; 70 is beyond a chunk."""
    rows, width, states = 2, 3, 4
    x, step = normal(0, rows, length, width), jax.nn.softplus(normal(1, rows, length, width))
    into, out = normal(2, rows, length, states), normal(3, rows, length, states)
    rate, first = -jnp.exp(normal(4, states, width)), normal(5, rows, states, width)
    keep = jnp.ones((rows, length)).at[1, length // 2].set(0.0)

    def loop(x, step, rate, into, out, state):
        def on(state, t):
            decay = jnp.exp(step[:, t, None] * rate[None]) * keep[:, t, None, None]
            state = decay * state + (step[:, t] * x[:, t])[:, None] * into[:, t, :, None]
            return state, jnp.einsum("BNI,BN->BI", state, out[:, t])

        state, y = jax.lax.scan(on, state, jnp.arange(length, dtype=jnp.int32))
        return jnp.swapaxes(y, 0, 1), state

    def ours(x, step, rate, into, out, state):
        return selective_scan(x, step, rate, into, out, keep, state, method)

    args = (x, step, rate, into, out, first)
    grads = normal(6, rows, length, width), normal(7, rows, states, width)
    results = []
    for run in (ours, loop):
        results.append(quick(lambda *a, run=run: (run(*a), jax.vjp(run, *a)[1](grads)))(*args))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_steps_of_nothing_leave_the_state_alone():
    """A minimal cell's and Mamba's state behind filling is bit for bit that before it."""
    x = normal(0, 2, 8, 6)
    places = marks(8, lengths_B=jnp.array([8, 3]))
    init = nn.initializers.normal(0.5)
    for module, state in (
        (MinRecurrent("minlstm", 5, init, "sequential"), jnp.ones((2, 5))),
        (Mamba(5, 4, 3, 2, init, init, "sequential"), (jnp.ones((2, 4, 5)), jnp.ones((2, 2, 5)))),
    ):
        params = quick(module.init)(jax.random.key(0), x, state, places)
        run = quick(module.apply)
        last = run(params, x, state, places)[1]
        other = run(params, x.at[1, 3:].set(9.0), state, places)[1]
        jax.tree.map(np.testing.assert_array_equal, last, other)
        short = jax.tree.map(lambda s: s[1:], state)
        alone = run(params, x[1:, :3], short, Marks())[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:], b, rtol=1e-5), last, alone)


def test_minimal_cells_by_the_papers_equations():
    x, state = normal(0, 1, 4, 3), jnp.zeros((1, 2))
    init = nn.initializers.normal(1.0)

    def g(x):
        return jnp.where(x >= 0, x + 0.5, sigmoid(x))

    for cell in ("mingru", "minlstm"):
        module = MinRecurrent(cell, 2, init, "parallel")
        params = nn.unbox(quick(module.init)(jax.random.key(0), x, state, Marks()))
        found, last = quick(module.apply)(params, x, state, Marks())
        gates = params["params"]["gates"]
        *gates, candidate = jnp.split(x[0] @ gates["kernel"] + gates["bias"][None], len(gates) + (cell == "minlstm"), axis=1)  # fmt: skip
        if cell == "mingru":
            keep, take = 1 - sigmoid(gates[0]), sigmoid(gates[0])
        else:
            f, i = map(sigmoid, gates)
            keep, take = f / (f + i), i / (f + i)
        h = jnp.zeros(2)
        for t in range(4):
            h = keep[t] * h + take[t] * g(candidate[t])
            np.testing.assert_allclose(found[0, t], h, rtol=1e-5)
        np.testing.assert_allclose(last[0], h, rtol=1e-5)


def test_convolution_looks_back_on_its_own_segment_only():
    x, before = normal(0, 1, 6, 2), normal(1, 1, 2, 2)
    conv = CausalConv(3)
    params = nn.unbox(quick(conv.init)(jax.random.key(0), x, before, Marks()))
    taps = np.asarray(params["params"]["taps"])
    assert np.abs(taps).max() <= 3**-0.5
    y, after = quick(conv.apply)(params, x, before, marks(6, jnp.array([[1, 1, 2, 2, 2, 0]])))
    np.testing.assert_allclose(y[0, 0], taps[2] * x[0, 0] + taps[1] * before[0, 1] + taps[0] * before[0, 0], rtol=1e-5)  # fmt: skip
    np.testing.assert_allclose(y[0, 2], taps[2] * x[0, 2], rtol=1e-5)
    np.testing.assert_allclose(y[0, 3], taps[2] * x[0, 3] + taps[1] * x[0, 2], rtol=1e-5)
    np.testing.assert_array_equal(after[0], x[0, 3:5])
    alone = marks(6, jnp.array([[1, 1, 1, 1, 2, 0]]))
    assert shifted(x, before, alone, 2)[1][0].tolist() == [[0, 0], x[0, 4].tolist()]


def test_what_is_drawn():
    x = jnp.zeros((1, 1, 9))
    state = (jnp.zeros((1, 16)),) * 2
    params = nn.unbox(quick(Recurrent("lstm", 16).init)(jax.random.key(0), x, state, Marks()))[
        "params"
    ]
    for name, rows in (("input", 9), ("recurrent", 16)):
        kernel = np.asarray(params[name]["kernel"])
        assert kernel.shape == (rows, 64) and 0.23 < np.abs(kernel).max() <= 0.25
    assert params["bias"].tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32
    init = nn.initializers.normal(0.02)
    state = (jnp.zeros((1, 4, 32)), jnp.zeros((1, 2, 32)))
    mamba = Mamba(32, 4, 3, 2, init, init, "sequential")
    params = nn.unbox(quick(mamba.init)(jax.random.key(0), x, state, Marks()))["params"]
    steps = jax.nn.softplus(params["step_bias"])
    assert STEP_SIZES[0] <= steps.min() < 0.01 < steps.max() <= STEP_SIZES[1]
    np.testing.assert_allclose(jnp.exp(params["log_rate"][5]), [1, 2, 3, 4], rtol=1e-6)


def test_scans_are_chosen_and_refused_by_name(monkeypatch):
    method, why = parallel_scan.choose("auto", "mamba", True)
    assert method == "sequential" and why.startswith("auto: a step takes a cpu less than")
    assert parallel_scan.choose("parallel", "mamba", True) == ("parallel", "requested")
    with pytest.raises(ValueError, match='model.scan="parallel" can\'t run: model.cell="gru"'):
        parallel_scan.choose("parallel", "gru", False)
    with pytest.raises(ValueError, match="model.scan='quick': accepted are auto, parallel, seq"):
        parallel_scan.choose("quick", "mamba", True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    method, why = parallel_scan.choose("auto", "mamba", True)
    assert method == "parallel" and why.startswith("auto: log T rounds in place of T steps on gpu")
