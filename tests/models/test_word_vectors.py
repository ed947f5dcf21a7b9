"""Two tables: how many numbers, how they begin, and that a wrong config is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.word_vectors import WordVectors, WordVectorsConfig


def params_of(**config):
    model = WordVectors(WordVectorsConfig(vocab_size=11, d_model=8, **config))
    return model, nn.unbox(model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]


@pytest.mark.parametrize(
    ("config", "size"),
    [({}, 2 * 11 * 8), ({"num_buckets": 5}, 2 * 11 * 8 + 5 * 8), ({"biases": True}, 2 * 11 * 9)],
)
def test_parameter_count_in_closed_form(config, size):
    _, params = params_of(**config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_it_begins_as_word2vec_does():
    _, params = params_of(num_buckets=50)
    for part in ("input", "subwords"):
        table = np.asarray(params[part]["embedding"])
        assert np.abs(table).max() <= 1 / 16 and table.std() == pytest.approx(
            1 / 16 / 3**0.5, rel=0.2
        )
    assert not np.asarray(params["output"]["embedding"]).any()


def test_with_biases_both_tables_begin_at_random():
    _, params = params_of(biases=True)
    assert (
        np.asarray(params["output"]["embedding"]).any()
        and np.asarray(params["input"]["bias"]).any()
    )


def test_the_output_is_the_tables():
    model, params = params_of()
    output = model.apply({"params": params}, jnp.zeros((2, 3), jnp.int32))
    assert set(output.tables) == {"input/embedding", "output/embedding"}
    assert output.tables["input/embedding"] is params["input"]["embedding"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "glove"}, 'model.architecture="glove": accepted are skip_gram, cbow'),
        ({"d_model": 0}, "model.d_model=0 must be at least 1"),
    ],
)
def test_wrong_settings(config, said):
    with pytest.raises(ValueError, match=said):
        WordVectorsConfig(**config)
