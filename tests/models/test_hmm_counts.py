"""Which observations EM has of a row, and shares of counts."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models import hmm_counts


def test_which_observations_a_row_has():
    batch = {
        "tokens": jnp.array([[1, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6], [9, 9, 9, 9, 9, 9]]),
        "targets": jnp.array([[2, 3, 4, 5, 0, 0], [2, 3, 4, 5, 6, 7], [9, 9, 9, 9, 9, 9]]),
        "weights": jnp.array([[0.0, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0.0] * 6]),
    }
    found = hmm_counts.sequences(batch)
    assert found.tokens_BT[0, :5].tolist() == [1, 2, 3, 4, 5]  # a prompt is observed too
    assert found.seen_BT.sum(1).tolist() == [5, 7, 0]
    assert found.tokens_BT[1].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.weights_BT[0].tolist() == [0, 0, 1, 0, 1, 0, 0]
    segments = {"segment_ids": jnp.array([[1, 1, 2, 2, 0, 0], [1, 1, 1, 2, 2, 3], [0] * 6])}
    rows = {name: batch[name].at[0, 1].set(8) for name in ("targets",)}  # a last target of its own
    found = hmm_counts.sequences(batch | rows | segments)
    assert found.tokens_BT[0, :6].tolist() == [1, 2, 8, 3, 4, 5]
    assert found.starts_BT[0].tolist() == [True, False, False, True, *[False] * 8]
    assert found.seen_BT.sum(1).tolist() == [6, 9, 0]
    assert found.tokens_BT[1, :9].tolist() == [1, 2, 3, 4, 4, 5, 6, 6, 7]


def test_shares_of_counts_and_of_none():
    logits = jnp.array([[1.0, 1.0, 3.0], [0.0, 2.0, 1.0]])
    counts = jnp.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    found = np.exp(hmm_counts.normalised(logits, counts, 0.0))
    np.testing.assert_allclose(found[0], [0.25, 0.75, 0.0], atol=1e-6)
    np.testing.assert_allclose(found[1], jax.nn.softmax(logits[1]), rtol=1e-6)
    found = np.exp(hmm_counts.normalised(logits, counts, 1.0))
    np.testing.assert_allclose(found, [[2 / 7, 4 / 7, 1 / 7], [1 / 3] * 3], rtol=1e-6)
