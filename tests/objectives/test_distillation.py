"""Distillation by hand: soft targets, layers that are matched, maps of layers; and what is refused."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import PROBS, Table, output

from jaxlm.core.types import LossContext
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config
from jaxlm.objectives.distillation import Config, Distillation, layer_pairs

TOKENS = jnp.array([[0, 1, 2], [2, 2, 0]])
BATCH = {
    "tokens": TOKENS,
    "targets": jnp.array([[1, 1, 2], [0, 1, 2]]),
    "weights": jnp.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0]]),
}
WEIGHTS = np.asarray(BATCH["weights"])


class Layered(Table):
    """A table whose layers are parameters: two layers, two heads, states of width 2; the same in every row."""

    direction: ClassVar[str] = "bidirectional"
    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids",)
    shows: ClassVar[tuple[str, ...]] = ("states", "attention")
    heads: int = 2
    width: int = 2

    @nn.compact
    def __call__(self, tokens, segment_ids=None, *, train=False, shown=()):
        zeros = nn.initializers.zeros
        table = self.param("table", zeros, (3, 3))
        states = self.param("states", zeros, (2, 3, self.width))
        scores = self.param("scores", zeros, (2, self.heads, 3, 3))
        made = {"states": states, "attention": jax.nn.softmax(scores, -1)}
        rows = tokens.shape[0]
        repeated = {
            name: jnp.broadcast_to(value[:, None], (value.shape[0], rows, *value.shape[1:]))
            for name, value in made.items()
        }
        return output(table[tokens]).replace(aux={name: repeated[name] for name in shown})


def random_params(seed, heads=2):
    rng = np.random.default_rng(seed)
    shapes = {"table": (3, 3), "states": (2, 3, 2), "scores": (2, heads, 3, 3)}
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }


def loss_out(objective, params, teacher, batch=BATCH):
    ctx = LossContext({"teacher": teacher}, {}, jnp.int32(0), jax.random.key(0))
    return objective(params, ctx, batch)


def make(model=Layered, teacher=None, **config):
    teacher = model() if teacher is None else teacher
    return Distillation(Config(teacher="T", **config), model(), teacher)


def test_soft_targets_by_hand():
    """A student that knows nothing: KL(p || uniform) = log 3 - H(p), of p with logits halved, its square roots."""
    objective = make(Table, temperature=2.0, soft_coef=0.7, hard_coef=0.3)
    assert objective.terms == {"nll": 0.3, "soft": 0.7}
    out = loss_out(objective, {"table": jnp.zeros((3, 3))}, {"table": jnp.log(PROBS)})
    roots = np.sqrt(PROBS) / np.sqrt(PROBS).sum(1, keepdims=True)
    np.testing.assert_allclose(roots[0], [0.41421356, 0.29289322, 0.29289322], atol=1e-7)
    kl = np.log(3) + (roots * np.log(roots)).sum(1)
    expected = (kl[np.asarray(TOKENS)] * WEIGHTS).sum()
    np.testing.assert_allclose(out.sums["soft"], 4 * expected, rtol=1e-5)
    np.testing.assert_allclose(out.report["soft_loss"].total, expected, rtol=1e-5)
    np.testing.assert_allclose(out.sums["nll"], 4.5 * np.log(3), rtol=1e-6)
    np.testing.assert_allclose(objective.weights(BATCH)["soft"], 4.5)
    assert set(out.report) == {"loss", "soft_loss"}  # of a causal model no accuracy


@pytest.mark.slow
def test_a_small_case_as_transformers_users_write_it():
    """torch's kl_div of log-softmaxes at a temperature, times its square: what DistilBERT's own script does."""
    torch = pytest.importorskip("torch")
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    objective = make(Table, temperature=3.0)
    out = loss_out(objective, {"table": jnp.asarray(student)}, {"table": jnp.asarray(teacher)})
    rows = [torch.tensor(part[np.asarray(TOKENS)]) / 3 for part in (student, teacher)]
    kl = torch.nn.functional.kl_div(
        rows[0].log_softmax(-1), rows[1].softmax(-1), reduction="none"
    ).sum(-1)
    expected = 9 * (kl.numpy() * WEIGHTS).sum()
    np.testing.assert_allclose(out.sums["soft"], expected, rtol=1e-5)


LAYERS = {"hidden_coef": 1.0, "attention_coef": 2.0}


def test_layers_by_hand():
    """States turned by 60 degrees: 1 - cos = 1/2. One head sure of key 0, its teacher even: KL = log 2 + log(1/2) ..."""
    half = np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
    mine = {"table": jnp.zeros((3, 3))}
    mine |= {"states": jnp.broadcast_to(jnp.asarray(half[0], jnp.float32), (2, 3, 2))}
    theirs = mine | {"states": jnp.broadcast_to(jnp.asarray(2 * half[1], jnp.float32), (2, 3, 2))}
    mine["scores"] = jnp.log(jnp.broadcast_to(jnp.array([0.5, 0.25, 0.25]), (2, 2, 3, 3)))
    theirs["scores"] = jnp.log(jnp.broadcast_to(jnp.array([0.25, 0.5, 0.25]), (2, 2, 3, 3)))
    batch = BATCH | {"segment_ids": jnp.array([[1, 1, 1], [1, 1, 0]])}
    objective = make(**LAYERS)
    assert objective.terms == {"nll": 0.5, "soft": 0.5, "hidden": 1.0, "attention": 2.0}
    out = loss_out(objective, mine, theirs, batch)
    weights = objective.weights(batch)
    assert weights["hidden"] == weights["attention"] == 5  # real tokens, whatever is a target
    np.testing.assert_allclose(out.sums["hidden"], 5 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(out.sums["attention"], 5 * 0.25 * np.log(2), rtol=1e-5)
    squares = make(**LAYERS, hidden_loss="mse", attention_loss="mse")
    out = loss_out(squares, mine, theirs, batch)
    np.testing.assert_allclose(
        out.sums["hidden"], 5 * (0 + 3) / 2, rtol=1e-5
    )  # (1, 0), (1, sqrt 3)
    np.testing.assert_allclose(out.sums["attention"], 5 * 2 / 16, rtol=1e-5)
    assert {"hidden_loss", "attention_loss", "accuracy"} <= set(out.report)


def test_a_map_says_which_layers_are_alike():
    assert layer_pairs((), 3, 6, "hidden") == [(0, 1), (1, 3), (2, 5)]
    assert layer_pairs((-1, 0), 2, 4, "hidden") == [(1, 0)]
    params = random_params(0)
    crossed = params | {"states": params["states"][::-1]}
    straight = loss_out(make(**LAYERS), params, crossed).sums["hidden"]
    mapped = loss_out(make(**LAYERS, hidden_layers=(1, 0)), params, crossed).sums["hidden"]
    none = loss_out(make(**LAYERS, hidden_layers=(-1, -1)), params, crossed).sums["hidden"]
    assert straight > 0.1
    np.testing.assert_allclose([mapped, none], 0, atol=1e-5)


def test_a_teacher_that_is_the_student_teaches_nothing():
    params = random_params(1)
    out = loss_out(make(**LAYERS), params, params)
    for term in ("soft", "hidden", "attention"):
        np.testing.assert_allclose(out.sums[term], 0, atol=2e-6)


def test_heads_that_differ_in_number_are_averaged():
    """Two heads whose mean is the teacher's single one."""
    probs = jnp.array([[0.5, 0.25, 0.25], [0.1, 0.75, 0.15]])
    mine = random_params(2) | {
        "scores": jnp.log(jnp.broadcast_to(probs[None, :, None], (2, 2, 3, 3)))
    }
    theirs = mine | {"scores": jnp.log(jnp.broadcast_to(probs.mean(0), (2, 1, 3, 3)))}
    out = loss_out(make(Layered, Layered(heads=1), **LAYERS), mine, theirs)
    np.testing.assert_allclose(out.sums["attention"], 0, atol=1e-6)


@pytest.mark.parametrize("losses", [("cosine", "kl"), ("mse", "mse")], ids="-".join)
def test_gradient_against_finite_differences(losses):
    hidden, attention = losses
    objective = make(
        **LAYERS, hidden_loss=hidden, attention_loss=attention, label_smoothing=0.1, z_loss=0.01
    )
    params, teacher = random_params(3), random_params(4)

    @jax.jit
    def loss(params):
        sums = loss_out(objective, params, teacher).sums
        return sum(coef * sums[term] for term, coef in objective.terms.items())

    grads, step = jax.grad(loss)(params), 1e-2
    for name, grad in grads.items():
        place = np.unravel_index(int(jnp.argmax(jnp.abs(grad))), grad.shape)
        up, down = (params | {name: params[name].at[place].add(d)} for d in (step, -step))
        np.testing.assert_allclose((loss(up) - loss(down)) / (2 * step), grad[place], rtol=2e-2)


SIZES = {"vocab_size": 11, "num_layers": 1, "d_model": 8, "num_heads": 2, "max_len": 6}


def test_chunks_are_the_whole_and_a_teacher_may_be_wider():
    batch = {
        "tokens": jnp.array([[1, 2, 3, 4, 5]]),
        "targets": jnp.array([[2, 3, 4, 5, 6]]),
        "weights": jnp.array([[1.0, 1.0, 0.5, 1.0, 0.0]]),
    }
    big = GPT(GPTConfig(**SIZES | {"d_model": 12, "num_layers": 2}))
    teacher = nn.unbox(big.init(jax.random.key(1), batch["tokens"]))["params"]
    found = []
    for chunk in (0, 2):
        model = GPT(GPTConfig(**SIZES, loss_chunk=chunk))
        objective = Distillation(Config(teacher="T"), model, big)
        params = nn.unbox(model.init(jax.random.key(0), batch["tokens"]))["params"]

        def loss(params, objective=objective):
            return sum(loss_out(objective, params, teacher, batch).sums.values())

        found.append(jax.jit(jax.value_and_grad(loss))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


def test_both_stacks_of_an_encoder_decoder_are_matched():
    """Real tokens: 3 of the source, 2 of the targets; cross-attention is one more of the decoder's."""
    batch = {
        "source": jnp.array([[3, 1, 4, 0]]),
        "source_segment_ids": jnp.array([[1, 1, 1, 0]]),
        "tokens": jnp.array([[0, 5, 0]]),
        "targets": jnp.array([[5, 1, 0]]),
        "weights": jnp.array([[1.0, 1.0, 0.0]]),
    }
    model = T5(T5Config(**SIZES, num_decoder_layers=1))
    objective = Distillation(Config(teacher="T", **LAYERS), model, model)
    weights = objective.weights(batch)
    assert (weights["hidden"], weights["attention"]) == (5, 7)
    inputs = {name: batch[name] for name in ("tokens", "source")}
    draw = jax.jit(lambda key: nn.unbox(model.init(key, **inputs))["params"])
    params, other = draw(jax.random.key(0)), draw(jax.random.key(1))
    run = jax.jit(lambda params, other: loss_out(objective, params, other, batch).sums)
    same, differs = run(params, params), run(params, other)
    for term in ("hidden", "attention"):
        np.testing.assert_allclose(same[term], 0, atol=1e-5)
        assert differs[term] > 1e-2
    mapped = Distillation(Config(teacher="T", **LAYERS, hidden_layers=(0, 0, 0)), model, model)
    with pytest.raises(ValueError, match="names 3 layers of the teacher, and the model has 2"):
        jax.eval_shape(lambda: loss_out(mapped, params, params, batch))


class Source(Layered):
    inputs: ClassVar[tuple[str, ...]] = ("tokens", "source")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="coef=-1.0 must be 0 or more"):
        Config(soft_coef=-1.0)
    with pytest.raises(ValueError, match="are 0: nothing is learned"):
        Config(soft_coef=0.0, hard_coef=0.0)
    with pytest.raises(ValueError, match='hidden_loss="kl": accepted are cosine, mse'):
        Config(hidden_loss="kl")
    with pytest.raises(ValueError, match="temperature=0.0 must be above 0"):
        Config(temperature=0.0)
    with pytest.raises(
        ValueError, match="is a Source, which reads tokens, source; the model, a Layered"
    ):
        make(Layered, Source())
    with pytest.raises(ValueError, match="Table shows no attention, states"):
        make(Table, **LAYERS)
    params = random_params(0)
    with pytest.raises(ValueError, match="layers 0 to 1, and none \\[2\\]"):
        loss_out(make(**LAYERS, hidden_layers=(0, 2)), params, params)
    wide = params | {"states": jnp.zeros((2, 3, 4))}
    with pytest.raises(ValueError, match="states are 4 wide and the model's 2"):
        loss_out(make(Layered, Layered(width=4), **LAYERS), params, wide)
    with pytest.raises(ValueError, match="5 layers of the teacher can't be spread evenly over 2"):
        layer_pairs((), 2, 5, "attention")


class Fewer(Table):
    @nn.compact
    def __call__(self, tokens, *, train=False):
        table = self.param("table", nn.initializers.zeros, (3, 3))
        return output(table[tokens]).replace(vocab_size=2)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="tells 2 tokens or classes apart, the model 3"):
        loss_out(make(Table, Fewer()), {"table": jnp.zeros((3, 3))}, {"table": jnp.zeros((3, 3))})
