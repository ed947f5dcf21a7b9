"""The add-one bigram by hand: counts over training tokens, scored on validation tokens after the one before each."""

import importlib.util
from pathlib import Path

import numpy as np

PATH = Path(__file__).resolve().parent.parent / "tools" / "bigram_baseline.py"


def test_by_hand():
    spec = importlib.util.spec_from_file_location("bigram_baseline", PATH)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    first = (np.array([0, 1, 0, 1, 1]), np.array([1, 0, 2]))  # pairs 01 10 01 11, then 10 02
    second = (np.array([2, 0]), np.array([0, 1]))  # pair 20, then 01
    nll, targets = tool.bigram_nll([first, second], 3)
    np.testing.assert_allclose(np.exp(-nll), [2 / 5, 1 / 5, 3 / 5])  # 1: 10 11, 0: 01 01
    np.testing.assert_array_equal(targets, [0, 2, 1])
