"""Hidden Markov models against hmmlearn: likelihoods, posteriors, best paths, iterations of EM.

In float64, as hmmlearn computes, everything agrees to 1e-6, posteriors too. In float32, which runs use, log-likelihoods do (to 1e-6
of their size) and posteriors to 1e-6, in blocks to 5e-6 (2.3e-6 was seen: their products round more often); what EM makes of them, shares of
small counts, to 1e-4 of its size.
"""

import jax
import numpy as np
import pytest

hmmlearn = pytest.importorskip("hmmlearn.hmm")

from jaxlm.models.hmm import HMM, HMMConfig  # noqa: E402
from jaxlm.objectives import causal_lm  # noqa: E402
from jaxlm.train import optim  # noqa: E402
from jaxlm.train.steps import em  # noqa: E402

STATES, WORDS, ROWS, LENGTH = 6, 17, 5, 120
pytestmark = pytest.mark.usefixtures("quick_compiling")


def both(implementation="scaling", scan="auto", num_iterations=1, dtype="float32"):
    """hmmlearn's model, ours with the same tables, and sequences."""
    rng = np.random.default_rng(0)
    theirs = hmmlearn.CategoricalHMM(
        STATES,
        implementation=implementation,
        n_iter=num_iterations,
        tol=-np.inf,
        init_params="",
        n_features=WORDS,
    )
    theirs.startprob_ = rng.dirichlet(np.ones(STATES))
    theirs.transmat_ = rng.dirichlet(np.full(STATES, 0.3), STATES)
    theirs.emissionprob_ = rng.dirichlet(np.full(WORDS, 0.3), STATES)
    names = {"initial": "startprob_", "transition": "transmat_", "emission": "emissionprob_"}
    params = {n: np.log(getattr(theirs, attr)).astype(dtype) for n, attr in names.items()}
    ours = HMM(HMMConfig(vocab_size=WORDS, num_states=STATES, scan=scan))
    return theirs, ours, params, rng.integers(0, WORDS, (ROWS, LENGTH)).astype(np.int32)


@pytest.mark.parametrize("scan", ["sequential", "parallel"])
@pytest.mark.parametrize(
    ("implementation", "dtype"),
    [("scaling", "float64"), ("log", "float64"), ("scaling", "float32")],
)
def test_likelihoods_posteriors_and_best_paths(implementation, dtype, scan):
    theirs, ours, params, tokens = both(implementation, scan, dtype=dtype)
    with jax.enable_x64(dtype == "float64"):
        posterior_BTC, log_p_B = jax.jit(ours.posteriors)(params, tokens)
        path_BT, best_B = jax.jit(ours.viterbi)(params, tokens)
    assert posterior_BTC.dtype == log_p_B.dtype == dtype
    within = {"rtol": 1e-6, "atol": 1e-9}
    if dtype == "float32":
        within = {"rtol": 0, "atol": 1e-6 if scan == "sequential" else 5e-6}
    for row, words in enumerate(tokens[..., None]):
        log_p, posterior = theirs.score_samples(words)
        np.testing.assert_allclose(log_p_B[row], log_p, rtol=1e-6)
        np.testing.assert_allclose(posterior_BTC[row], posterior, **within)
        best, path = theirs.decode(words)
        np.testing.assert_array_equal(path_BT[row], path)
        np.testing.assert_allclose(best_B[row], best, rtol=1e-6)


@pytest.mark.parametrize("scan", ["sequential", "parallel"])
def test_iterations_of_em(scan):
    theirs, ours, params, tokens = both(scan=scan, num_iterations=3)
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones((ROWS, LENGTH - 1), np.float32),
    }
    objective = causal_lm.CausalLM(causal_lm.Config(), ours)
    config = em.Config(batches_per_update=1, smoothing=0.0)
    world = {"task": None, "optim": optim.Config(), "num_steps": 3}
    step = em.EM(config, ours, objective, None, None, 1, **world)
    state = step.init(jax.random.key(0), batch).replace(params=params)
    run, climbed = jax.jit(step.step), []
    for _ in range(3):
        state, row = run(state, batch)
        climbed.append(float(row["log_likelihood"]))
    theirs.fit(tokens.reshape(-1, 1), [LENGTH] * ROWS)
    history = np.array(theirs.monitor_.history) / (ROWS * LENGTH)
    np.testing.assert_allclose(climbed, history, rtol=1e-6)
    for name, right in (
        ("initial", theirs.startprob_),
        ("transition", theirs.transmat_),
        ("emission", theirs.emissionprob_),
    ):
        np.testing.assert_allclose(np.exp(state.params[name]), right, rtol=1e-4, atol=1e-5)
