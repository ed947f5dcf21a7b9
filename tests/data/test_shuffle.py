"""Keyed permutations and numbers: bijective, even, fixed for ever."""

import numpy as np
import pytest

from jaxlm.data import shuffle


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 1000, 4097])
def test_permute_is_a_permutation(size):
    for key in (1, 2):
        sent = shuffle.permute(np.arange(size), size, shuffle.make_key(key))
        np.testing.assert_array_equal(np.sort(sent), np.arange(size))


def test_permute_element_by_element_and_with_mixed_keys():
    keys = np.concatenate([shuffle.make_key(i % 3) for i in range(30)])
    indices = np.arange(30) % 10
    together = shuffle.permute(indices, 10, keys)
    alone = [int(shuffle.permute(indices[i : i + 1], 10, keys[i : i + 1])[0]) for i in range(30)]
    assert together.tolist() == alone


@pytest.mark.parametrize("size", [7, 100])
def test_permute_is_even(size):
    """Chi-squared of (index -> place) counts over many keys within 5 standard deviations."""
    num_keys = 200 * size
    keys = np.concatenate([shuffle.make_key(5, key) for key in range(num_keys)])
    indices = np.tile(np.arange(size), num_keys)
    places = shuffle.permute(indices, size, np.repeat(keys, size))
    counts = np.zeros((size, size))
    np.add.at(counts, (indices, places), 1)
    freedom = (size - 1) ** 2
    chi_squared = ((counts - 200) ** 2 / 200).sum()
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)


def test_mix64_is_splitmix64():
    """First outputs of SplitMix64 from state 1234567 (reference values of its public C code)."""
    step = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + i * step) % 2**64 for i in range(3)], np.uint64)
    assert shuffle.mix64(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_random_below():
    keys = np.arange(100_000, dtype=np.uint64)
    drawn = shuffle.random_below(keys, np.full(len(keys), 10))
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10 and abs(counts - 10_000).max() < 500  # 5 standard deviations
    assert (shuffle.random_below(keys, np.full(len(keys), 1)) == 0).all()


def test_keys_depend_on_every_word():
    keys = [shuffle.make_key(*words) for words in [(0,), (1,), (0, 1), (1, 0), (0, 0), (-1, 0)]]
    assert len({int(key[0]) for key in keys}) == len(keys)
