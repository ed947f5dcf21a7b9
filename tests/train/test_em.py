"""Expectation-maximisation: one iteration counted by hand, a likelihood that never falls, one batch as its parts, and what is refused."""

import dataclasses
import functools
import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import config as configs
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.hmm import HMM, HMMConfig
from jaxlm.objectives import causal_lm, multi_token
from jaxlm.train import optim, parallel
from jaxlm.train.steps import em
from jaxlm.train.tuning import full

MODEL = HMMConfig(vocab_size=7, num_states=3)
OPTIM = optim.Config()
ONCE = {"batches_per_update": 1, "smoothing": 0.0}
pytestmark = pytest.mark.usefixtures("quick_compiling")


def make_batch(rows=8, length=6, seed=0, vocabulary=7):
    """Rows that end in filling, each at another place; one is filling altogether."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocabulary, (rows, length + 1)).astype(np.int32)
    ends = np.arange(rows)[:, None] % (length + 1)
    weights = (np.arange(length)[None] < ends).astype(np.float32)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:], "weights": weights}


def make_step(
    count=1, model=MODEL, optim=OPTIM, tuning=full.FULL, task=None, num_steps=12, **config
):
    module = HMM(model)
    objective = causal_lm.CausalLM(causal_lm.Config(), module)
    config, world = em.Config(**(ONCE | config)), {"task": task, "optim": optim}
    return em.EM(config, module, objective, None, None, count, tuning, num_steps=num_steps, **world)


def init(step, batch):
    return nn.unbox(jax.jit(step.init)(jax.random.key(0), batch))


def run(step, batches, state=None):
    """The last state, and the metrics of every step."""
    state = init(step, batches[0]) if state is None else state
    compiled, rows = jax.jit(step.step), []
    for batch in batches:
        state, row = compiled(state, batch)
        rows.append({name: float(value) for name, value in row.items()})
    return state, rows


def probabilities(params):
    tables = (params[name] for name in ("initial", "transition", "emission"))
    return [np.asarray(jax.nn.softmax(table, axis=-1), np.float64) for table in tables]


def by_all_paths(params, sequences):
    """Expected counts, and log p of each sequence, from every path of states."""
    initial, transition, emission = probabilities(params)
    counts, logs = [np.zeros_like(table) for table in (initial, transition, emission)], []
    for words in sequences:
        found = {}
        for path in itertools.product(range(len(initial)), repeat=len(words)):
            p = initial[path[0]] * emission[path[0], words[0]]
            for t in range(1, len(words)):
                p *= transition[path[t - 1], path[t]] * emission[path[t], words[t]]
            found[path] = p
        total = sum(found.values())
        logs.append(np.log(total))
        for path, p in found.items():
            counts[0][path[0]] += p / total
            for both in itertools.pairwise(path):
                counts[1][both] += p / total
            for state, word in zip(path, words, strict=True):
                counts[2][state, word] += p / total
    return counts, logs


def observations(batch):
    """By the definition: a row's tokens up to its last weighed target, and that target."""
    for tokens, targets, weights in zip(*(batch[x] for x in ("tokens", "targets", "weights"))):
        if weights.any():
            end = np.flatnonzero(weights)[-1]
            yield [*tokens[: end + 1].tolist(), int(targets[end])]


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_one_iteration_by_every_path(smoothing):
    batch = make_batch()
    step = make_step(smoothing=smoothing)
    state = init(step, batch)
    sequences = list(observations(batch))
    counts, logs = by_all_paths(state.params, sequences)
    after, (row,) = run(step, [batch], state)
    for found, count in zip(probabilities(after.params), counts, strict=True):
        right = (count + smoothing) / (count + smoothing).sum(-1, keepdims=True)
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)
    size = sum(map(len, sequences))
    np.testing.assert_allclose(row["log_likelihood"], sum(logs) / size, rtol=1e-5)
    prior = smoothing * sum(np.log(table).sum() for table in probabilities(state.params))
    np.testing.assert_allclose(row["log_posterior"], (sum(logs) + prior) / size, rtol=1e-5)
    assert row["num_updates"] == 1 and row["finite"]


@pytest.mark.parametrize("segments", [False, True])
def test_the_loss_is_that_of_causal_lm(segments):
    batch = make_batch()
    if segments:
        batch["segment_ids"] = np.tile(np.int32([1, 1, 2, 2, 2, 3]), (8, 1))
        batch["weights"] = np.float32(np.random.default_rng(1).random((8, 6)) < 0.7)
    step = make_step()
    state = init(step, batch)
    output = step.model.apply(
        {"params": state.params}, batch["tokens"], segment_ids=batch.get("segment_ids")
    )
    nll = output.token_nll(jnp.asarray(batch["targets"])) * batch["weights"]
    _, (row,) = run(step, [batch], state)
    np.testing.assert_allclose(row["loss"], nll.sum() / batch["weights"].sum(), rtol=1e-5)


def test_the_likelihood_never_falls_and_smoothing_climbs_with_its_prior():
    batches = [make_batch(seed=seed) for seed in range(2)] * 12
    for smoothing, name in ((0.0, "log_likelihood"), (0.3, "log_posterior")):
        step = make_step(smoothing=smoothing, batches_per_update=2)
        state, rows = run(step, batches)
        assert all(np.isnan(rows[0][key]) for key in ("log_likelihood", "log_posterior"))
        climbed = [row[name] for row in rows[1::2]]
        assert len(climbed) == 12 and (np.diff(climbed) >= -1e-6).all(), climbed
        assert climbed[-1] > climbed[0] + 0.1
        assert int(state.vars["num_updates"]) == 12


def test_parameters_stay_until_a_pass_is_full():
    batches = [make_batch(seed=seed) for seed in range(3)]
    step = make_step(batches_per_update=3)
    state = first = init(step, batches[0])
    for batch in batches[:2]:
        state, _ = run(step, [batch], state)
        jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
    state, _ = run(step, [batches[2]], state)
    together = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    at_once, _ = run(make_step(), [together], first)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, state.params, at_once.params)
    assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(state.vars["sums"]))


def test_stepwise_em_is_of_the_mean_over_all_passes_so_far():
    """Shares 1, 2^-a, 3^-a of what a pass expects of an observation, times the observations so far."""
    batches = [make_batch(seed=seed) for seed in range(3)]
    step = make_step(stepsize_power=0.7, smoothing=0.5)
    state, mean, seen = init(step, batches[0]), None, 0
    for k, batch in enumerate(batches, 1):
        sequences = list(observations(batch))
        counts, _ = by_all_paths(state.params, sequences)
        size, share = sum(map(len, sequences)), k**-0.7
        each = [count / size for count in counts]
        mean = each if k == 1 else [m + share * (e - m) for m, e in zip(mean, each, strict=True)]
        seen += size
        state, _ = run(step, [batch], state)
        for found, one in zip(probabilities(state.params), mean, strict=True):
            right = (one * seen + 0.5) / (one * seen + 0.5).sum(-1, keepdims=True)
            np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)
    broken = batches[0] | {"weights": np.full_like(batches[0]["weights"], np.inf)}
    after, (row,) = run(step, [broken], state)
    assert not row["finite"]
    jax.tree.map(np.testing.assert_array_equal, after.vars, state.vars)


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_agree_on_ragged_rows(count):
    batch = make_batch()
    state = init(make_step(), batch)
    whole, parts = (run(make_step(n), [batch], state) for n in (1, count))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, whole[0].params, parts[0].params)
    jax.tree.map(close, whole[1], parts[1])


def test_eight_devices_are_as_one_and_it_compiles_once():
    batches = [make_batch(seed=seed) for seed in range(3)]
    step = make_step(batches_per_update=2)
    state = init(step, batches[0])
    alone, rows = run(step, batches, state)
    mesh = parallel.make_mesh(parallel.Config(data=8))
    shardings = parallel.state_shardings(
        jax.eval_shape(step.init, jax.random.key(0), batches[0]), mesh
    )
    place, spread = parallel.placer(mesh), jax.device_put(state, shardings)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        compiled = jax.jit(step.step, out_shardings=(shardings, None))
        for batch in batches:
            spread, row = compiled(spread, place(batch))
        assert compiled._cache_size() == 1
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, jax.device_get(spread.params), jax.device_get(alone.params))
    np.testing.assert_allclose(row["loss"], rows[-1]["loss"], rtol=1e-5)


def test_blocks_learn_the_same():
    batch = make_batch()
    state = init(make_step(), batch)
    both = [
        run(make_step(model=dataclasses.replace(MODEL, scan=scan)), [batch], state)[0].params
        for scan in ("sequential", "parallel")
    ]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, *both)


def test_a_corpus_of_one_word_and_words_that_never_come():
    batch = make_batch()
    batch |= {name: np.full_like(batch[name], 3) for name in ("tokens", "targets")}
    state, rows = run(make_step(), [batch] * 3)
    np.testing.assert_allclose(rows[-1]["loss"], 0, atol=1e-5)
    np.testing.assert_allclose(probabilities(state.params)[2][:, 3], 1, rtol=1e-6)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params))
    smoothed, _ = run(make_step(smoothing=0.1), [batch] * 3)
    model = HMM(MODEL)
    never = np.int32(
        [[3, 5, 3, 5]]
    )  # 5 was never seen: rare, with smoothing, and next to impossible without
    for params, rare in ((smoothed.params, (1e-3, 0.1)), (state.params, (0, 1e-30))):
        found = np.exp(model.apply({"params": params}, never).logits())
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
        assert (found[0, :, 5] >= rare[0]).all() and (found[0, :, 5] < rare[1]).all()


def test_a_state_that_is_never_visited_keeps_its_rows():
    batch = make_batch()
    step = make_step()
    state = init(step, batch)
    never = -200.0
    params = dict(state.params)
    params["initial"] = params["initial"].at[1].set(never)
    params["transition"] = params["transition"].at[:, 1].set(never)
    after, (row,) = run(step, [batch], state.replace(params=params))
    assert row["finite"]
    for name in ("transition", "emission"):
        before, found = (jax.nn.softmax(p[name][1]) for p in (params, after.params))
        np.testing.assert_allclose(found, before, rtol=1e-5)


def test_a_batch_that_is_not_finite_changes_nothing():
    batches = [make_batch(seed=seed) for seed in range(2)]
    step = make_step(batches_per_update=2)
    state, _ = run(step, [batches[0]])
    broken = state.replace(params=state.params | {"emission": state.params["emission"] * jnp.nan})
    after, (row,) = run(step, [batches[1]], broken)
    assert not row["finite"] and int(after.step) == 2
    jax.tree.map(np.testing.assert_array_equal, after.params, broken.params)
    jax.tree.map(np.testing.assert_array_equal, after.vars, broken.vars)
    heavy = batches[1] | {"weights": np.full_like(batches[1]["weights"], np.inf)}
    after, (row,) = run(step, [heavy], state)
    assert not row["finite"]
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_sums_keep_what_float32_loses():
    total = lost = jnp.float32(0)
    total, lost = em.add(total, lost, jnp.float32(2**24))
    for _ in range(5):
        total, lost = jax.jit(em.add)(total, lost, jnp.float32(1))
    assert float(total) == 2**24 and float(lost) == 5


def test_parts_that_em_has_no_use_for_are_refused():
    plain, first = causal_lm.Config(), init(make_step(), make_batch())
    gpt = GPT(GPTConfig(vocab_size=7, num_layers=1, d_model=8, num_heads=1, max_len=8))
    with pytest.raises(ValueError, match=r'model.kind="hmm"\), not GPT'):
        em.EM(
            em.Config(),
            gpt,
            causal_lm.CausalLM(plain, gpt),
            None,
            None,
            1,
            task=None,
            optim=OPTIM,
            num_steps=1,
        )

    class Partial(full.Full):
        pass

    with pytest.raises(ValueError, match='learns all of a model: tuning.kind="full"'):
        make_step(tuning=Partial(full.Config()))
    with pytest.raises(ValueError, match="last 2 of num_steps=12 .* set num_steps to 10 or 15"):
        jax.eval_shape(make_step(batches_per_update=5).step, first, make_batch())
    with pytest.raises(ValueError, match="last 12 of num_steps=12 .* set num_steps to 13, or more"):
        jax.eval_shape(make_step(batches_per_update=13).step, first, make_batch())
    with pytest.raises(ValueError, match="step.batches_per_update=0 is an epoch"):
        make_step(batches_per_update=0, task=types.SimpleNamespace())
    with pytest.raises(ValueError, match="leave the section optim as it is"):
        make_step(optim={".*": OPTIM})
    model = HMM(MODEL)
    other = types.SimpleNamespace(kind=multi_token.MultiToken.kind)
    with pytest.raises(ValueError, match='objective.kind="causal_lm", not "multi_token"'):
        em.EM(em.Config(), model, other, None, None, 1, task=None, optim=OPTIM, num_steps=1)
    with pytest.raises(ValueError, match="ema_decay is not a key"):
        configs.section("step", "em", ema_decay=0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches_per_update": -1}, "step.batches_per_update=-1 must be 0"),
        ({"smoothing": -0.1}, "step.smoothing=-0.1 must be 0 or more"),
        ({"smoothing": float("inf")}, "step.smoothing=inf"),
        ({"stepsize_power": 0.5}, "step.stepsize_power=0.5 must be 0 .off., or above 0.5"),
        ({"on_nonfinite": "go"}, 'step.on_nonfinite="go": accepted are stop, skip'),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        em.Config(**change)
