"""Schedules by hand, which leaf goes where, and Muon against optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.train import optim


def tree(stacked: bool, seed: int = 0):
    """Parameters of a 2-layer GPT; the same values in both layouts."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def layer():
        return {
            "attn": {
                "q": {"kernel": normal(8, 8), "bias": normal(8)},
                "o": {"kernel": normal(8, 8)},
            },
            "mlp": {"up": {"kernel": normal(8, 16)}, "down": {"kernel": normal(16, 8)}},
            "norm1": {"scale": normal(8)},
        }

    layers = [layer(), layer()]
    rest = {
        "embed": {"embedding": normal(11, 8)},
        "positions": {"embedding": normal(4, 8)},
        "final_norm": {"scale": normal(8)},
        "head": {"kernel": normal(8, 11)},
    }
    if stacked:
        return {**rest, "blocks": jax.tree.map(lambda *xs: np.stack(xs), *layers)}
    return {**rest, **{f"block_{i}": layer for i, layer in enumerate(layers)}}


def stack(params):
    layers = [params[f"block_{i}"] for i in range(2)]
    rest = {k: v for k, v in params.items() if not k.startswith("block_")}
    return {**rest, "blocks": jax.tree.map(lambda *xs: np.stack(xs), *layers)}


def updates(config, params, grads, steps=3, num_steps=10):
    return run(optim.build(config, num_steps, params)[0], params, grads, steps)


def run(tx, params, grads, steps):
    @jax.jit
    def step(params, state):
        out, state = tx.update(grads, state, params)
        return optax.apply_updates(params, out), state

    state = jax.jit(tx.init)(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def assert_close(a, b, tol):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    "fields, expected",
    [  # peak 2, 8 steps; each expected value is worked out by hand
        (dict(schedule="constant", warmup_steps=4), {0: 0.5, 1: 1.0, 3: 2.0, 4: 2.0, 7: 2.0}),
        (dict(schedule="constant", warmup_steps=0), {0: 2.0, 7: 2.0}),
        # p = 0, 1/2, 1: factors 1, 0.1 + 0.9 / 2 = 0.55, 0.1
        (
            dict(schedule="cosine", warmup_steps=0, min_lr_ratio=0.1),
            {0: 2.0, 4: 1.1, 8: 0.2, 99: 0.2},
        ),
        # p = (6 - 4) / (8 - 4) = 1/2
        (
            dict(schedule="cosine", warmup_steps=4, min_lr_ratio=0.0),
            {1: 1.0, 3: 2.0, 4: 2.0, 6: 1.0},
        ),
        (dict(schedule="linear", warmup_steps=0, min_lr_ratio=0.5), {0: 2.0, 2: 1.75, 8: 1.0}),
        # decays over the last 4 of 8 steps
        (
            dict(schedule="wsd", warmup_steps=2, decay_fraction=0.5, min_lr_ratio=0.0),
            {0: 1.0, 1: 2.0, 4: 2.0, 5: 1.5, 7: 0.5, 8: 0.0},
        ),
        # 2 * sqrt(4 / (s + 1))
        (dict(schedule="inverse_sqrt", warmup_steps=4), {0: 0.5, 3: 2.0, 15: 1.0, 63: 0.5}),
        (dict(schedule="inverse_sqrt", warmup_steps=0), {0: 2.0, 3: 1.0}),
    ],
)
def test_schedule_values(fields, expected):
    config = optim.Config(learning_rate=2.0, **fields)
    _, schedule = optim.build(config, 8, tree(True))
    for step, value in expected.items():
        np.testing.assert_allclose(schedule(step), value, rtol=1e-6, atol=1e-7, err_msg=f"{step}")
        assert jax.jit(schedule)(jnp.int32(step)).dtype == jnp.float32


def test_warmup_longer_than_the_run_rises_to_its_end():
    _, schedule = optim.build(optim.Config(learning_rate=1.0, warmup_steps=100), 2, tree(True))
    np.testing.assert_allclose([schedule(0), schedule(1)], [0.01, 0.02], rtol=1e-6)


MUON_LAYER = {
    "attn": {"q": {"kernel": "muon", "bias": "adam"}, "o": {"kernel": "muon"}},
    "mlp": {"up": {"kernel": "muon"}, "down": {"kernel": "muon"}},
    "norm1": {"scale": "adam"},
}
MUON_REST = {
    "embed": {"embedding": "adam"},
    "positions": {"embedding": "adam"},
    "final_norm": {"scale": "adam"},
    "head": {"kernel": "adam"},
}
DECAY_LAYER = {
    "attn": {"q": {"kernel": True, "bias": False}, "o": {"kernel": True}},
    "mlp": {"up": {"kernel": True}, "down": {"kernel": True}},
    "norm1": {"scale": False},
}
DECAY_REST = {
    "embed": {"embedding": True},
    "positions": {"embedding": True},
    "final_norm": {"scale": False},
    "head": {"kernel": True},
}


def test_which_leaf_goes_where():
    assert optim.muon_labels(tree(True)) == {**MUON_REST, "blocks": MUON_LAYER}
    unrolled = {**MUON_REST, "block_0": MUON_LAYER, "block_1": MUON_LAYER}
    assert optim.muon_labels(tree(False)) == unrolled
    assert optim.decay_mask(tree(True)) == {**DECAY_REST, "blocks": DECAY_LAYER}
    unrolled = {**DECAY_REST, "block_0": DECAY_LAYER, "block_1": DECAY_LAYER}
    assert optim.decay_mask(tree(False)) == unrolled


def test_a_stacked_vector_named_kernel_is_no_matrix():
    params = {
        "blocks": {"gate": {"kernel": jnp.zeros((2, 8))}},
        "conv": {"kernel": jnp.zeros((3, 8, 8))},
    }
    assert jax.tree.leaves(optim.muon_labels(params)) == ["adam", "adam"]
    assert jax.tree.leaves(optim.decay_mask(params)) == [False, True]


@pytest.mark.parametrize("consistent_rms", [0.0, 0.2])
def test_muon_equals_optax(consistent_rms):
    params, grads = tree(False), tree(False, seed=1)
    config = optim.Config(
        kind="muon",
        learning_rate=0.02,
        schedule="constant",
        warmup_steps=0,
        clip_norm=0.0,
        weight_decay=0.0,
        consistent_rms=consistent_rms,
    )
    axes = optax.contrib.MuonDimensionNumbers(0, 1)
    numbers = jax.tree.map(
        lambda label: axes if label == "muon" else None, optim.muon_labels(params)
    )
    reference = optax.contrib.muon(
        0.02, muon_weight_dimension_numbers=numbers, consistent_rms=consistent_rms or None
    )
    expected = run(reference, params, grads, 3)
    got = updates(config, params, grads)
    for name in ("block_0", "block_1"):
        for part in ("attn", "mlp"):
            kernels = jax.tree.map(lambda x: x if x.ndim == 2 else None, (got, expected))
            assert_close(kernels[0][name][part], kernels[1][name][part], 1e-5)


@pytest.mark.parametrize("kind", optim.KINDS)
def test_stacked_layers_are_updated_as_unrolled_ones(kind):
    config = optim.Config(kind=kind, warmup_steps=0, weight_decay=0.1)
    params, grads = tree(False), tree(False, seed=1)
    if kind == "adafactor":  # its RMS is of a leaf, so of all layers together: only finite here
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(updates(config, params, grads)))
        return
    assert_close(
        stack(updates(config, params, grads)), updates(config, stack(params), stack(grads)), 1e-5
    )


@pytest.mark.parametrize("kind", optim.KINDS)
def test_first_update_by_hand(kind):
    """With a zero gradient only the decay is left: x (1 - lr * decay), for matrices only."""
    params = tree(True)
    zeros = jax.tree.map(jnp.zeros_like, params)
    config = optim.Config(
        kind=kind,
        learning_rate=0.5,
        adam_learning_rate=0.25,
        weight_decay=0.1,
        schedule="constant",
        warmup_steps=0,
    )
    got = updates(config, params, zeros, steps=1)
    factor = {"muon": {"muon": 0.95, "adam": 0.975}}.get(kind, {"muon": 0.95, "adam": 0.95})
    expected = jax.tree.map(
        lambda x, label, decays: x * (factor[label] if decays else 1.0),
        params,
        optim.muon_labels(params),
        optim.decay_mask(params),
    )
    assert_close(got, expected, 1e-6)


@pytest.mark.parametrize("kind", optim.KINDS)
def test_every_kind_minimises_a_quadratic(kind):
    whole = tree(True, seed=2)
    target = {"embed": whole["embed"], "blocks": {"mlp": whole["blocks"]["mlp"]}}
    params = jax.tree.map(lambda x: x + 1.0, target)
    config = optim.Config(
        kind=kind, learning_rate=0.1, adam_learning_rate=0.1, weight_decay=0.0, warmup_steps=0
    )
    tx, _ = optim.build(config, 60, params)

    def loss(p):
        return sum(
            jnp.sum((x - y) ** 2)
            for x, y in zip(jax.tree.leaves(p), jax.tree.leaves(target), strict=True)
        )

    @jax.jit
    def step(params, state):
        out, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, out), state

    state, first = jax.jit(tx.init)(params), loss(params)
    for _ in range(60):
        params, state = step(params, state)
    assert loss(params) < 0.5 * first


def test_clipping_is_over_everything_before_the_split():
    params = {"a": {"kernel": jnp.zeros((1, 1))}, "b": {"kernel": jnp.zeros((1, 1))}}
    grads = {"a": {"kernel": jnp.full((1, 1), 3.0)}, "b": {"kernel": jnp.full((1, 1), 4.0)}}
    sgd = dict(kind="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", warmup_steps=0)
    config = {
        "^a/": optim.Config(learning_rate=1.0, **sgd),
        "kernel": optim.Config(learning_rate=10.0, **sgd),  # first match wins: not for a
    }
    got = updates(config, params, grads, steps=1)  # norm 5 -> 1
    np.testing.assert_allclose(got["a"]["kernel"], [[-0.6]], rtol=1e-6)
    np.testing.assert_allclose(got["b"]["kernel"], [[-8.0]], rtol=1e-6)


def test_pattern_map_errors():
    params = tree(True)
    with pytest.raises(ValueError, match="matches the parameter 'blocks/attn/o/kernel'"):
        optim.build({"embed|head|bias|scale": optim.Config()}, 10, params)
    with pytest.raises(ValueError, match=r"the patterns \['nothing'\] take no parameter"):
        optim.build({".": optim.Config(), "nothing": optim.Config()}, 10, params)
    with pytest.raises(ValueError, match="clip_norm"):
        optim.build({"blocks": optim.Config(), ".": optim.Config(clip_norm=2.0)}, 10, params)
    with pytest.raises(ValueError, match="regular expression"):
        optim.build({"(": optim.Config()}, 10, params)
    with pytest.raises(ValueError, match="num_steps=0"):
        optim.build(optim.Config(), 0, params)


@pytest.mark.parametrize(
    "field, value",
    [
        ("kind", "adam"),
        ("schedule", "cosin"),
        ("learning_rate", 0.0),
        ("adam_learning_rate", float("nan")),
        ("warmup_steps", -1),
        ("decay_fraction", 0.0),
        ("min_lr_ratio", 1.1),
        ("b2", 1.0),
        ("momentum", -0.1),
        ("clip_norm", -1.0),
        ("weight_decay", float("inf")),
        ("ns_steps", 0),
    ],
)
def test_config_errors_name_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"optim\.{field}={value!r} must be"):
        optim.Config(**{field: value})


@pytest.mark.parametrize("stacked", [True, False])
def test_muon_sharded_equals_one_device(stacked):
    params, grads = tree(stacked), tree(stacked, seed=1)
    config = optim.Config(kind="muon", learning_rate=0.02, warmup_steps=0)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(8), ("fsdp",))

    def shard(x):
        spec = [None] * x.ndim
        for axis in reversed(range(x.ndim)):
            if x.shape[axis] % 8 == 0:
                spec[axis] = "fsdp"
                break
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    sharded = jax.tree.map(shard, params)
    tx, _ = optim.build(config, 10, params)
    state = jax.jit(tx.init)(sharded)
    out, state = jax.jit(tx.update)(jax.tree.map(shard, grads), state, sharded)
    expected, _ = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params)
    assert_close(out, expected, 1e-5)
