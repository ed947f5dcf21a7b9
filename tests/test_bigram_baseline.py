"""The add-one bigram by hand: counts over training tokens, scored on validation tokens after the one before each."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

PATH = Path(__file__).resolve().parent.parent / "tools" / "bigram_baseline.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("bigram_baseline", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_by_hand(tool):
    first = (np.array([0, 1, 0, 1, 1]), np.array([1, 0, 2]))  # pairs 01 10 01 11, then 10 02
    second = (np.array([2, 0]), np.array([0, 1]))  # pair 20, then 01
    nll, targets = tool.bigram_nll([first, second], 3)
    np.testing.assert_allclose(np.exp(-nll), [2 / 5, 1 / 5, 3 / 5])  # 1: 10 11, 0: 01 01
    np.testing.assert_array_equal(targets, [0, 2, 1])


def test_targets_of_pairs_begin_behind_an_end(tool):
    targets = [np.array([5, 6, 7]), np.array([4]), np.array([8])]
    split = SimpleNamespace(table=SimpleNamespace(columns={"target": targets}), rows=[2, 0])
    assert tool.target_stream(split, eos_id=9, limit=3).tolist() == [9, 8, 9, 5, 6, 9]
