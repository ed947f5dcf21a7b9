"""Resampling: against closed forms, against a loop over drawn indices, and verdicts on pairs."""

import math

import numpy as np
import pytest

from jaxlm.eval import bootstrap
from jaxlm.eval.finish import FINISH, named
from jaxlm.eval.metric import make_row, ratio


def ratios(count=400, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 40, count).astype(float)
    return np.stack([sizes * rng.normal(2.0, 0.5, count), sizes], 1)


def test_the_error_of_a_ratio_is_that_of_its_formula():
    statistics = ratios()
    assert bootstrap.stderr(statistics, "ratio") == pytest.approx(ratio(*statistics.T)[1], rel=0.08)
    value, error = np.exp(ratio(*statistics.T)[0]), ratio(*statistics.T)[1]
    row = make_row("perplexity", statistics, unit="", finish="exp_ratio", signature="")
    assert row.value == pytest.approx(value) and row.stderr == pytest.approx(value * error)


def test_the_interval_covers_the_truth_in_19_of_20_samples():
    """The mean of 60 draws around 2, 200 times over; binomial noise alone makes it 186 to 194 of 200."""
    hits = 0
    for seed in range(200):
        draws = np.random.default_rng(seed).normal(2.0, 1.0, 60)
        low, high = bootstrap.interval(np.stack([draws, np.ones(60)], 1), "ratio", resamples=400)
        hits += low < 2.0 < high
    assert 180 <= hits <= 198


def test_resamples_are_those_of_drawn_indices(monkeypatch):
    """Weights times statistics is the sum over what was drawn, however many resamples are made at once."""
    statistics = ratios(count=7)[:, :2]
    rng = np.random.default_rng(3)
    drawn = [statistics[rng.integers(0, 7, 7)].sum(0) for _ in range(50)]
    expected = [above / below for above, below in drawn]
    for cells in (1 << 22, 7 * 3, 1):
        monkeypatch.setattr(bootstrap, "_CELLS", cells)
        (found,) = bootstrap._scores([statistics], "ratio", 3, 50)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        two = bootstrap._scores([statistics[np.lexsort(statistics.T)]], "ratio", 3, 2)[0]
        found = bootstrap.stderr(statistics, "ratio", seed=3, resamples=2)
        assert found == pytest.approx(abs(two[0] - two[1]) / math.sqrt(2))


def test_an_error_depends_on_no_order():
    statistics = np.abs(ratios(50))
    again = statistics[np.random.default_rng(1).permutation(50)]
    assert bootstrap.stderr(statistics, "ter") == bootstrap.stderr(again, "ter")
    assert bootstrap.stderr(statistics, "ter") != bootstrap.stderr(statistics, "ter", seed=1)


def test_a_system_does_not_differ_from_itself():
    statistics = ratios(30)
    found = bootstrap.paired(statistics, statistics.copy(), "ratio")
    assert found.difference == 0 and found.low == found.high == 0 and found.p == 1
    assert found.verdict == "no difference (p = 1)" and found.better == ""


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_small_difference_that_all_examples_share_is_clear(higher_is_better):
    """Errors of each system alone are far larger than their difference: only pairs can tell."""
    first = ratios(200)
    second = first.copy()
    second[:, 0] -= 0.05 * second[:, 1] * np.random.default_rng(5).uniform(0, 2, 200)
    found = bootstrap.paired(
        first, second, "ratio", higher_is_better=higher_is_better, names=("new", "old")
    )
    assert found.difference == pytest.approx(0.05, rel=0.1)
    assert bootstrap.stderr(first, "ratio") * 2 > found.difference / 2
    assert 0 < found.low < found.difference < found.high < 0.07
    assert found.p == pytest.approx(2 / 1001)
    assert found.better == ("new" if higher_is_better else "old")
    assert found.verdict == f"{found.better} is better (p = 0.002)"


def test_p_is_below_its_level_exactly_where_the_interval_leaves_0_out():
    for shift in np.linspace(0, 0.8, 33):
        statistics = np.stack([np.random.default_rng(7).normal(shift, 1.0, 80), np.ones(80)], 1)
        found = bootstrap.paired(statistics, statistics * [0, 1], "ratio", resamples=199)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) == bool(found.better)
    assert found.better == "the first"


def test_noise_is_called_a_difference_in_one_of_twenty():
    wrong = 0
    for seed in range(200):
        both = np.random.default_rng(seed).normal(size=(2, 60))
        first, second = (np.stack([draws, np.ones(60)], 1) for draws in both)
        wrong += bool(bootstrap.paired(first, second, "ratio", resamples=400).better)
    assert 3 <= wrong <= 20


def test_one_example_says_nothing_and_other_examples_are_refused():
    one = np.ones((1, 2))
    assert math.isnan(bootstrap.stderr(one, "ratio"))
    found = bootstrap.paired(one, one, "ratio")
    assert math.isnan(found.p) and "one example" in found.verdict and not found.better
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(1, 2\).*the same examples"):
        bootstrap.paired(np.ones((3, 2)), one, "ratio")
    with pytest.raises(ValueError, match="nothing to compare"):
        bootstrap.paired(np.ones((0, 2)), np.ones((0, 2)), "ratio")
    assert bootstrap.interval(np.ones((5, 2)), "ratio", resamples=9) == (-math.inf, math.inf)


def test_what_a_row_refuses():
    with pytest.raises(ValueError, match=r'finish="ratoi" is not known \(did you mean "ratio"'):
        bootstrap.stderr(np.ones((3, 2)), "ratoi")
    with pytest.raises(ValueError, match="accuracy: there is no example"):
        make_row("accuracy", np.ones((0, 2)), unit="", finish="ratio", signature="")
    with pytest.raises(AssertionError, match="by the library that defines it"):
        make_row("accuracy", np.ones((3, 2)), unit="", finish="ratio", signature="", value=0.5)


def test_scores_of_many_sums_at_once_are_those_of_each():
    rng = np.random.default_rng(2)
    sizes = {"f1": 3, "ece": 12, "bleu": 10, "chrf": 18, "ter": 2, "mcc": 12, "pearson": 6}
    for name, finish in FINISH.items():
        size = sizes.get(name, 12 if name.startswith("macro") else 2)
        sums = rng.integers(0, 4, (5, 6, size)).astype(float)
        each = [[finish(sums[a, b]) for b in range(6)] for a in range(5)]
        np.testing.assert_array_equal(finish(sums), each)
    assert named("numpy:sum")(np.arange(3)) == 3  # a user's own
