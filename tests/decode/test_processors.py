"""What is done to logits before drawing, on numbers that can be followed by hand; and where cuts fall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import processors
from jaxlm.decode.processors import History
from jaxlm.decode.sampling import Sampling

OUT = -np.inf
HALVES = np.log([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]).astype(np.float32)


def cut(function, value, logits=HALVES):
    """Which logits are kept; the kept ones must be as they were."""
    found = np.asarray(jax.jit(function)(jnp.asarray(logits), jnp.float32(value)))
    kept = found > OUT
    np.testing.assert_array_equal(found[kept], logits[kept])
    return kept.astype(int).tolist()


def test_repetition_divides_positive_logits_and_multiplies_negative_ones():
    logits = jnp.array([[2.0, -2.0, 3.0, 0.0]])
    seen = jnp.array([[True, True, False, True]])
    found = processors.repetition_penalty(logits, seen, 4.0)
    np.testing.assert_array_equal(found, [[0.5, -8.0, 3.0, 0.0]])


def test_presence_counts_once_and_frequency_every_time():
    logits, counts = jnp.array([[1.0, 1.0, 1.0]]), jnp.array([[0, 1, 3]])
    found = processors.presence_penalty(logits, counts, 0.5)
    np.testing.assert_array_equal(found, [[1.0, 0.5, 0.5]])
    found = processors.frequency_penalty(logits, counts, 0.5)
    np.testing.assert_array_equal(found, [[1.0, 0.5, -0.5]])
    found = processors.frequency_penalty(logits, counts, -0.5)
    np.testing.assert_array_equal(found, [[1.0, 1.5, 2.5]])


def test_temperature_divides():
    np.testing.assert_array_equal(processors.temperature(jnp.array([[1.0, -3.0]]), 0.5), [[2, -6]])


def test_top_k_keeps_k_tokens_and_all_equals_of_the_last():
    assert cut(processors.top_k, 1) == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert cut(processors.top_k, 2) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert cut(processors.top_k, 3) == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert cut(processors.top_k, 9) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_top_p_keeps_the_fewest_tokens_with_so_much_probability():
    assert cut(processors.top_p, 0.01) == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert cut(processors.top_p, 0.49) == [[1, 0, 0, 0], [0, 0, 1, 1]]
    assert cut(processors.top_p, 0.6) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert cut(processors.top_p, 0.8) == [[1, 1, 1, 1], [0, 1, 1, 1]]  # equals stay together
    assert cut(processors.top_p, 0.9999999) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_min_p_keeps_tokens_with_a_share_of_the_highest_probability():
    assert cut(processors.min_p, 1.0) == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert cut(processors.min_p, 0.49) == [[1, 1, 0, 0], [0, 1, 1, 1]]
    assert cut(processors.min_p, 0.24) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_cuts_fall_right_between_any_float32_numbers():
    """Negative and positive ones, zeros, infinities, neighbours in the last bit."""
    one = np.float32(1)
    rows = np.array(
        [
            [3e38, -3e38, 1e-40, -1e-40, 0.0, OUT],
            [one, np.nextafter(one, np.float32(2)), -one, np.nextafter(-one, -2 * one), 0.5, -0.5],
        ],
        np.float32,
    )
    for k in range(1, 7):
        places = np.argsort(-rows, axis=1)[:, :k]
        expected = np.zeros_like(rows)
        np.put_along_axis(expected, places, 1, axis=1)
        expected[rows == OUT] = 0
        assert cut(processors.top_k, k, rows) == expected.astype(int).tolist()


def test_all_of_them_are_applied_in_the_documented_order():
    """The penalty turns the first 2.0 into 1.0, half the temperature all into 2, 4, 0, -2; e^(2 - 4) is a share above 0.1."""
    logits = jnp.array([[2.0, 2.0, 0.0, -1.0]])
    history = History(jnp.array([[True, False, False, False]]), None)
    settings = Sampling(temperature=0.5, top_k=3, min_p=0.1, repetition_penalty=2.0)
    found = processors.process(logits, settings.values(), history)
    np.testing.assert_allclose(found, [[2.0, 4.0, OUT, OUT]])
    lower = Sampling(temperature=0.5, top_k=1, repetition_penalty=2.0)
    found = processors.process(logits, lower.values(), history)
    np.testing.assert_allclose(found, [[OUT, 4.0, OUT, OUT]])


def test_history_counts_tokens_of_rows_that_go_on():
    history = History(jnp.zeros((2, 3), bool), jnp.zeros((2, 3), jnp.int32))
    for tokens, going in (([1, 2], [True, True]), ([1, 0], [True, False])):
        history = history.add(jnp.array(tokens), jnp.array(going))
    assert history.seen_BV.tolist() == [[False, True, False], [False, False, True]]
    assert history.counts_BV.tolist() == [[0, 2, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (Sampling(0.0), set()),
        (Sampling(), {"temperature"}),
        (Sampling(1.0), {"temperature"}),
        (Sampling(0.0, 5, presence_penalty=-1.0), {"top_k", "presence_penalty"}),
    ],
)
def test_only_what_is_on_is_computed(settings, names):
    assert set(settings.values()) == names
