"""The sparse step: the same as a gradient of whole tables, AdaGrad by hand, refusals, and a run that is cut off and goes on."""

import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm import config as configs
from jaxlm.core import partition
from jaxlm.objectives.glove import GloVe
from jaxlm.objectives.negative_sampling import NegativeSampling
from jaxlm.train import optim
from jaxlm.train.steps import sparse

sys.path.insert(0, str(Path(__file__).parent.parent / "objectives"))
from test_word_objectives import CTX, counts, model_of, windows  # noqa: E402

PLAIN = {
    "schedule": "constant", "warmup_steps": 0, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0,
}  # fmt: skip
CASES = {
    "skip_gram": (NegativeSampling, {}, windows()),
    "cbow": (NegativeSampling, {"architecture": "cbow"}, windows()),
    "glove": (GloVe, {"biases": True}, {n: np.repeat(v, 2, 0) for n, v in counts().items()}),
}


def build(name, learning_rate=0.3, **settings):
    kind, config, batch = CASES[name]
    model = model_of(**config)
    objective = kind(kind.Config(), model)
    section = optim.Config("sgd", learning_rate=learning_rate, **PLAIN)
    shapes = {"input": {"embedding": jax.ShapeDtypeStruct((7, 3), "float32")}}
    made = optim.build(section, 10, shapes)
    builder = sparse.Sparse(sparse.Config(**settings), model, objective, *made, 1)
    step = builder.build()
    state = nn.unbox(step.init(jax.random.key(0), batch))
    return objective, jax.jit(step.fn), state, batch


@pytest.mark.parametrize("name", CASES)
def test_one_update_is_that_of_whole_tables(name):
    objective, step, state, batch = build(name)
    grads = jax.grad(
        lambda params: objective(params, CTX, batch).sums[next(iter(objective.terms))]
    )(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.3 * g, state.params, grads)
    new, shown = step(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, expected)
    assert int(new.step) == 1 and bool(shown["finite"]) and float(shown["lr"]) == pytest.approx(0.3)


def test_minibatches_are_updates_one_after_the_other():
    _, both, state, batch = build("skip_gram", num_minibatches=2)
    _, one, first, _ = build("skip_gram")
    halves = [{name: rows[place : place + 1] for name, rows in batch.items()} for place in (0, 1)]
    for half in halves:
        first, _ = one(first, half)
    new, _ = both(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, first.params)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_learned_by_heart_and_compiled_once(name):
    """Half of the loss at least; of negative sampling some is left, as words are positives and negatives of others."""
    _, step, state, batch = build(name, adagrad=True)
    losses = []
    for _ in range(60):
        state, shown = step(state, batch)
        losses.append(float(shown["loss"]))
    assert losses[-1] < 0.5 * losses[0] and step._cache_size() == 1


def test_eight_devices_do_as_one():
    _, step, state, batch = build("skip_gram", num_minibatches=2)
    batch = {name: np.repeat(rows, 8, 0) for name, rows in batch.items()}
    mesh = Mesh(jax.devices(), ("data",))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    held = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    one, many = step(state, batch)[0], step(held, spread)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, many.params)


def test_adagrad_is_optaxs_for_rows_that_are_read_once():
    """Of a single pair no row is read twice, so that the sum of squares is that of the gradient."""
    objective, step, state, _ = build("glove", adagrad=True)
    batch = {name: values[:, :1] for name, values in counts().items()}
    tx = optax.adagrad(0.3, initial_accumulator_value=1.0, eps=0.0)
    params, opt_state = state.params, tx.init(state.params)
    for _ in range(3):
        state, _ = step(state, batch)
        grads = jax.grad(lambda p: objective(p, CTX, batch).sums["squares"])(params)
        updates, opt_state = tx.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, params)


def test_an_update_that_is_not_finite_is_not_made():
    _, step, state, batch = build("glove")
    new, shown = step(state, batch | {"counts": np.full((2, 3), np.inf, np.float32)})
    assert not bool(shown["finite"])
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


@pytest.mark.parametrize("wrong", [{"momentum": 0.9}, {"weight_decay": 0.1}, {"clip_norm": 1.0}])
def test_any_other_optimizer_is_refused(wrong):
    section = optim.Config("sgd", **PLAIN | wrong)
    model = model_of()
    objective = NegativeSampling(NegativeSampling.Config(), model)
    shapes = {"input": {"embedding": jax.ShapeDtypeStruct((2, 2), "float32")}}
    with pytest.raises(ValueError, match="updates by plain SGD .* momentum=0, weight_decay=0"):
        sparse.Sparse(sparse.Config(), model, objective, *optim.build(section, 10, shapes), 1)


def test_objectives_without_tables_and_micro_batches_are_refused():
    objective, *_ = build("skip_gram")
    made = optim.build(optim.Config("sgd", **PLAIN), 10, {"a": jnp.zeros((2, 2))})
    with pytest.raises(
        ValueError, match="for objectives of tables .negative_sampling, glove., not object"
    ):
        sparse.Sparse(sparse.Config(), None, object(), *made, 1)
    with pytest.raises(ValueError, match="step.num_minibatches: set micro_batch_size to 0"):
        sparse.Sparse(sparse.Config(), objective.model, objective, *made, 2)
    with pytest.raises(ValueError, match="step.num_minibatches=0 must be at least 1"):
        sparse.Config(num_minibatches=0)


EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments" / "families"


def shrunken(name, path, **top):
    cfg = configs.load(str(EXPERIMENTS / f"{name}.py"))
    cfg.data.path, cfg.data.tokenizer, cfg.data.seq_len = str(path), "words:60", 32
    cfg.model.d_model, cfg.batch_size, cfg.step.num_minibatches = 8, 8, 2
    cfg.data.val_fraction, cfg.num_steps, cfg.log_every = 0.2, 4, 1
    cfg.sample_prompt = "word1 unheard"
    if "num_buckets" in cfg.data and cfg.data.num_buckets:
        cfg.data.num_buckets = 300
    for key, value in top.items():
        configs.override(cfg, key, str(value))
    return cfg


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    lines = [" ".join(f"word{n}" for n in rng.zipf(1.5, 30) % 70) for _ in range(60)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", ["skipgram", "cbow", "fasttext", "glove"])
def test_the_experiment_runs_and_its_vectors_can_be_asked(name, corpus, tmp_path, quick_compiling):
    import jaxlm
    from jaxlm import word_vectors

    summary = jaxlm.run(shrunken(name, corpus), tmp_path / "run")
    assert summary["final_step"] == 4 and 0 < summary["val_loss"] < 20
    vectors = word_vectors.load(tmp_path / "run")
    assert len(vectors.neighbours("word1", 3)) == 3
    assert vectors.show(["word1", "unheard"]) in (tmp_path / "run" / "samples.txt").read_text()
    if name == "fasttext":
        assert vectors.vector("unheard").shape == (8,)
        lm = jaxlm.load(tmp_path / "run")
        assert lm.config.model.num_buckets == 300
    else:
        with pytest.raises(ValueError, match='"unheard" is not among the 60 words'):
            vectors.vector("unheard")


@pytest.mark.parametrize(
    "name",
    ["skipgram", *(pytest.param(one, marks=pytest.mark.slow) for one in ("fasttext", "glove"))],
)
def test_a_run_that_is_cut_off_goes_on_as_if_it_had_not_been(
    name, corpus, tmp_path, quick_compiling
):
    """The same digest of the state: from a checkpoint in the middle, after the last one was lost."""
    import shutil

    import jaxlm

    cfg = shrunken(name, corpus, checkpoint_every=2)
    whole = jaxlm.run(cfg, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "00000004")
    (tmp_path / "cut" / "summary.json").unlink()
    again = jaxlm.run(cfg, tmp_path / "cut")
    assert again["state_sha256"] == whole["state_sha256"]
    assert "resumed    step 2" in (tmp_path / "cut" / "log.txt").read_text()


def test_perplexity_is_refused_in_one_line(corpus, tmp_path):
    import jaxlm

    cfg = shrunken("skipgram", corpus)
    cfg.evaluators = ("perplexity",)
    said = r'evaluators.0.="perplexity": the scores of this WordVectors are no probabilities.*word_pairs'
    with pytest.raises(ValueError, match=said):
        jaxlm.run(cfg, tmp_path / "run")


def test_the_gradient_step_learns_the_same_objective(corpus, tmp_path, quick_compiling):
    import jaxlm

    cfg = shrunken("skipgram", corpus)
    with cfg.unlocked():
        cfg.step = configs.section("step", "gradient")
        cfg.optim = configs.section("optim", "adamw", weight_decay=0.0)
    assert jaxlm.run(cfg, tmp_path / "run")["val_loss"] > 0


def test_tables_are_named_as_losses_read_them():
    _, _, state, batch = build("glove")
    objective = GloVe(GloVe.Config(), model_of(biases=True))
    assert set(objective.reads(batch)) == set(partition.flatten(state.params))
