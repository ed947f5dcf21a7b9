"""Recurrent language models: what every model must hold, whatever the cell, and what is carried from batch to batch."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm import config
from jaxlm.layers.lookups import Looked
from jaxlm.models.rnn import RNN, RNNConfig
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.causal_lm import Config as LossConfig
from jaxlm.train import optim, samples
from jaxlm.train.steps.gradient import Config, Gradient

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = RNNConfig(vocab_size=30, vocab_multiple=8, num_layers=2, d_model=16, d_hidden=24)
CELLS = ("rnn", "gru", "lstm", "mingru", "minlstm", "mamba")
SHAPES = {cell: dataclasses.replace(SMALL, cell=cell) for cell in CELLS}
SHAPES["untied"] = dataclasses.replace(SMALL, tie_embeddings=False)
SHAPES |= {
    f"{cell} parallel": dataclasses.replace(SMALL, cell=cell, scan="parallel")
    for cell in ("mingru", "minlstm", "mamba")
}


# What differs from one that is always tested in a way that other tests hold.
SLOW = ("untied", "mingru parallel", "minlstm parallel", "mamba")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SHAPES]


@functools.cache
def build(name):
    """A model whose every parameter has its own noise, so that none is a plain 0 or 1, and three texts."""
    model = RNN(SHAPES[name])
    tokens = jax.random.randint(jax.random.key(1), (3, 12), 0, 30)
    params = nn.unbox(quick(model.init)(jax.random.key(0), tokens))["params"]
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda x: x + 0.2 * draw(size=x.shape).astype(np.float32), params)
    return model, params, tokens


@functools.cache
def forward(name):
    """(params, tokens) -> logits, compiled."""
    model = build(name)[0]
    return quick(lambda params, tokens: model.apply({"params": params}, tokens).logits())


@functools.cache
def logits(name):
    _, params, tokens = build(name)
    return np.asarray(forward(name)(params, tokens))


def close(left, right, atol=1e-5):
    np.testing.assert_allclose(left, right, rtol=0, atol=atol)


def expected_size(cfg):
    """Every matrix and vector by its sides."""
    rows, width, inner = 32, cfg.d_model, cfg.hidden_width
    total = rows * width + (0 if cfg.tie_embeddings else rows * cfg.out_width)
    if cfg.cell in ("rnn", "gru", "lstm"):
        products, parts = {"rnn": (1, 1), "gru": (3, 4), "lstm": (4, 4)}[cfg.cell]
        for read, own in zip((width, *cfg.widths), cfg.widths, strict=False):
            total += products * own * (read + own) + parts * own
        return total
    total += width  # the last norm
    if cfg.cell == "mamba":
        conv, select = 5 * inner, inner * (cfg.rank + 2 * cfg.d_state)
        steps = cfg.rank * inner + inner
        scan = inner * cfg.d_state + inner
        return total + 2 * (width + 3 * width * inner + conv + select + steps + scan)
    gates = {"mingru": 2, "minlstm": 3}[cfg.cell] * inner * (width + 1)
    mlp = 2 * width * 4 * width + 5 * width
    return total + 2 * (2 * width + 5 * width + gates + inner * width + mlp)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_dtypes_and_size(name):
    model, params, tokens = build(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected_size(model.config)
    found = logits(name)
    assert found.shape == (3, 12, 30) and found.dtype == np.float32 and np.isfinite(found).all()
    boxed = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    names = [box.names for box in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names"))]
    assert len(names) == len(jax.tree.leaves(params))  # all have logical axes


@pytest.mark.parametrize("name", ["lstm", "mamba"])
def test_compiled_or_not(name):
    model, params, tokens = build(name)
    close(logits(name), model.apply({"params": params}, tokens).logits())


@pytest.mark.parametrize("name", NAMES)
def test_later_tokens_change_nothing(name):
    _, params, tokens = build(name)
    changed = tokens.at[:, 7].set((tokens[:, 7] + 1) % 30)
    found = np.asarray(forward(name)(params, changed))
    close(found[:, :7], logits(name)[:, :7])
    assert np.abs(found[:, 7:] - logits(name)[:, 7:]).max(axis=(0, 2)).min() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_ragged_blocks_score_as_the_whole_text_and_filling_leaves_no_trace(name):
    model, params, tokens = build(name)
    extend = quick(model.extend)
    cache, others = model.init_cache(params, 3, 0), model.init_cache(params, 3, 0)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {3}
    starts = np.zeros(3, int)
    for counts in ([5, 1, 3], [0, 4, 1], [1, 1, 1], [6, 6, 7]):
        block, other = np.full((3, 7), 29, np.int32), np.full((3, 7), 3, np.int32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            block[row, :count] = other[row, :count] = tokens[row, start : start + count]
        output, cache = extend(params, cache, block, jnp.asarray(counts))
        _, others = extend(params, others, other, jnp.asarray(counts))
        jax.tree.map(np.testing.assert_array_equal, cache, others)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            close(output.logits()[row, :count], logits(name)[row, start : start + count])
        starts += counts


@pytest.mark.parametrize("name", NAMES)
def test_segments_are_rows_of_their_own(name):
    model, params, tokens = build(name)
    segments = jnp.array([[1] * 4 + [2] * 5 + [3] + [0] * 2, [1] * 12, [4] + [2] * 8 + [0] * 3])

    @quick
    def packed(tokens):
        empty = model.init_cache(params, 3, 0)
        output, carry = model.apply({"params": params}, tokens, segments, carry=empty)
        return output.logits(), carry

    found, carry = packed(tokens)
    close(found[1], logits(name)[1])
    single = quick(
        lambda tokens: model.apply({"params": params}, tokens, carry=model.init_cache(params, 1, 0))
    )
    for row, start, stop in ((0, 0, 4), (0, 4, 9), (0, 9, 10), (2, 1, 9)):
        alone, last = single(tokens[row : row + 1, start:stop])
        close(found[row, start:stop], alone.logits()[0])
    jax.tree.map(lambda a, b: close(a[2:], b), carry, last)  # of the last real position
    filled = packed(tokens.at[2, 9:].set(5))
    jax.tree.map(np.testing.assert_array_equal, filled[1], carry)


@pytest.mark.parametrize("name", CELLS)
def test_carried_batches_are_one_text(name):
    model, params, tokens = build(name)
    run = quick(
        lambda *args: model.apply({"params": params}, args[0], None, args[1], carry=args[2])
    )
    carry = jax.tree.map(jnp.ones_like, model.init_cache(params, 3, 0))  # of a text before
    for number in range(3):
        first = number == 0
        continues = jnp.full(3, 0.0 if first else 1.0)
        output, carry = run(tokens[:, 4 * number : 4 * number + 4], continues, carry)
        close(output.logits(), logits(name)[:, 4 * number : 4 * number + 4])
    with pytest.raises(ValueError, match="continues without carry"):
        model.apply({"params": params}, tokens, None, jnp.ones(3))


@pytest.mark.parametrize("cell", ["mingru", "minlstm", "mamba"])
def test_all_steps_at_once_are_the_steps_one_by_one(cell):
    _, params, tokens = build(cell)
    tokens = jnp.tile(tokens, (1, 12))  # 144: beyond two chunks

    def loss(scan, params):
        model = RNN(dataclasses.replace(SHAPES[cell], scan=scan))
        return model.apply({"params": params}, tokens).token_nll(tokens).mean()

    one, other = (
        quick(jax.value_and_grad(functools.partial(loss, scan)))(params)
        for scan in ("parallel", "sequential")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


def make_step(model, num_micro_batches=1):
    objective = CausalLM(LossConfig(), model)
    tx, schedule = optim.build(optim.Config(learning_rate=1e-2, warmup_steps=1), 10, {})
    return Gradient(Config(), model, objective, tx, schedule, num_micro_batches)


def stream(number, rows=4):
    """Batch `number` of a stream, ragged in its weights; the first row begins anew in the second batch."""
    rng = np.random.default_rng(number)
    weights = (rng.random((rows, 6)) < np.linspace(0.2, 1.0, rows)[:, None]).astype(np.float32)
    ids = rng.integers(0, 30, (rows, 7)).astype(np.int32)
    continues = np.full(rows, float(number > 0), np.float32)
    continues[0] = 0
    return {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "weights": weights,
        "continues": continues,
    }


@pytest.mark.parametrize("cell", ["lstm", pytest.param("mamba", marks=pytest.mark.slow)])
def test_micro_batches_agree_with_carried_rows(cell):
    model, params, _ = build(cell)
    results = []
    for count in (1, 2, 4):
        step = make_step(model, count)
        state = nn.unbox(quick(step.init)(jax.random.key(0), stream(0))).replace(params=params)
        run = quick(step.loss_and_gradients)
        for number in range(2):
            out, grads, value = run(state, stream(number))
            state = state.replace(vars=out.vars)
        results.append((value, grads, out.vars["rows"]["carry"]))
    for other in results[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), results[0], other
        )


def test_no_gradient_reaches_the_batch_before_and_the_carry_goes_on():
    """Of the second batch: the gradient with the carry as a constant, the rows going on where continues says so."""
    model, params, _ = build("lstm")
    step = make_step(model)
    state = nn.unbox(quick(step.init)(jax.random.key(0), stream(0))).replace(params=params)
    run = quick(step.loss_and_gradients)
    first = run(state, stream(0))[0].vars
    _, grads, value = run(state.replace(vars=first), stream(1))
    before, batch = stream(0), stream(1)

    def loss(params, fixed):
        _, carry = model.apply({"params": fixed}, before["tokens"], carry=model.empty(4))
        carry = jax.tree.map(lambda x: x.at[0].set(0.0), carry)
        output, _ = model.apply({"params": params}, batch["tokens"], carry=carry)
        weighed = output.token_nll(batch["targets"]) * batch["weights"]
        return weighed.sum() / batch["weights"].sum()

    expected, expected_grads = quick(jax.value_and_grad(loss))(params, params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: close(a, b, 1e-6), grads, expected_grads)


def test_few_words_are_looked_up_behind_the_product(monkeypatch):
    model, params, tokens = build("lstm")
    tokens, seen = jnp.tile(tokens, (1, 3)), []  # more than rows of the table

    def spy(self, embed, ids, train):
        seen.append(RNN_read(self, embed, ids, train))
        return seen[-1]

    RNN_read = RNN._read
    monkeypatch.setattr(RNN, "_read", spy)

    def loss(config, params):
        return RNN(config).apply({"params": params}, tokens, train=True).token_nll(tokens).mean()

    fast = quick(jax.value_and_grad(functools.partial(loss, SMALL)))(params)
    assert isinstance(seen[-1], Looked)
    plain = dataclasses.replace(SMALL, loss_chunk=7)
    monkeypatch.setattr("jaxlm.models.rnn.ONE_HOT_LIMIT", 0)
    slow = quick(jax.value_and_grad(functools.partial(loss, plain)))(params)
    assert not isinstance(seen[-1], Looked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), fast, slow)


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("rnn", "gru", "minlstm", "mamba")]


@pytest.mark.parametrize("name", ["lstm", "mingru", *SLOWER])
def test_two_sequences_are_learned_by_heart(name):
    tokens = build(name)[2][:2]
    model = RNN(dataclasses.replace(SHAPES[name], init_std=0.2))
    tx = optax.adam(3e-2)

    @jax.jit
    def learn(params):
        def step(state, _):
            def loss(p):
                return model.apply({"params": p}, tokens[:, :-1]).token_nll(tokens[:, 1:]).mean()

            params, opt_state = state
            value, grads = jax.value_and_grad(loss)(params)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=150)[1]

    start = nn.unbox(quick(model.init)(jax.random.key(0), tokens))["params"]
    losses = learn(start)
    assert losses[0] > 3 and losses[-1] < 0.1


@pytest.mark.parametrize("cell", ["lstm", "mamba", pytest.param("minlstm", marks=pytest.mark.slow)])
def test_bfloat16_keeps_states_in_float32(cell):
    _, params, tokens = build(cell)
    model = RNN(dataclasses.replace(SHAPES[cell], dtype="bfloat16"))

    def loss(params):
        output, carry = model.apply({"params": params}, tokens, carry=model.empty(3))
        return output.token_nll(tokens).mean(), (output.hidden, output.logits(), carry)

    (_, (hidden, scores, carry)), grads = quick(jax.value_and_grad(loss, has_aux=True))(params)
    assert hidden.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float32")}
    close(scores, logits(cell), atol=0.2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"cell": "qrnn"},
            "model.cell='qrnn': accepted are rnn, gru, lstm, mingru, minlstm, mamba",
        ),
        ({"scan": "parallel"}, 'model.scan="parallel" can\'t run: model.cell="lstm"'),
        ({"scan": "fast"}, "model.scan='fast': accepted are auto, parallel, sequential"),
        ({"cell": "mamba", "weight_dropout": 0.5}, "model.weight_dropout=0.5: .* rnn, gru, lstm"),
        ({"d_state": 4}, 'model.d_state=4: model.cell="lstm" has no such thing; .* are mamba'),
        ({"cell": "gru", "forget_bias": 0.0}, "model.forget_bias=0.0: .* that have it are lstm"),
        ({"num_layers": 1}, "model.d_hidden=24 would be no layer's width"),
        ({"dropout": 1.0}, r"model.dropout=1.0 must be in \[0, 1\)"),
        ({"d_hidden": 0}, "model.d_hidden=0 must be at least 1"),
        ({"temporal_reg": -1.0}, "model.temporal_reg=-1.0 must be at least 0"),
        ({"dtype": "float16"}, "model.dtype='float16': accepted are auto, float32, bfloat16"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_the_scan_is_chosen_aloud():
    assert RNN(SMALL).scan_choice(8) == ("sequential", "auto: lstm is not linear in its state")
    assert RNN(SHAPES["mamba parallel"]).scan_choice(8) == ("parallel", "requested")
    assert RNN(SHAPES["mingru"]).scan_choice(8)[0] == "sequential"


def test_texts_may_be_longer_than_the_windows_of_training():
    cfg = config.base()
    cfg.model, cfg.data.seq_len = config.section("model", "rnn", max_len=500), 32
    assert samples.context_length(cfg) == 500
    cfg.model = config.section("model", "gpt", max_len=500)
    assert samples.context_length(cfg) == 32


def test_flops_count_products_and_not_lookups():
    model, params, _ = build("untied")
    sizes = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert model.flops_per_token(params, 12) == 6.0 * (sizes - 32 * 16)
    model, params, _ = build("mamba")
    sizes = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert model.flops_per_token(params, 99) == 6.0 * sizes + 27 * 2 * 24 * 16
