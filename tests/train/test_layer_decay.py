"""Layer-wise learning rates, scanned or not, by pattern, and beside weight decay; literal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.train import assembly, optim


def bert_shapes(**changes):
    shape = {"vocab_size": 24, "num_layers": 3, "d_model": 8, "num_heads": 2, "max_len": 8}
    model = BERT(BERTConfig(**shape, head="sequence", num_labels=2, **changes))
    return assembly.abstract_params(model, {"tokens": jax.ShapeDtypeStruct((1, 4), "int32")})


@pytest.mark.parametrize("scan", [False, True])
def test_layer_decay_halves_the_rate_of_each_layer_further_down(scan):
    """sgd, rate 1, decay 0.5, no clipping: an update is minus the gradient times 0.5 ** layers behind it."""
    params = bert_shapes(scan_layers=scan)
    config = optim.Config(
        kind="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", warmup_steps=0, clip_norm=0.0,
        weight_decay=0.0, layer_decay=0.5,
    )  # fmt: skip
    tx, _ = optim.build(config, 10, params)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    updates, _ = tx.update(ones, tx.init(ones), ones)
    found = {
        "classifier": updates["classifier"]["kernel"], "embed": updates["embed"]["embedding"],
        "positions": updates["positions"]["embedding"],
    }  # fmt: skip
    stack = updates["stack"]
    for layer in range(3):
        block = (
            jax.tree.map(lambda x, n=layer: x[n], stack["blocks"])
            if scan
            else stack[f"block_{layer}"]
        )
        found[f"block_{layer}"] = block["attention"]["q"]["kernel"]
    means = {name: (float(x.min()), float(x.max())) for name, x in found.items()}
    assert means == {
        "classifier": (-1.0, -1.0), "block_2": (-1.0, -1.0), "block_1": (-0.5, -0.5),
        "block_0": (-0.25, -0.25), "embed": (-0.125, -0.125), "positions": (-0.125, -0.125),
    }  # fmt: skip


def test_layer_decay_by_pattern_and_beside_weight_decay():
    params = bert_shapes()
    common = {
        "kind": "sgd",
        "momentum": 0.0,
        "learning_rate": 1.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "clip_norm": 0.0,
    }
    sections = {
        "classifier": optim.Config(**common, weight_decay=0.0),
        ".": optim.Config(**common, weight_decay=0.5, layer_decay=0.5),
    }
    tx, _ = optim.build(sections, 10, params)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    updates, _ = tx.update(ones, tx.init(ones), ones)
    kernel = updates["stack"]["block_0"]["mlp"]["in"]["kernel"]
    np.testing.assert_allclose(kernel, -(1 + 0.5) * 0.25)
    np.testing.assert_allclose(updates["stack"]["block_0"]["mlp"]["in"]["bias"], -0.25)
    np.testing.assert_allclose(updates["classifier"]["kernel"], -1.0)
    with pytest.raises(ValueError, match=r"optim.layer_decay=0.0 must be in \(0, 1\]"):
        optim.Config(layer_decay=0.0)
