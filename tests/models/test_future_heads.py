"""GPT's heads for further tokens: each is the last block of a plain GPT, and what it sees and costs follows from that."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.gpt import GPT, GPTConfig

PLAIN = GPTConfig(
    vocab_size=50, num_layers=2, d_model=16, num_heads=2, max_len=12, norm="rmsnorm", bias=False
)
THREE = dataclasses.replace(PLAIN, num_layers=4, num_future=3)
QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(0), (2, 12), 0, 50)


@pytest.fixture(scope="module")
def params(tokens):
    init = jax.jit(GPT(THREE).init, compiler_options=QUICK)
    return nn.unbox(init(jax.random.key(1), tokens))["params"]


def all_states(config, params, tokens, segment_ids=None):
    output = GPT(config).apply({"params": params}, tokens, segment_ids, future=True)
    return jnp.concatenate([output.hidden[:, None], *output.aux.values()], axis=1)


hidden = jax.jit(all_states, static_argnums=0, compiler_options=QUICK)


def test_each_head_is_a_plain_gpts_last_block(params, tokens):
    segments = jnp.array([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3])
    found = hidden(THREE, params, tokens, segments)
    assert found.shape == (2, 3, 12, 16)
    plain = {name: part for name, part in params.items() if name != "future"}
    blocks = [plain["stack"]["block_1"], *(params["future"][f"head_{n}"] for n in (2, 3))]
    for head, block in enumerate(blocks):
        alone = plain | {"stack": plain["stack"] | {"block_1": block}}
        expected = hidden(PLAIN, alone, tokens, segments)[:, 0]
        np.testing.assert_allclose(found[:, head], expected, atol=1e-5)
    assert float(jnp.abs(found[:, 0] - found[:, 2]).max()) > 1e-2


def test_no_head_sees_a_later_token(params, tokens):
    """Which embeddings each place's state depends on, by gradient."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    def moved(place):
        def states(table):
            rows = params | {"embed": {"embedding": table}}
            return all_states(THREE, rows, jnp.arange(12)[None])[0, :, place].sum(axis=-1)

        return jnp.abs(jax.jacrev(states)(params["embed"]["embedding"])).max(axis=-1)

    seen = np.asarray(moved(7))[:, :12] > 0
    np.testing.assert_array_equal(seen, np.broadcast_to(np.arange(12) <= 7, (3, 12)))


def test_as_many_parameters_as_without_heads(params, tokens):
    def count(config):
        shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), tokens)["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes)))

    plain = dataclasses.replace(THREE, num_future=1)
    width, vocabulary = 16, 128
    block = 4 * width**2 + 2 * 4 * width**2 + 2 * width
    assert count(THREE) == count(plain) == vocabulary * width + 12 * width + 4 * block + width
    further = 2 * vocabulary * width
    flops = [GPT(config).flops_per_token(params, 12) for config in (THREE, plain)]
    assert flops[0] - flops[1] == 6 * further


def test_decoding_computes_no_other_head(params, tokens):
    """Token by token with a cache of two layers, the next token's logits of the whole."""
    model = GPT(THREE)
    plain = {name: part for name, part in params.items() if name != "future"}  # needs no more
    cache = model.init_cache(plain, 2, 12)
    assert len(cache.layers) == 2
    step = jax.jit(lambda cache, tokens: model.extend(plain, cache, tokens, jnp.array([1, 1])))
    found = []
    for place in range(12):
        output, cache = step(cache, tokens[:, place : place + 1])
        found.append(output.hidden[:, 0])
    expected = hidden(THREE, params, tokens)[:, 0]
    np.testing.assert_allclose(jnp.stack(found, axis=1), expected, atol=1e-5)
    assert "future_BNTD" not in jax.eval_shape(model.apply, {"params": params}, tokens).aux


@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "block"])
def test_scanned_layers_equal_unrolled_ones(params, tokens, remat):
    blocks = [params["stack"][f"block_{layer}"] for layer in range(2)]
    stacked = params | {"stack": {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}}

    def gradients(config, params):
        def loss(params):
            output = GPT(config).apply({"params": params}, tokens, train=True, future=True)
            states = output.replace(hidden=output.aux["future_BNTD"][:, 1])
            return states.token_nll(tokens).mean() + output.token_nll(tokens).mean()

        return jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(params)

    loss, grads = gradients(THREE, params)
    config = dataclasses.replace(THREE, scan_layers=True, remat=remat)
    other, found = gradients(config, stacked)
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    for name in ("future", "embed"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            grads[name],
            found[name],
        )


def test_more_heads_than_blocks_are_refused():
    with pytest.raises(ValueError, match="model.num_future=3 must be from 1 to model.num_layers=2"):
        dataclasses.replace(PLAIN, num_future=3)
