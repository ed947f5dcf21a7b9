"""What trains, by name and by layer: the rest does not change by a bit, has no optimizer state, and is no part of a checkpoint."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import FAMILIES
from jax.sharding import PartitionSpec as P

from jaxlm.core import metrics, partition
from jaxlm.core.types import LossOut
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.train import assembly, optim, parallel
from jaxlm.train.steps.gradient import Config, Gradient
from jaxlm.train.tuning import lora, partial
from jaxlm.train.tuning.full import FULL

QUICK = {"xla_backend_optimization_level": 0}  # compiling is all that these tests spend time on


def quick(function, **options):
    return jax.jit(function, compiler_options=QUICK, **options)


def shapes_of(family):
    return assembly.abstract_params(family.model, family.batch)


def make_step(family, tuning, num_micro_batches=1, **optimizer):
    objective = family.objective(family.objective.Config(), family.model)
    trained, _ = assembly.split_shapes(tuning, shapes_of(family))
    config = optim.Config(**{"learning_rate": 1e-2, "warmup_steps": 1} | optimizer)
    tx, schedule = optim.build(config, 10, trained)
    tx = tuning.optimizer(tx, trained)
    return Gradient(Config(), family.model, objective, tx, schedule, num_micro_batches, tuning)


def tuned(name, kind, **config):
    family = FAMILIES[name]
    return family, kind(kind.Config(**config), shapes_of(family))


CASES = {
    "lora": (lora.LoRA, {"rank": 2}),
    "probe": (partial.Partial, {"last_layers": 0}),
    "frozen names": (partial.Partial, {"freeze": ("embed", "attention/")}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_frozen_does_not_change_by_a_bit_and_has_no_optimizer_state(case):
    kind, config = CASES[case]
    family, tuning = tuned("classification", kind, **config)
    step = make_step(family, tuning)
    state = nn.unbox(quick(step.init)(jax.random.key(0), family.batch))
    run, after = quick(step.step), state
    for _ in range(2):
        after, _ = run(after, family.batch)
    before, frozen = (partition.flatten(tree.frozen["base"]) for tree in (state, after))
    assert before and before.keys() == frozen.keys()
    for path, leaf in before.items():
        assert np.asarray(leaf).tobytes() == np.asarray(frozen[path]).tobytes(), path
    moved = partition.flatten(after.params)
    for path, leaf in partition.flatten(state.params).items():
        assert not np.array_equal(leaf, moved[path]), path
    assert frozen.keys().isdisjoint(moved)
    sizes = [leaf.size for leaf in jax.tree.leaves(state.params)]
    moments = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted(sizes * 2)
    assert not jax.tree.leaves(assembly.saved(state).frozen)


def test_a_split_and_a_join_are_one_tree():
    tree = {"a": {"kernel": 1, "bias": 2}, "b": {"c": {"kernel": 3}}}
    kernels, rest = partition.split(tree, lambda path: path.endswith("kernel"))
    assert kernels == {"a": {"kernel": 1}, "b": {"c": {"kernel": 3}}} and rest == {"a": {"bias": 2}}
    assert partition.join(kernels, rest) == tree
    assert partition.split(tree, lambda path: True) == (tree, {})
    assert FULL.merge(tree, {}) is tree
    with pytest.raises(AssertionError, match="a/bias"):
        partition.join(tree, rest)


BERT_PATHS = BERTConfig(
    vocab_size=24, num_layers=3, d_model=8, num_heads=2, max_len=8, head="sequence", num_labels=2
)


def bert_shapes(**changes):
    model = BERT(dataclasses.replace(BERT_PATHS, **changes))
    return assembly.abstract_params(model, {"tokens": jax.ShapeDtypeStruct((1, 4), "int32")})


def trained_names(config, params):
    """Where the trained parameters stand: blocks by number, others by their first name."""
    tuning = partial.Partial(config, params)
    return {path.split("/")[path.startswith("stack/")] for path in tuning.chosen}


def test_the_last_layers_and_a_probe_are_these_parameters():
    params = bert_shapes()
    last = partial.Config(last_layers=2)
    assert trained_names(last, params) == {"block_1", "block_2", "classifier"}
    assert trained_names(partial.Config(last_layers=0), params) == {"classifier"}
    freeze = partial.Config(freeze=("embed", "positions", "token_types", r"block_[01]/"))
    assert trained_names(freeze, params) == {"block_2", "classifier"}
    t5 = shapes_of(FAMILIES["seq2seq"])
    paths = partial.Partial(partial.Config(last_layers=1), t5).chosen
    assert {path.split("/")[0] for path in paths} == {
        "encoder", "decoder", "encoder_norm", "decoder_norm",
    }  # fmt: skip
    assert not any("relative_bias" in path for path in paths)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"freeze": ("blok_0",)}, {}, "tuning.freeze: no parameter has 'blok_0' in its path; there are classifier, "),
        ({"freeze": ("(",)}, {}, r"tuning.freeze: '\(' is not a regular expression"),
        ({"freeze": (".",)}, {}, "nothing is left to train"),
        ({"last_layers": 4}, {}, "tuning.last_layers=4 is more than the model's 3 layers"),
        ({"last_layers": 1}, {"scan_layers": True}, "tuning.last_layers takes layers one by one: set model.scan_layers=False"),
        ({"last_layers": -2}, {}, "tuning.last_layers=-2"),
        ({"unfreeze_every": -1}, {}, "tuning.unfreeze_every=-1"),
    ],
)  # fmt: skip
def test_what_can_not_be_frozen_is_one_line(config, changes, message):
    with pytest.raises(ValueError, match=message):
        partial.Partial(partial.Config(**config), bert_shapes(**changes))


@pytest.mark.parametrize("scan", [False, True])
def test_layers_are_unfrozen_from_the_last_to_the_first(scan):
    """Three layers, one more every two steps: block 2 and head at step 0, block 1 at 2, block 0 at 4, embeddings at 6."""
    params = bert_shapes(scan_layers=scan)
    tuning = partial.Partial(partial.Config(unfreeze_every=2), params)
    assert len(tuning.chosen) == len(partition.flatten(params))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    tx = tuning.optimizer(optax.sgd(1.0), ones)
    state, moved = tx.init(ones), {}
    for step in range(7):
        updates, state = tx.update(ones, state, ones)
        for path, update in partition.flatten(updates).items():
            layers = update if "blocks" in path else update[None]
            for layer, part in enumerate(layers):
                name = path.replace("blocks", f"block_{layer}")
                assert float(part.min()) == float(part.max())
                if part.max():
                    moved.setdefault(name, step)
    expected = {"stack/block_2": 0, "classifier": 0, "stack/block_1": 2, "stack/block_0": 4,
                "embed": 6, "positions": 6, "token_types": 6, "embedding_norm": 6}  # fmt: skip
    for path, step in moved.items():
        name = "/".join(path.split("/")[: 2 if path.startswith("stack") else 1])
        assert expected.pop(name, step) == step
    assert not expected


def test_adams_first_step_of_a_layer_that_comes_late_is_no_larger_than_others():
    tuning = partial.Partial(partial.Config(unfreeze_every=5), bert_shapes())
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), bert_shapes())
    tx = tuning.optimizer(optax.adam(1.0, b2=0.999), ones)
    state = tx.init(ones)
    for _ in range(6):
        updates, state = tx.update(ones, state, ones)
    late = updates["stack"]["block_1"]["mlp"]["in"]["kernel"]
    np.testing.assert_allclose(late, -1.0, rtol=1e-5)


class Apart:
    """The squared distance of a model's states from those of another one, or of its own as it began."""

    terms = {"far": 1.0}
    batch_keys, coupled = (), False
    others, own = ("teacher", "reference"), ("reference",)
    config = types.SimpleNamespace(reference="")

    def __init__(self, model):
        self.model = model

    def weights(self, batch):
        return {"far": jnp.float32(batch["tokens"].shape[0])}

    def __call__(self, params, ctx, batch):
        def states(weights):
            return self.model.apply({"params": weights}, batch["tokens"]).hidden

        apart = [jnp.sum((states(params) - states(ctx.frozen[name])) ** 2) for name in self.others]
        total = sum(apart)
        return LossOut(
            {"far": total}, {"loss": metrics.weighted(total[None], jnp.ones(1))}, ctx.vars
        )


@pytest.mark.parametrize("kind", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_teacher_and_reference_get_no_gradient_and_stay_as_they_were(kind):
    model = GPT(GPTConfig(vocab_size=24, num_layers=1, d_model=8, num_heads=2, max_len=8))
    batch = {"tokens": np.arange(8, dtype=np.int32).reshape(2, 4)}
    params = assembly.abstract_params(model, batch)
    tuning = FULL if kind == "full" else lora.LoRA(lora.Config(rank=2), params)
    step = Gradient(Config(), model, Apart(model), optax.sgd(1e-2), lambda n: 0.0, 1, tuning)
    state = nn.unbox(quick(step.init)(jax.random.key(0), batch))
    reference = jax.tree.map(jnp.copy, tuning.first(state.params))
    teacher = nn.unbox(model.init(jax.random.key(1), batch["tokens"]))["params"]
    state = state.replace(frozen=state.frozen | {"teacher": teacher, "reference": reference})
    grads = quick(lambda state: step.loss_and_gradients(state, batch)[1])(state)
    assert jax.tree.structure(grads) == jax.tree.structure(state.params)
    after, _ = quick(step.step)(state, batch)
    after, _ = quick(step.step)(after, batch)
    for name in ("teacher", "reference"):
        assert jax.tree.leaves(state.frozen[name]) or kind == "lora"
        jax.tree.map(np.testing.assert_array_equal, state.frozen[name], after.frozen[name])
    if kind == "lora":  # nothing but adapters trains: the reference is the frozen part
        assert reference == {}


@pytest.mark.parametrize(
    "name", ["classification", pytest.param("seq2seq", marks=pytest.mark.slow)]
)
def test_micro_batches_and_eight_devices_are_one_computation_with_lora(name):
    family, tuning = tuned(name, lora.LoRA, rank=2)
    whole = make_step(family, tuning)
    boxed = quick(whole.init)(jax.random.key(0), family.batch)
    state = nn.unbox(boxed)
    state = state.replace(params=jax.tree.map(lambda x: x + 0.1, state.params))  # B too
    step = make_step(family, tuning, 2)
    alone, metrics_ = quick(step.step)(state, family.batch)
    _, once = quick(whole.step)(state, family.batch)
    np.testing.assert_allclose(metrics_["loss_total"], once["loss_total"], rtol=1e-5)
    np.testing.assert_allclose(metrics_["grad_norm"], once["grad_norm"], rtol=1e-4)

    mesh = parallel.make_mesh(parallel.Config(data=2, fsdp=2, tensor=2))
    shardings = parallel.state_shardings(boxed, mesh)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        placed = parallel.placer(mesh)(family.batch)
        run = quick(step.step, out_shardings=(shardings, None))
        spread, spread_metrics = run(jax.device_put(state, shardings), placed)
    np.testing.assert_allclose(spread_metrics["loss_total"], once["loss_total"], rtol=1e-5)
    np.testing.assert_allclose(spread_metrics["grad_norm"], once["grad_norm"], rtol=1e-4)
    # What is frozen lies in parts too, and adapters as their kernels do.
    stack = "stack" if name == "classification" else "decoder"
    layer = spread.frozen["base"][stack]["block_0"]["mlp"]["in"]
    adapter = spread.params[stack]["block_0"]["mlp"]["in"]
    assert layer["kernel"].sharding.spec == P("fsdp", "tensor")
    assert adapter["lora_a"].sharding.spec == P("fsdp", None)
    assert adapter["lora_b"].sharding.spec == P(None, "tensor")
