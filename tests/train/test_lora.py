"""LoRA: every adapter is used, added to its kernel it computes the same, and dropout is for training alone."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, moved

from jaxlm.core import partition
from jaxlm.layers.linear import Linear
from jaxlm.models.bert import BERTConfig
from jaxlm.train import assembly
from jaxlm.train.tuning import lora

QUICK = {"xla_backend_optimization_level": 0}
NAMES = {
    "classification": {"attention/q", "attention/k", "attention/v", "attention/out", "mlp/in", "mlp/out"},
    "seq2seq": {"attention/q", "attention/k", "attention/v", "attention/out", "cross/q", "cross/k", "cross/v", "cross/out",
                "mlp/in", "mlp/out"},
}  # fmt: skip
SLOW = ("seq2seq", "additive attention", "blank_infilling", "image_to_text", "multi_token")


def tuned(name, scan=False, **config):
    """A family with two layers a stack, its inputs, and LoRA's two parts of parameters, B no longer 0."""
    family = FAMILIES[name]
    layers = max(2, family.model.config.num_layers)
    model = family.model.clone(
        config=dataclasses.replace(family.model.config, num_layers=layers, scan_layers=scan)
    )
    inputs = {
        n: family.batch[n] for n in (*model.inputs, *model.optional_inputs) if n in family.batch
    }
    shapes = assembly.abstract_params(model, family.batch)
    tuning = lora.LoRA(lora.Config(**{"rank": 2, "alpha": 8.0} | config), shapes)

    def make(key):
        params = nn.unbox(model.init(key, **inputs)["params"])
        trained, base = tuning.split(moved(params, key, 0.1), key)
        return trained, moved(trained, key, 0.1), base

    begun, trained, base = jax.jit(make, compiler_options=QUICK)(jax.random.key(0))
    return model, inputs, tuning, begun, trained, base


CASES = [
    pytest.param(name, scan, marks=pytest.mark.slow if scan or name in SLOW else ())
    for name in FAMILIES
    for scan in (False, True)
    if not (scan and name == "multi_token") and name != "masked_lm"
]


@pytest.mark.parametrize(("name", "scan"), CASES)
def test_every_adapter_is_used_and_merged_is_unmerged(name, scan):
    model, inputs, tuning, begun, trained, base = tuned(name, scan)
    more = {"future": True} if name == "multi_token" else {}

    def outputs(params):
        output = model.apply({"params": params}, **inputs, **more)
        return output.logits(), [output.aux["future_BNTD"]] if more else []

    def total(trained):
        logits, others = outputs(tuning.merge(trained, base))
        return sum(jnp.sum(jnp.sin(x)) for x in (logits, *others)), logits

    gradient = jax.jit(jax.value_and_grad(total, has_aux=True), compiler_options=QUICK)
    (_, logits), grads = gradient(trained)
    for path, grad in partition.flatten(grads).items():
        layers = grad if "blocks/" in path else grad[None]
        for layer in layers:
            assert np.abs(layer).max() > 0, f"{path} is not used"
    assert {
        path.removesuffix("/lora_a") for path in partition.flatten(trained) if "lora_a" in path
    } == set(tuning.layers)
    merged, others = jax.jit(outputs, compiler_options=QUICK)(tuning.folded(trained, base))
    np.testing.assert_allclose(logits, merged, rtol=1e-5, atol=1e-5)
    (_, plain), _ = gradient(begun)
    without, _ = jax.jit(outputs, compiler_options=QUICK)(partition.join(base, tuning.first(begun)))
    np.testing.assert_allclose(plain, without, atol=1e-6)  # B is 0 at first
    assert np.abs(logits - without).max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_by_default_all_linear_layers_of_the_blocks_are_targets(name):
    tuning = lora.LoRA(
        lora.Config(), assembly.abstract_params(FAMILIES[name].model, FAMILIES[name].batch)
    )
    assert {"/".join(path.split("/")[-2:]) for path in tuning.layers} == NAMES[name]
    assert all("block_0" in path for path in tuning.layers)


def test_a_layer_with_an_adapter_by_hand():
    """x = (1, 2), W = ((1, 0), (0, 1)), A = (1, 1), B = (2, -1), scale 3: y = x + 3 * 3 * (2, -1)."""
    layer = Linear(2, ("embed", None), nn.initializers.zeros)
    tuning = lora.LoRA(
        lora.Config(rank=1, alpha=3.0, targets=("mlp",)), {"mlp": {"kernel": jnp.eye(2)}}
    )
    trained = {"mlp": {"lora_a": jnp.ones((2, 1)), "lora_b": jnp.array([[2.0, -1.0]])}}
    base = {"mlp": {"kernel": jnp.eye(2)}}
    x = jnp.array([[1.0, 2.0]])
    y = layer.apply({"params": tuning.merge(trained, base)["mlp"]}, x)
    np.testing.assert_allclose(y, [[1 + 18, 2 - 9]])
    kernel = tuning.folded(trained, base)["mlp"]["kernel"]
    np.testing.assert_allclose(kernel, [[1 + 6, -3], [6, 1 - 3]])
    assert tuning.first(trained) == {}


def test_dropout_is_of_what_an_adapter_reads_and_for_training_alone():
    layer = Linear(4, ("embed", None), nn.initializers.zeros)
    config = lora.Config(rank=1, alpha=1.0, targets=("mlp",), dropout=0.5)
    tuning = lora.LoRA(config, {"mlp": {"kernel": jnp.zeros((64, 4))}})
    trained = {"mlp": {"lora_a": jnp.ones((64, 1)), "lora_b": jnp.ones((1, 4))}}
    base = {"mlp": {"kernel": jnp.zeros((64, 4))}}
    x = jnp.ones((500, 64))

    def apply(train):
        params = {"params": tuning.merge(trained, base, train)["mlp"]}
        return np.asarray(layer.apply(params, x, rngs={"dropout": jax.random.key(0)}))

    np.testing.assert_array_equal(apply(False), 64.0)
    kept = apply(True)
    assert set(np.unique(kept) % 2) == {0.0}  # each input counts twice or not at all
    assert abs(kept.mean() - 64) < 64 * 0.5 / 500**0.5 and 6 < kept[:, 0].std() < 10  # 8 = sqrt(64)


def test_a_is_drawn_as_pefts_and_layers_differ():
    model, _, tuning, begun, _, _ = tuned("classification", rank=8)
    leaves = partition.flatten(begun)
    a = [
        np.asarray(leaves[f"{layer}/lora_a"]) for layer in tuning.layers if layer.endswith("mlp/in")
    ]
    assert all(not np.asarray(leaves[f"{layer}/lora_b"]).any() for layer in tuning.layers)
    assert len(a) == 2 and not np.array_equal(*a)
    bound = model.config.d_model**-0.5
    assert all(0.9 * bound < np.abs(one).max() <= bound for one in a)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 0}, "tuning.rank=0 must be at least 1"),
        ({"alpha": 0.0}, "tuning.alpha=0.0"),
        ({"dropout": 1.0}, "tuning.dropout=1.0"),
        ({"targets": ()}, "tuning.targets names no layer"),
        ({"targets": ("atention/",)}, "tuning.targets: no parameter has 'atention/' in its path; there are .*attention"),
        ({"targets": ("classifier",)}, "tuning.targets: no parameter has 'classifier'"),
        ({"also": ("nrm",)}, "tuning.also: no parameter has 'nrm' in its path"),
        ({"also": ("mlp/in/kernel",)}, "tuning.also: no parameter has 'mlp/in/kernel' in its path"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(config, message):
    family = FAMILIES["classification"]
    with pytest.raises(ValueError, match=message):
        lora.LoRA(lora.Config(**config), assembly.abstract_params(family.model, family.batch))


def test_of_minilm_less_than_two_percent_train_at_rank_8():
    """12 (384 + 384) x 8 in four projections, 8 (384 + 1536) in each of two: of 6 layers, 331,776; the head has 770."""
    from jaxlm.models.bert import BERT

    config = BERTConfig(
        vocab_size=30522, num_layers=6, d_model=384, num_heads=12, max_len=512, vocab_multiple=1,
        head="sequence", num_labels=2,
    )  # fmt: skip
    params = assembly.abstract_params(
        BERT(config), {"tokens": jax.ShapeDtypeStruct((1, 4), "int32")}
    )
    trained, _ = assembly.split_shapes(lora.LoRA(lora.Config(rank=8), params), params)
    count, all_of = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, params))
    layer = 4 * 8 * (384 + 384) + 2 * 8 * (384 + 1536)
    assert count == 6 * layer + 2 * 384 + 2 == 331_776 + 770
    assert all_of == 22_566_146 and count / all_of < 0.02
