"""Hidden Markov recursions against numbers by hand, every path of states counted, and one form against the other."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core import markov_blocks
from jaxlm.core.markov import Chain, Observed

SCANS = ("sequential", "parallel")
pytestmark = pytest.mark.usefixtures("quick_compiling")


def make(seed=0, rows=2, length=4, num_states=3, starts=(), filling=()):
    """A random chain and observations; further starts and fillings by (row, place)."""
    rng = np.random.default_rng(seed)
    chain = rng.dirichlet(np.ones(num_states)), rng.dirichlet(np.ones(num_states), num_states)
    scores = rng.uniform(0.05, 1.0, (rows, length, num_states))
    start, seen = np.zeros((rows, length), bool), np.ones((rows, length), bool)
    start[:, 0] = True
    for place in starts:
        start[place] = True
    for place in filling:
        seen[place] = False
    ours = Chain(*(jnp.float32(x) for x in chain)), Observed(jnp.float32(scores), start, seen)
    return *chain, scores, ours


@functools.partial(jax.jit, static_argnums=2)
def expected(chain, observed, scan):
    return markov_blocks.expected(chain, observed, scan)


@functools.partial(jax.jit, static_argnums=3)
def filtered(chain, observed, before, scan):
    return markov_blocks.filtered(chain, observed, before, scan)


@functools.partial(jax.jit, static_argnums=2)
def best_path(chain, observed, scan):
    return markov_blocks.best_path(chain, observed, scan)


def paths(initial, transition, scores):
    """Every path of states and its probability together with the observations [T, C]."""
    length, num_states = scores.shape
    for path in itertools.product(range(num_states), repeat=length):
        p = initial[path[0]] * scores[0, path[0]]
        for t in range(1, length):
            p *= transition[path[t - 1], path[t]] * scores[t, path[t]]
        yield path, p


def by_paths(initial, transition, scores):
    """p(observations), expected starts, transitions and states, the best path: from all paths."""
    length, num_states = scores.shape
    starts, pairs = np.zeros(num_states), np.zeros((num_states, num_states))
    posterior, found = np.zeros((length, num_states)), list(paths(initial, transition, scores))
    for path, p in found:
        starts[path[0]] += p
        for t, state in enumerate(path):
            posterior[t, state] += p
        for both in itertools.pairwise(path):
            pairs[both] += p
    total = sum(p for _, p in found)
    best = max(found, key=lambda one: one[1])
    return total, starts / total, pairs / total, posterior / total, best


@pytest.mark.parametrize("scan", SCANS)
def test_two_states_by_hand(scan):
    """Rain or sun: p(x1) = .6 .5 + .4 .1 = .34; what is expected next is (.226, .114) / .34, so p(x1, x2) = .1478."""
    chain = Chain(jnp.array([0.6, 0.4]), jnp.array([[0.7, 0.3], [0.4, 0.6]]))
    scores = jnp.array([[[0.5, 0.1], [0.2, 0.9]]])
    observed = Observed(scores, jnp.array([[True, False]]), jnp.ones((1, 2), bool))
    beliefs, counts = expected(chain, observed, scan)
    np.testing.assert_allclose(beliefs.belief_BTC[0, 0], [0.3 / 0.34, 0.04 / 0.34], rtol=1e-6)
    np.testing.assert_allclose(beliefs.norm_BT, [[0.34, 0.1478 / 0.34]], rtol=1e-6)
    pairs = np.array([[0.3 * 0.7 * 0.2, 0.3 * 0.3 * 0.9], [0.04 * 0.4 * 0.2, 0.04 * 0.6 * 0.9]])
    np.testing.assert_allclose(counts.transition_CS, pairs / 0.1478, rtol=1e-6)
    np.testing.assert_allclose(counts.initial_C, pairs.sum(1) / 0.1478, rtol=1e-6)
    path, log_p = best_path(chain, observed, scan)
    assert path.tolist() == [[0, 1]]
    np.testing.assert_allclose(log_p, [np.log(0.3 * 0.3 * 0.9)], rtol=1e-6)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("seed", range(3))
def test_every_path_counted(seed, scan):
    initial, transition, scores, ours = make(seed)
    beliefs, counts = expected(*ours, scan)
    path, log_p = best_path(*ours, scan)
    rows = [by_paths(initial, transition, row) for row in scores]
    np.testing.assert_allclose(beliefs.norm_BT.prod(1), [row[0] for row in rows], rtol=1e-6)
    np.testing.assert_allclose(counts.initial_C, sum(row[1] for row in rows), rtol=1e-5)
    np.testing.assert_allclose(counts.transition_CS, sum(row[2] for row in rows), rtol=1e-5)
    np.testing.assert_allclose(counts.posterior_BTC, [row[3] for row in rows], rtol=1e-5)
    assert path.tolist() == [list(row[4][0]) for row in rows]
    np.testing.assert_allclose(log_p, [np.log(row[4][1]) for row in rows], rtol=1e-6)


@pytest.mark.parametrize("scan", SCANS)
def test_chains_of_a_row_are_as_rows_of_their_own_and_filling_leaves_no_trace(scan):
    where = {"starts": [(0, 3)], "filling": [(0, 7), (0, 8), (1, 5), (1, 6), (1, 7), (1, 8)]}
    initial, transition, scores, ours = make(5, length=9, **where)
    beliefs, counts = expected(*ours, scan)
    path, log_p = best_path(*ours, scan)
    parts = {(0, 0): 3, (0, 3): 7, (1, 0): 5}
    found = {
        at: by_paths(initial, transition, scores[at[0], at[1] : end]) for at, end in parts.items()
    }
    for (row, start), end in parts.items():
        total, _, _, posterior, (best, _) = found[row, start]
        span = row, slice(start, end)
        np.testing.assert_allclose(beliefs.norm_BT[span].prod(), total, rtol=1e-6)
        np.testing.assert_allclose(counts.posterior_BTC[span], posterior, rtol=1e-5)
        assert path[span].tolist() == list(best)
    np.testing.assert_allclose(counts.initial_C, sum(x[1] for x in found.values()), rtol=1e-5)
    np.testing.assert_allclose(counts.transition_CS, sum(x[2] for x in found.values()), rtol=1e-5)
    best = [np.log(x[4][1]) for x in found.values()]
    np.testing.assert_allclose(log_p, [best[0] + best[1], best[2]], rtol=1e-6)
    unseen = ~np.asarray(ours[1].seen_BT)
    assert (path[unseen] == -1).all() and (counts.posterior_BTC[unseen] == 0).all()
    assert (beliefs.norm_BT[unseen] == 1).all()
    held = np.tile(beliefs.belief_BTC[1, 4], (4, 1))
    np.testing.assert_allclose(beliefs.belief_BTC[1, 5:], held, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 11])
def test_blocks_are_as_position_by_position(length):
    starts = [(1, place) for place in (4, 5, 7, 9) if place < length]
    filling = [(2, place) for place in range(length // 3 + 1, length)]
    filling += [(3, place) for place in range(length)]  # a row of nothing else
    *_, ours = make(length, 4, length, 5, starts, filling)
    one, other = (expected(*ours, scan) for scan in SCANS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    one, other = (best_path(*ours, scan) for scan in SCANS)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_allclose(one[1], other[1], rtol=1e-6)


def test_blocks_go_on_from_what_was_believed_before():
    *_, (chain, observed) = make(1, 2, 11)
    goes_on = observed.replace(starts_BT=np.zeros((2, 11), bool))
    before = jnp.array([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    one, other = (filtered(chain, goes_on, before, scan) for scan in SCANS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)
    scores = np.asarray(observed.scores_BTC[:, 0])
    norm = (np.asarray(before @ chain.transition_CS) * scores).sum(-1)
    np.testing.assert_allclose(one.norm_BT[:, 0], norm, rtol=1e-6)


def sizes(jaxpr):
    """Of all arrays that a program makes, those of its loops too."""
    for equation in jaxpr.eqns:
        yield from (var.aval.size for var in equation.outvars)
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from sizes(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("scan", SCANS)
def test_no_array_has_a_matrix_of_states_for_each_position(scan):
    rows, length, states = 2, 64, 9
    *_, ours = make(0, rows, length, states)
    for run in (expected, best_path):
        made = jax.make_jaxpr(run, static_argnums=2)(*ours, scan)
        largest = rows * 8 * states * states  # a matrix for each block
        if (
            run is best_path
        ):  # sums before their maximum is taken: never there at once, XLA fuses them
            largest *= states
        assert max(sizes(made.jaxpr)) <= max(largest, rows * length * states)


@pytest.mark.parametrize("scan", SCANS)
def test_long_rows_neither_underflow_nor_lose_digits(scan):
    initial, transition, scores, ours = make(3, 1, 400, 4)
    beliefs, counts = expected(*ours, scan)
    belief, log_p = initial, 0.0
    for t, row in enumerate(scores[0]):  # in float64
        joint = (initial if t == 0 else belief @ transition) * row
        belief, log_p = joint / joint.sum(), log_p + np.log(joint.sum())
    assert log_p < np.log(np.finfo(np.float32).tiny)  # of the whole row: none without a scale
    np.testing.assert_allclose(jnp.log(beliefs.norm_BT).sum(), log_p, rtol=1e-6)
    np.testing.assert_allclose(beliefs.belief_BTC[0, -1], belief, rtol=1e-5)
    np.testing.assert_allclose(counts.posterior_BTC.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(counts.transition_CS.sum(), 399, rtol=1e-5)


@pytest.mark.parametrize("scan", SCANS)
def test_what_no_state_can_be_the_cause_of_says_nothing(scan):
    chain = Chain(jnp.array([1.0, 0.0]), jnp.array([[0.5, 0.5], [0.0, 1.0]]))
    scores = jnp.array([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 1.0]]])  # nothing leads back
    observed = Observed(scores, jnp.array([[True, False, False, False]]), jnp.ones((1, 4), bool))
    found = filtered(chain, observed, jnp.full((1, 2), 0.5), scan)
    np.testing.assert_allclose(found.norm_BT, [[1.0, 0.5, 0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(found.belief_BTC[0, 1:], [[0.0, 1.0]] * 3, atol=1e-6)


def test_the_choice_is_said(monkeypatch):
    assert markov_blocks.choose("parallel", 4, 8) == ("parallel", "as configured")
    assert markov_blocks.choose("auto", 4, 1024)[0] == "sequential"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert markov_blocks.choose("auto", 4, 1024)[0] == "parallel"
    for few in ((65, 1024), (4, 255)):
        name, why = markov_blocks.choose("auto", *few)
        assert name == "sequential" and str(few[0]) in why
    with pytest.raises(ValueError, match='model.scan="fast": accepted are sequential, parallel'):
        markov_blocks.choose("fast", 4, 8)
