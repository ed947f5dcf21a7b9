"""Macro F1 against scikit-learn's."""

import numpy as np
import pytest

metrics = pytest.importorskip("sklearn.metrics")
pytestmark = pytest.mark.slow

from jaxlm.eval.accuracy import macro_f1  # noqa: E402


def test_macro_f1_is_that_of_scikit_learn():
    """With a class that is only predicted, and one that nobody has."""
    rng = np.random.default_rng(1)
    targets, predictions = rng.integers(0, 5, (50, 1)), rng.integers(0, 6, (50, 1))
    value, _, _ = macro_f1(predictions, targets, np.ones((50, 1)), 7)
    expected = metrics.f1_score(targets[:, 0], predictions[:, 0], average="macro", zero_division=0)
    assert value == pytest.approx(expected)
