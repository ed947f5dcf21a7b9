"""Hidden Markov models as language models: next-token probabilities, carried beliefs, segments, both kinds of parameters."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.core import markov_blocks
from jaxlm.models.hmm import HMM, HMMConfig

TABLE = HMMConfig(vocab_size=11, num_states=4)
NEURAL = dataclasses.replace(TABLE, parameters="neural", d_model=8, num_layers=1)
SHAPES = {
    "table": TABLE,
    "neural": NEURAL,
    "parallel": dataclasses.replace(TABLE, scan="parallel"),
}
pytestmark = pytest.mark.usefixtures("quick_compiling")


def build(config, key, length=10):
    model = HMM(config)
    tokens = jax.random.randint(key, (3, length), 0, config.vocab_size)
    params = nn.unbox(model.init(jax.random.key(1), tokens))["params"]
    return model, params, tokens


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens, **kwargs):
    return model.apply({"params": params}, tokens, **kwargs).logits()


@functools.partial(jax.jit, static_argnums=0)
def carried(model, params, tokens, **kwargs):
    output, carry = model.apply({"params": params}, tokens, **kwargs)
    return output.logits(), carry


@functools.partial(jax.jit, static_argnums=0)
def extended(model, params, cache, tokens, lengths):
    output, cache = model.extend(params, cache, tokens, lengths)
    return output.logits(), cache


def tables(model, params):
    """Probabilities, float64."""
    logs = model.apply({"params": params}, method="log_tables")
    return [np.exp(np.asarray(table, np.float64)) for table in logs]


def likelihood(model, params, tokens):
    """p(tokens) of a row, by every path of states."""
    initial, transition, emission = tables(model, params)
    total = 0.0
    for path in itertools.product(range(len(initial)), repeat=len(tokens)):
        p = initial[path[0]] * emission[path[0], tokens[0]]
        for (one, other), token in zip(itertools.pairwise(path), tokens[1:], strict=True):
            p *= transition[one, other] * emission[other, token]
        total += p
    return total


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_probabilities_and_jit(key, name):
    model, params, tokens = build(SHAPES[name], key)
    output = model.apply({"params": params}, tokens)
    found = output.logits()
    assert found.shape == (3, 10, 11) and found.dtype == jnp.float32
    assert output.hidden.shape == (3, 10, 4)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, logits(model, params, tokens), rtol=1e-5, atol=1e-6)
    nll = -np.take_along_axis(found, np.asarray(tokens)[..., None], -1)[..., 0]
    np.testing.assert_allclose(output.token_nll(tokens), nll, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.token_stats(tokens).nll, nll, rtol=1e-5, atol=1e-6)


def test_parameter_counts_in_closed_form(key):
    def count(config):
        return sum(leaf.size for leaf in jax.tree.leaves(build(config, key)[1]))

    c, v, d = 4, 11, 8
    assert count(TABLE) == c + c * c + c * v
    mlp = (d * d + d) * 3 + 2 * d * 2  # in, inner, outer; two norms
    assert count(NEURAL) == 2 * c * d + v * d + d + 3 * mlp
    assert HMM(TABLE).flops_per_token({}, 10) == 3 * (2 * c * c + 2 * c * v)


@pytest.mark.parametrize("name", SHAPES)
def test_the_next_token_given_those_before_by_every_path(key, name):
    model, params, tokens = build(SHAPES[name], key, 4)
    found = np.exp(logits(model, params, tokens))
    row = tokens[0].tolist()
    for place in range(4):
        before = row[: place + 1]
        whole = likelihood(model, params, before)
        right = [likelihood(model, params, [*before, token]) / whole for token in range(11)]
        np.testing.assert_allclose(found[0, place], right, rtol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_causal_by_changing_a_later_token(key, name):
    model, params, tokens = build(SHAPES[name], key)
    changed = tokens.at[:, 6].set((tokens[:, 6] + 1) % 11)
    before, after = logits(model, params, tokens), logits(model, params, changed)
    np.testing.assert_allclose(before[:, :6], after[:, :6], atol=1e-6)
    assert float(jnp.abs(before[:, 6] - after[:, 6]).max()) > 1e-3


@pytest.mark.parametrize("name", ["table", "parallel"])
def test_segments_are_as_texts_of_their_own(key, name):
    model, params, tokens = build(SHAPES[name], key)
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0, 0, 0]] * 3)
    packed = logits(model, params, tokens, segment_ids=segments)
    for span in (slice(0, 3), slice(3, 7)):
        alone = logits(model, params, tokens[:, span])
        np.testing.assert_allclose(packed[:, span], alone, rtol=1e-5, atol=1e-6)
    other = logits(model, params, tokens.at[:, 7:].set(0), segment_ids=segments)
    np.testing.assert_allclose(packed[:, :7], other[:, :7], atol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_extended_piece_by_piece_is_as_read_at_once(key, name):
    model, params, tokens = build(SHAPES[name], key)
    whole = logits(model, params, tokens)
    cache = model.init_cache(params, 3, 10)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(cache))
    lengths = jnp.array([4, 0, 2])  # rows of different lengths: what is behind them is filling
    first, cache = extended(model, params, cache, tokens[:, :4], lengths)
    np.testing.assert_allclose(first[0], whole[0, :4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first[2, :2], whole[2, :2], rtol=1e-5, atol=1e-6)
    rest = jnp.stack([jnp.roll(row, -n)[:6] for row, n in zip(tokens, lengths, strict=True)])
    second, _ = extended(model, params, cache, rest, jnp.full(3, 6))
    for row, start in enumerate(lengths.tolist()):
        np.testing.assert_allclose(second[row], whole[row, start : start + 6], rtol=1e-5, atol=1e-6)


def test_a_row_goes_on_from_its_carry_or_begins_anew(key):
    model, params, tokens = build(TABLE, key)
    whole = logits(model, params, tokens)
    fresh = model.init_cache(params, 3, 0)
    ones = jnp.ones(3)  # nothing has been read, whatever `continues` says
    first, carry = carried(model, params, tokens[:, :6], carry=fresh, continues=ones)
    np.testing.assert_allclose(first, whole[:, :6], rtol=1e-5, atol=1e-6)
    goes_on = jnp.array([1.0, 0.0, 1.0])
    second, _ = carried(model, params, tokens[:, 6:], carry=carry, continues=goes_on)
    np.testing.assert_allclose(second[::2], whole[::2, 6:], rtol=1e-5, atol=1e-6)
    anew = logits(model, params, tokens[:, 6:])
    np.testing.assert_allclose(second[1], anew[1], rtol=1e-5, atol=1e-6)
    segments = jnp.array([[1, 2, 2, 2]] * 3)  # of those the first goes on
    third, _ = carried(model, params, tokens[:, 6:], carry=carry, segment_ids=segments)
    np.testing.assert_allclose(third[:, 0], whole[:, 6], rtol=1e-5, atol=1e-6)
    alone = logits(model, params, tokens[:, 7:])
    np.testing.assert_allclose(third[:, 1:], alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="continues .* needs carry"):
        logits(model, params, tokens, continues=ones)


@pytest.mark.parametrize("scan", ["sequential", "parallel"])
def test_viterbi_and_posteriors_are_those_of_all_paths(key, scan):
    model, params, tokens = build(dataclasses.replace(TABLE, scan=scan), key, 5)
    initial, transition, emission = tables(model, params)
    lengths = jnp.array([5, 3, 4])
    path, log_p = jax.jit(model.viterbi)(params, tokens, lengths=lengths)
    posterior, log_all = jax.jit(model.posteriors)(params, tokens, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        words, found = tokens[row].tolist(), {}
        for states in itertools.product(range(4), repeat=length):
            p = initial[states[0]] * emission[states[0], words[0]]
            for t in range(1, length):
                p *= transition[states[t - 1], states[t]] * emission[states[t], words[t]]
            found[states] = p
        best, total = max(found, key=found.get), sum(found.values())
        assert path[row].tolist() == [*best] + [-1] * (5 - length)
        np.testing.assert_allclose(log_p[row], np.log(found[best]), rtol=1e-6)
        np.testing.assert_allclose(log_all[row], np.log(total), rtol=1e-6)
        last = [sum(p for s, p in found.items() if s[-1] == state) for state in range(4)]
        np.testing.assert_allclose(posterior[row, length - 1], np.array(last) / total, rtol=1e-5)
        assert (posterior[row, length:] == 0).all()


def test_words_that_no_state_says_and_states_that_lead_nowhere_stay_finite(key):
    model, params, tokens = build(TABLE, key)
    rare = jnp.array([-150.0, -151.0, -153.0, -149.0])  # below float32's smallest probability
    params["emission"] = params["emission"].at[:, 3].set(-jnp.inf).at[:, 7].set(rare)
    params["transition"] = jnp.where(jnp.eye(4) > 0, 0.0, -300.0)  # states that are never left
    words = tokens.at[:, 2].set(3).at[0, :2].set(7)
    output = model.apply({"params": params}, words)
    found = output.logits()
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
    assert bool(jnp.isfinite(found).all()) and float(found[..., 3].max()) < -1e29
    logs = np.asarray(jax.nn.log_softmax(params["emission"], axis=-1), np.float64)
    right = np.log(np.asarray(output.hidden, np.float64) @ np.exp(logs[:, 7]))
    np.testing.assert_allclose(found[..., 7], right, rtol=1e-6)


@pytest.mark.parametrize("name", ["table", "neural"])
def test_two_sequences_are_learned_by_gradient(key, name):
    config = dataclasses.replace(SHAPES[name], num_states=24, d_model=32)
    model, params, tokens = build(config, key, 9)
    tokens, tx = tokens[:2], optax.adam(0.1 if name == "table" else 0.01)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            output = model.apply({"params": params}, tokens[:, :-1], train=True)
            return output.token_nll(tokens[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state, losses = tx.init(params), []
    for _ in range(100):
        params, opt_state, value = step(params, opt_state)
        losses.append(float(value))
    assert losses[0] > 1.9 and losses[-1] < 0.4, losses[::20]


def test_the_gradient_is_that_of_finite_differences(key):
    model, params, tokens = build(TABLE, key, 6)

    @jax.jit
    def loss(params):
        output = model.apply({"params": params}, tokens[:, :-1], train=True)
        return output.token_stats(tokens[:, 1:]).nll.sum()

    grads = jax.jit(jax.grad(loss))(params)
    for name, place in (("initial", (1,)), ("transition", (2, 0)), ("emission", (3, 5))):
        ends = [loss(params | {name: params[name].at[place].add(by)}) for by in (0.01, -0.01)]
        np.testing.assert_allclose(
            grads[name][place], (ends[0] - ends[1]) / 0.02, rtol=0.02, atol=2e-3
        )


def test_blocks_are_refused_in_training_by_gradient(key):
    model, params, tokens = build(SHAPES["parallel"], key)
    with pytest.raises(ValueError, match='model.scan="parallel" is for EM and scoring'):
        model.apply({"params": params}, tokens, train=True)


def test_first_states_differ(key):
    """States that begin alike would get the same counts for ever."""
    _, params, _ = build(TABLE, key)
    for table in (params["emission"], params["transition"]):
        rows = np.asarray(table)
        assert min(np.abs(a - b).max() for a, b in itertools.combinations(rows, 2)) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_states": 0}, "model.num_states=0 must be at least 1"),
        ({"parameters": "tables"}, "model.parameters='tables' must be one of table, neural"),
        ({"init_std": 0.0}, "model.init_std=0.0 must be above 0"),
        ({"scan": "fast"}, f"model.scan='fast' must be one of {', '.join(markov_blocks.SCANS)}"),
        ({"d_model": 0}, "model.d_model=0"),
        ({"num_layers": -1}, "model.num_layers=-1"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TABLE, **change)
