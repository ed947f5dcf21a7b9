"""Mixtures of experts against a loop over experts, against the dense block, and by hand."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.layers import grouped
from jaxlm.layers.mlp import ACTIVATIONS, GATED
from jaxlm.layers.moe import MoE, route, sort_by_expert, statistics, within_capacity
from jaxlm.models.gpt import GPT, GPTConfig

D, F, E, B, T = 8, 12, 4, 2, 6
QUICK = {"xla_backend_optimization_level": 0}  # compiled sooner
quick = functools.partial(jax.jit, compiler_options=QUICK)
CONFIG = GPTConfig(
    vocab_size=50,
    num_layers=1,
    d_model=D,
    num_heads=2,
    max_len=24,
    bias=False,
    num_experts=E,
    expert_d_ff=F,
)
CONFIGS = {
    "mixtral": CONFIG,
    "switch": dataclasses.replace(CONFIG, mlp="relu", experts_per_token=1),
    "all": dataclasses.replace(
        CONFIG, mlp="swiglu", num_shared_experts=2, bias=True, experts_per_token=3
    ),
}


def draw(config, seed=0):
    """A layer, weights large enough that every token prefers some experts, and tokens."""
    layer = MoE(config)
    x_BTD = jax.random.normal(jax.random.key(seed), (B, T, D))
    made = nn.unbox(jax.eval_shape(layer.init, jax.random.key(1), x_BTD))["params"]
    normal = np.random.default_rng(seed).normal
    return jax.tree.map(lambda a: 0.7 * normal(size=a.shape).astype(np.float32), made), x_BTD


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def run(layer, params, *inputs):
    return layer.apply({"params": params}, *inputs)


def mlp(params, x, kind):
    """One MLP, written out."""

    def linear(name, x):
        return x @ params[name]["kernel"] + params[name].get("bias", jnp.zeros(1))[None, None]

    hidden = linear("in", x)
    if kind in GATED:
        hidden = ACTIVATIONS[kind](linear("gate", x)) * hidden
    else:
        hidden = ACTIVATIONS[kind](hidden)
    return linear("out", hidden)


def loop(config, params, x_BTD):
    """Every token through every expert, one after the other, weighed by 0 where it was not chosen."""
    probs_BTE = jax.nn.softmax(x_BTD @ params["router"]["kernel"])
    least_BT = jnp.sort(probs_BTE)[..., -config.experts_per_token]
    weights_BTE = jnp.where(probs_BTE >= least_BT[..., None], probs_BTE, 0.0)
    if config.experts_per_token > 1:
        weights_BTE = weights_BTE / weights_BTE.sum(-1, keepdims=True)
    y_BTD = jnp.zeros_like(x_BTD)
    for e in range(config.num_experts):
        own = jax.tree.map(lambda leaf, e=e: leaf[e], params["experts"])
        y_BTD = y_BTD + weights_BTE[..., e : e + 1] * mlp(own, x_BTD, config.mlp)
    return y_BTD + mlp(params["shared"], x_BTD, config.mlp) if "shared" in params else y_BTD


def compare(left, right, tolerance=1e-5):
    """Tolerance of numbers about 1."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right
    )


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("all", "blocked"),
        pytest.param("mixtral", "blocked", marks=SLOW),
        pytest.param("switch", "blocked", marks=SLOW),
        pytest.param("switch", "ragged", marks=SLOW),
        pytest.param("all", "ragged", marks=SLOW),
    ],
)
def test_outputs_and_gradients_are_those_of_a_loop_over_experts(name, backend):
    config = dataclasses.replace(CONFIGS[name], expert_backend=backend)
    params, x_BTD = draw(config)
    probe = jax.random.normal(jax.random.key(5), x_BTD.shape)

    def gradients(run):
        def total(params, x_BTD):
            y_BTD = run(params, x_BTD)
            return jnp.sum(y_BTD * probe), y_BTD

        return jax.grad(total, argnums=(0, 1), has_aux=True)

    @quick
    def both(params, x_BTD):
        layer = gradients(lambda params, x: MoE(config).apply({"params": params}, x)[0])
        return layer(params, x_BTD), gradients(functools.partial(loop, config))(params, x_BTD)

    compare(*both(params, x_BTD))


def test_one_expert_is_the_dense_block():
    """The same weights, with an axis for the expert in front."""
    dense = GPTConfig(num_layers=2, num_heads=2, d_model=D, d_ff=F, vocab_size=50, max_len=T)
    dense = dataclasses.replace(dense, mlp="geglu")
    one = dataclasses.replace(dense, num_experts=1, experts_per_token=1)
    tokens = jax.random.randint(jax.random.key(0), (B, T), 0, 50)
    made = nn.unbox(jax.eval_shape(GPT(one).init, jax.random.key(1), tokens))["params"]
    normal = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: 0.3 * normal(size=leaf.shape).astype(np.float32), made)
    stack = {
        name: {part: leaf for part, leaf in block.items() if part != "moe"}
        | {"mlp": jax.tree.map(lambda leaf: leaf[0], block["moe"]["experts"])}
        for name, block in params["stack"].items()
    }

    def score(config, params):
        output = GPT(config).apply({"params": params}, tokens)
        return output.logits(), output.aux

    both = quick(lambda left, right: (score(one, left), score(dense, right)))
    (logits, aux), (plain, nothing) = both(params, params | {"stack": stack})
    np.testing.assert_allclose(logits, plain, rtol=0, atol=1e-6)
    assert nothing == {} and aux["router/load_balance"].tolist() == [1.0, 1.0]
    assert aux["router/dropped"].tolist() == [0.0, 0.0] and aux["router/entropy"].tolist() == [0, 0]


def test_an_undecided_router_over_all_experts_is_their_mean():
    config = dataclasses.replace(CONFIG, experts_per_token=E)
    params, x_BTD = draw(config)
    params["router"]["kernel"] = np.zeros((D, E), np.float32)
    y_BTD, aux = run(MoE(config), params, x_BTD)
    own = jax.tree.map(np.asarray, params["experts"])
    each = [
        np.asarray(jax.nn.gelu(x_BTD @ own["in"]["kernel"][e])) @ own["out"]["kernel"][e]
        for e in range(E)
    ]
    np.testing.assert_allclose(y_BTD, sum(each) / E, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(aux["router/load_balance"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(aux["router/z"], np.log(E) ** 2, rtol=1e-6)
    np.testing.assert_allclose(aux["router/entropy"], np.log(E), rtol=1e-6)


# Four tokens and the logs of their probabilities of two experts; three prefer the first.
PREFERS = np.log(np.float32([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]]))
routed, limited = jax.jit(route, static_argnums=2), jax.jit(within_capacity, static_argnums=(1, 2))
reported = quick(statistics)


def test_weights_of_one_choice_are_raw_and_of_two_add_up_to_one():
    real = np.ones((1, 4), bool)
    one, two = routed(PREFERS, real, 1), routed(PREFERS, real, 2)
    np.testing.assert_allclose(one.weights_BTK[0, :, 0], [0.9, 0.8, 0.7, 0.6], rtol=1e-6)
    assert one.experts_BTK[0, :, 0].tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(two.weights_BTK[0, 2], [0.7, 0.3], rtol=1e-6)
    assert two.experts_BTK[0].tolist() == [[0, 1], [0, 1], [1, 0], [0, 1]]


def test_beyond_capacity_the_later_tokens_of_a_row_go_past_the_experts():
    """factor 1, 4 tokens, 2 experts: each takes 2, and the fourth token is the first one's third."""
    real = np.ones((1, 4), bool)
    kept = limited(routed(PREFERS, real, 1), 2, 2)
    assert kept.taken_BTK[0, :, 0].tolist() == [True, True, True, False]
    np.testing.assert_allclose(kept.weights_BTK[0, :, 0], [0.9, 0.8, 0.7, 0.0], rtol=1e-6)
    aux = reported(PREFERS, real, kept)
    assert float(aux["router/dropped"]) == 0.25
    both = limited(routed(PREFERS, real, 2), 2, 2)  # all tokens ask for both
    assert both.taken_BTK[0].tolist() == [
        [True, True],
        [True, True],
        [False, False],
        [False, False],
    ]
    filled = limited(routed(PREFERS, np.array([[False, True, True, True]]), 1), 2, 2)
    assert filled.taken_BTK[0, :, 0].tolist() == [False, True, True, True]


def test_balance_and_z_by_hand():
    """f = (3/4, 1/4) of four choices, P = (0.65, 0.35); 2 (0.75 0.65 + 0.25 0.35) = 1.15."""
    real = np.ones((1, 4), bool)
    aux = reported(PREFERS, real, routed(PREFERS, real, 1))
    np.testing.assert_allclose(aux["router/load_balance"], 1.15, rtol=1e-6)
    np.testing.assert_allclose(aux["router/max_load"], 1.5, rtol=1e-6)
    np.testing.assert_allclose(aux["router/z"], 0.0, atol=1e-12)  # logs of probabilities: Z is 1
    moved = reported(PREFERS + 2.0, real, routed(PREFERS, real, 1))
    np.testing.assert_allclose(moved["router/z"], 4.0, rtol=1e-6)
    # Without the third token: f = (1, 0), P = ((0.9 + 0.8 + 0.6) / 3, ...).
    real = np.array([[True, True, False, True]])
    aux = reported(PREFERS, real, routed(PREFERS, real, 1))
    np.testing.assert_allclose(aux["router/load_balance"], 2 * 2.3 / 3, rtol=1e-6)
    nothing = reported(PREFERS, np.zeros((1, 4), bool), routed(PREFERS, np.zeros((1, 4), bool), 1))
    assert all(float(value) == 0 for value in nothing.values())


def test_the_balance_loss_takes_probability_from_the_crowded_expert():
    real = np.ones((1, 4), bool)

    def balance(logits):
        return statistics(logits, real, route(logits, real, 1))["router/load_balance"]

    slope = quick(jax.grad(balance))(PREFERS)
    assert bool((slope[..., 0] > 0).all() and (slope[..., 1] < 0).all())


def test_filling_is_neither_routed_nor_counted():
    params, x_BTD = draw(CONFIG)
    real_BT = np.array([[True] * 4 + [False] * 2, [False] + [True] * 5])
    other = np.where(real_BT[..., None], x_BTD, 9.0)
    layer = MoE(CONFIG, train=True)
    y_BTD, aux = run(layer, params, x_BTD, real_BT)
    compare((y_BTD, aux), run(layer, params, other, real_BT), 1e-6)
    assert not np.asarray(y_BTD)[~real_BT].any()
    whole, whole_aux = run(layer, params, x_BTD, np.ones_like(real_BT))
    np.testing.assert_allclose(y_BTD[real_BT], whole[real_BT], rtol=1e-5, atol=1e-6)
    assert abs(float(aux["router/z"] - whole_aux["router/z"])) > 1e-3


def test_capacity_is_of_training_and_of_a_row_alone():
    config = dataclasses.replace(CONFIG, capacity_factor=0.5)
    params, x_BTD = draw(config)
    y_BTD, aux = run(MoE(config, train=True), params, x_BTD)
    assert float(aux["router/dropped"]) > 0.3
    other = np.concatenate([-x_BTD[:1], x_BTD[1:]])
    compare(run(MoE(config, train=True), params, other)[0][1:], y_BTD[1:], 1e-6)
    dropless, aux = run(MoE(config), params, x_BTD)
    compare(dropless, quick(functools.partial(loop, config))(params, x_BTD))
    assert float(aux["router/dropped"]) == 0


def test_nothing_is_dropped_where_all_choose_the_same():
    params, x_BTD = draw(CONFIG)
    params["router"]["kernel"] = np.zeros((D, E), np.float32)
    params["router"]["kernel"][0, 1:3] = 5.0, 9.0
    x_BTD = np.abs(x_BTD) + 0.5
    y_BTD, aux = run(MoE(CONFIG, train=True), params, x_BTD)
    compare(y_BTD, quick(functools.partial(loop, CONFIG))(params, x_BTD))
    assert float(aux["router/dropped"]) == 0 and float(aux["router/max_load"]) == E / 2


def test_choices_are_sorted_by_expert_and_back():
    order = sort_by_expert(jnp.array([2, 0, 7, 2, 0, -1]), 3, 5)
    assert order.choice_of_row_R.tolist() == [1, 4, 0, 3, 10]
    assert order.row_of_choice_J.tolist() == [2, 0, 7, 3, 1, 10]
    assert order.sizes_E.tolist() == [2, 0, 2]


@quick
def both_backends(x_RD, w_EDF, sizes_E, dy_RF):
    """Products and both gradients, by blocks and by XLA."""

    def run(backend):
        product = functools.partial(grouped.matmul, sizes_E=sizes_E, backend=backend)
        y_RF, back = jax.vjp(product, x_RD, w_EDF)
        return y_RF, *back(dy_RF)

    return run("blocked"), run("ragged")


@pytest.mark.parametrize("sizes", [[5, 0, 9, 3], [0, 0, 0, 1], [17, 0, 0, 0], [0, 0, 0, 0]])
def test_blocks_are_the_ragged_product(sizes):
    """Groups shorter and longer than a block of 8, empty ones, and rows behind all of them."""
    rng = np.random.default_rng(0)
    x_RD, w_EDF, dy_RF = (
        rng.normal(size=shape).astype(np.float32) for shape in ((17, 5), (4, 5, 3), (17, 3))
    )
    assert grouped.block_rows(17, 4) == 8
    used = np.arange(17) < sum(sizes)
    blocked, ragged = both_backends(x_RD, w_EDF, np.int32(sizes), dy_RF)
    for left, right in zip(blocked[:2], ragged[:2], strict=True):
        np.testing.assert_allclose(left[used], right[used], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(blocked[2], ragged[2], rtol=1e-6, atol=1e-6)
    by_hand = np.einsum("RD,RDF->RF", x_RD[used], w_EDF[np.repeat(np.arange(4), sizes)])
    np.testing.assert_allclose(blocked[0][used], by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "groups", "block"), [(4096, 8, 128), (2, 8, 2), (16, 8, 8), (10**6, 4, 256)]
)
def test_blocks_are_as_long_as_groups_allow(rows, groups, block):
    assert grouped.block_rows(rows, groups) == block


def test_a_requested_backend_runs_and_auto_says_why(monkeypatch):
    assert grouped.choose("ragged") == ("ragged", "requested")
    assert grouped.choose("auto")[0] == "blocked" and "CPU" in grouped.choose("auto")[1]
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert grouped.choose("auto") == ("ragged", "auto: XLA's own on tpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 0}, "model.expert_d_ff=12 needs model.num_experts"),
        ({"experts_per_token": 5}, "model.experts_per_token=5 must be at most model.num_experts=4"),
        ({"experts_per_token": 0}, "model.experts_per_token=0 must be at least 1"),
        ({"expert_d_ff": 0}, "model.expert_d_ff=0 must be at least 1"),
        ({"moe_every": 2}, "model.moe_every=2 must be at most model.num_layers=1"),
        ({"moe_every": 2, "num_layers": 2, "scan_layers": True}, "blocks that are all alike"),
        ({"capacity_factor": -1.0}, "model.capacity_factor=-1.0 must be at least 0"),
        ({"capacity_factor": float("nan")}, "model.capacity_factor=nan must be at least 0"),
        ({"expert_backend": "dense"}, "accepted are auto, ragged, blocked"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
