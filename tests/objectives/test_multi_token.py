"""Multi-token prediction by hand: which targets each head has, in windows and in packed documents, and what they cost."""

import dataclasses
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import PROBS, Bidirectional, Table, loss_out

from jaxlm.core.outputs import NeuralOutput
from jaxlm.core.types import LossContext
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.objectives import multi_token
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.multi_token import Config, MultiToken

SECOND = np.array([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2]])
BATCH = {
    "tokens": jnp.array([[0, 1, 2], [2, 2, 0]]),
    "targets": jnp.array([[1, 1, 2], [0, 1, 2]]),
    "weights": jnp.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0]]),
}
NEXT = -np.log([[0.25, 0.8, 0.6], [0.2, 0.2, 0.25]])  # PROBS[token, target]
# SECOND[token, the target one place on]; behind the window there is none.
FURTHER = -np.log([[0.3, 0.2, 1.0], [0.7, 0.2, 1.0]])
FURTHER_WEIGHTS = np.array([[1.0, 1.0, 0.0], [0.5, 0.0, 0.0]])


class Shape(NamedTuple):
    num_future: int


class TwoTables(nn.Module):
    """The next token by one table of the token, the one after it by another."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids",)
    config: Shape = Shape(2)

    @nn.compact
    def __call__(self, tokens, segment_ids=None, *, train=False, future=False):
        tables = self.param("table", nn.initializers.zeros, (2, 3, 3))
        aux = {"future_BNTD": tables[1][tokens][:, None]} if future else {}
        return NeuralOutput(tables[0][tokens], jnp.eye(3), aux, vocab_size=3)


TABLES = np.stack([PROBS, SECOND])


def test_sums_by_hand():
    objective = MultiToken(Config(future_coef=0.5), TwoTables())
    assert objective.terms == {"nll": 1.0, "future_2": 0.5}
    out = loss_out(objective, BATCH, TABLES)
    weights = objective.weights(BATCH)
    assert (float(weights["nll"]), float(weights["future_2"])) == (4.5, 2.5)
    nll = (NEXT * np.asarray(BATCH["weights"])).sum()
    further = (FURTHER * FURTHER_WEIGHTS).sum()
    np.testing.assert_allclose(out.sums["nll"], nll, rtol=1e-6)
    np.testing.assert_allclose(out.sums["future_2"], further, rtol=1e-6)
    means = {name: float(sums.total / sums.weight) for name, sums in out.report.items()}
    assert means == pytest.approx({"loss": nll / 4.5, "future_2_loss": further / 2.5}, rel=1e-6)


def test_label_smoothing_is_of_both_heads_and_z_loss_of_the_next_tokens():
    objective = MultiToken(Config(label_smoothing=0.3, z_loss=1e-3), TwoTables())
    out = loss_out(objective, BATCH, TABLES)
    uniform = -np.log(SECOND).mean(axis=1)[np.asarray(BATCH["tokens"])]
    expected = (FURTHER_WEIGHTS * (0.7 * FURTHER + 0.3 * uniform)).sum()
    np.testing.assert_allclose(out.sums["future_2"], expected, rtol=1e-5)
    assert set(out.sums) == set(objective.terms) == {"nll", "future_2", "z"}
    np.testing.assert_allclose(
        out.report["future_2_loss"].total, (FURTHER_WEIGHTS * FURTHER).sum(), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("distance", "targets", "weights"),
    [
        (1, [10, 11, 12, 20, 21, 0], [1, 1, 1, 1, 1, 0]),
        (2, [11, 12, 20, 21, 0, 0], [1, 1, 0, 1, 0, 0]),
        (3, [12, 20, 21, 0, 0, 0], [1, 0, 0, 0, 0, 0]),
        (9, [0] * 6, [0] * 6),
    ],
)
def test_further_targets_of_packed_documents_literally(distance, targets, weights):
    """Documents <eos> 10 11 with target 12, <eos> 20 with target 21, and one place of filling."""
    batch = {
        "targets": jnp.array([[10, 11, 12, 20, 21, 0]]),
        "weights": jnp.array([[1.0, 1, 1, 1, 1, 0]]),
        "segment_ids": jnp.array([[1, 1, 1, 2, 2, 0]]),
    }
    found = multi_token.ahead(batch, distance)
    assert [x[0].tolist() for x in found] == [targets, weights]


def test_ignored_targets_change_nothing():
    objective = MultiToken(Config(label_smoothing=0.1, z_loss=1e-3), TwoTables())
    whole = loss_out(objective, BATCH, TABLES)
    for target in range(3):
        other = BATCH | {"targets": BATCH["targets"].at[1, 2].set(target)}
        assert loss_out(objective, other, TABLES).sums == whole.sums


def test_gradient_against_finite_differences():
    objective = MultiToken(Config(label_smoothing=0.2, z_loss=0.01, future_coef=0.7), TwoTables())
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))

    @jax.jit
    def loss(tables):
        out = objective({"table": tables}, ctx, BATCH)
        return sum(coef * out.sums[term] for term, coef in objective.terms.items())

    tables = jnp.log(jnp.asarray(TABLES, jnp.float32)) + 0.5
    grads = jax.grad(loss)(tables)
    for place in np.ndindex(2, 3, 3):
        up, down = loss(tables.at[place].add(1e-2)), loss(tables.at[place].add(-1e-2))
        np.testing.assert_allclose(grads[place], (up - down) / 2e-2, atol=2e-3)


SMALL = {"vocab_size": 20, "d_model": 16, "num_heads": 2, "max_len": 8}
FOUR = GPTConfig(**SMALL, num_layers=4, num_future=4)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 20, (4, 9)).astype(np.int32)
    weights = (rng.random((4, 8)) < 0.8).astype(np.float32)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:], "weights": weights}


def init(model, batch):
    return nn.unbox(model.init(jax.random.key(1), batch["tokens"][:1]))["params"]


def run(objective, params, batch):
    ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))
    return jax.jit(lambda params, batch: objective(params, ctx, batch))(params, batch)


def test_of_one_token_it_is_causal_lm(batch):
    model = GPT(GPTConfig(**SMALL, num_layers=1))
    params = init(model, batch)
    kinds = MultiToken, CausalLM
    both = [run(kind(kind.Config(z_loss=1e-3), model), params, batch) for kind in kinds]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_each_head_is_scored_on_its_own_targets(batch):
    """Against a loop over places with each head's logits, whether rows are chunked or not."""
    model = GPT(FOUR)
    params = init(model, batch)
    output = jax.jit(lambda params, tokens: model.apply({"params": params}, tokens, future=True))(
        params, batch["tokens"]
    )
    report = run(MultiToken(Config(), model), params, batch).report
    chunked = GPT(dataclasses.replace(FOUR, loss_chunk=5))
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5),
        report,
        run(MultiToken(Config(), chunked), params, batch).report,
    )
    for further in (2, 3, 4):
        states = output.replace(hidden=output.aux["future_BNTD"][:, further - 2])
        logps = np.asarray(jax.nn.log_softmax(states.logits()))
        total = weight = 0.0
        for row, place in np.ndindex(4, 8 - (further - 1)):
            scored = row, place + further - 1
            total -= batch["weights"][scored] * logps[row, place, batch["targets"][scored]]
            weight += batch["weights"][scored]
        sums = report[f"future_{further}_loss"]
        np.testing.assert_allclose([sums.total, sums.weight], [total, weight], rtol=1e-5)


@pytest.mark.slow
def test_one_heads_logits_are_made_at_a_time():
    """What a backward pass keeps does not grow with the heads by their logits (the paper's section 2)."""
    batch = {"tokens": jnp.zeros((4, 64), jnp.int32), "targets": jnp.zeros((4, 64), jnp.int32)}
    batch |= {"weights": jnp.ones((4, 64))}

    def temporary(num_future, loss_chunk):
        config = dataclasses.replace(
            FOUR, vocab_size=8192, max_len=64, num_future=num_future, loss_chunk=loss_chunk
        )
        model = GPT(config)
        objective = MultiToken(Config(), model)
        ctx = LossContext({}, {}, jnp.int32(0), jax.random.key(0))

        def loss(params):
            return sum(objective(params, ctx, batch).sums.values())

        abstract = jax.eval_shape(lambda: init(model, batch))
        compiled = jax.jit(jax.grad(loss)).lower(abstract).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one_head = 4 * 64 * 8192 * 4
    assert temporary(4, 256) < temporary(1, 256) + one_head
    assert temporary(4, 0) > temporary(1, 0) + 3 * one_head


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Table, 'Table has none: take model.kind="gpt" with model.num_future=4'),
        (Bidirectional, 'objective.kind="multi_token" needs a model that is causal'),
    ],
)
def test_a_model_without_heads_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        MultiToken(Config(), model())


def test_a_batch_with_prefixes_is_refused(batch):
    objective = MultiToken(Config(), GPT(FOUR))
    with pytest.raises(ValueError, match='objective.kind="multi_token": data.kind gives prefix'):
        objective({}, None, batch | {"prefix_lengths": jnp.array([1, 2, 1, 2])})


def test_a_wrong_coefficient_is_named():
    with pytest.raises(ValueError, match="objective.future_coef=-1"):
        Config(future_coef=-1)
