"""Mixture of experts: a router sends each token through a few of many MLPs, in place of a block's one.

Not for the loss that keeps experts balanced (objectives/token_nll.py), nor for products by group (grouped.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxlm.core.types import Array
from jaxlm.layers import grouped
from jaxlm.layers.linear import Initializer, Linear, named
from jaxlm.layers.mlp import ACTIVATIONS, GATED
from jaxlm.layers.moe_config import EXPERTS, ExpertsConfig

Kernels = dict[str, tuple[Array, Array | None]]
"""Of "in", "out" and, where it is gated, "gate": kernel [E, in, out], bias [E, out]."""


class MoE(nn.Module):
    """The sum of a token's k experts, each by its weight, and of experts that all tokens share.

    Weights are the router's softmax over all experts; for k > 1 divided by the sum of the chosen k (Mixtral,
    arXiv:2401.04088, section 2.1: the softmax of the k largest logits), for k = 1 as they are (Switch, arXiv:2101.03961,
    equation 2), since divided they would be 1 and teach the router nothing. The router is float32 (Switch, section 2.4).
    Shared experts have weight 1 (DeepSeekMoE, arXiv:2401.06066, equation 9) and are one MLP of their joint width.

    Dropless (MegaBlocks, arXiv:2211.15841), or in training with `capacity_factor`: an expert takes from each row the first
    ceil(factor k T / E) choices of T tokens, token by token, and what is beyond goes past the experts. Taken by row and
    not by batch (GShard, arXiv:2006.16668, has groups too), it depends neither on micro-batches nor on devices, and
    on earlier tokens only. Evaluation and decoding drop nothing. Filling is not routed and not counted where segment
    ids, or in decoding lengths, name it.

    Gives the sum, and what the router reports of this batch's real tokens: "router/load_balance", E sum_i f_i P_i with f
    the shares of choices and P the mean probabilities (Switch, equation 4; 1 when even, for every k);
    "router/z", the mean squared log of the softmax's sum (ST-MoE, arXiv:2202.08906, equation 5); and for people:
    "router/max_load", the largest share of choices times E; "router/entropy" of a token's probabilities, nats;
    "router/dropped", the share of choices that no expert took.
    """

    config: ExpertsConfig
    train: bool = False

    @nn.compact
    def __call__(
        self, x_BTD: Array, real_BT: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        cfg = self.config
        kernel_init, _, out_init = cfg.initializers()
        if real_BT is None:
            real_BT = jnp.ones(x_BTD.shape[:2], bool)
        router = Linear(cfg.num_experts, ("embed", None), kernel_init, name="router")
        with jax.default_matmul_precision("float32"):
            logits_BTE = router(x_BTD.astype(jnp.float32))
        routes = route(logits_BTE, real_BT, cfg.experts_per_token)
        capacity = None
        if self.train and cfg.capacity_factor:
            share = cfg.experts_per_token * x_BTD.shape[1] / cfg.num_experts
            capacity = math.ceil(cfg.capacity_factor * share)
            routes = within_capacity(routes, cfg.num_experts, capacity)
        experts = Experts(cfg, kernel_init, out_init, name=EXPERTS)
        y_BTD = experts(x_BTD.astype(cfg.compute_dtype), routes, capacity)
        if cfg.num_shared_experts:
            width = cfg.num_shared_experts * cfg.expert_width
            y_BTD = y_BTD + cfg.make_mlp("shared", width)(x_BTD)
        return y_BTD, statistics(logits_BTE, real_BT, routes)


class Routes(NamedTuple):
    """Where each token goes."""

    experts_BTK: Array  # int32, the chosen ones
    weights_BTK: Array  # float32; 0 where the expert does not take the token
    taken_BTK: Array  # bool: whether it does


def route(logits_BTE: Array, real_BT: Array, num_chosen: int) -> Routes:
    """The `num_chosen` most probable experts of every real token."""
    probs_BTK, experts_BTK = jax.lax.top_k(jax.nn.softmax(logits_BTE), num_chosen)
    if num_chosen > 1:
        probs_BTK = probs_BTK / jnp.sum(probs_BTK, axis=-1, keepdims=True)
    taken_BTK = jnp.broadcast_to(real_BT[..., None], experts_BTK.shape)
    return Routes(experts_BTK, jnp.where(taken_BTK, probs_BTK, 0.0), taken_BTK)


def within_capacity(routes: Routes, num_experts: int, capacity: int) -> Routes:
    """The same, but an expert takes a row's first `capacity` choices of it only."""
    batch, length, num_chosen = routes.experts_BTK.shape
    chosen_BTKE = jax.nn.one_hot(routes.experts_BTK, num_experts, dtype=jnp.int32)
    asked_BTKE = chosen_BTKE * routes.taken_BTK[..., None]
    asked_BJE = asked_BTKE.reshape(batch, length * num_chosen, num_experts)
    rank_BJ = jnp.sum((jnp.cumsum(asked_BJE, axis=1) - 1) * asked_BJE, axis=-1)
    taken_BTK = routes.taken_BTK & (rank_BJ < capacity).reshape(batch, length, num_chosen)
    weights_BTK = jnp.where(taken_BTK, routes.weights_BTK, 0.0)
    return Routes(routes.experts_BTK, weights_BTK, taken_BTK)


def statistics(logits_BTE: Array, real_BT: Array, routes: Routes) -> dict[str, Array]:
    """What `MoE` reports; 0 of a batch that is all filling."""
    num_experts, num_chosen = logits_BTE.shape[-1], routes.experts_BTK.shape[-1]
    count = jnp.maximum(jnp.sum(real_BT), 1).astype(jnp.float32)

    def mean(values: Array) -> Array:
        """Over real tokens."""
        real = real_BT.reshape(real_BT.shape + (1,) * (values.ndim - 2))
        return jnp.sum(jnp.where(real, values, 0.0), axis=(0, 1)) / count

    log_z_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    log_probs_BTE = logits_BTE - log_z_BT[..., None]
    probs_BTE = jnp.exp(log_probs_BTE)
    chosen_BTE = jnp.sum(jax.nn.one_hot(routes.experts_BTK, num_experts), axis=2)
    shares_E = mean(chosen_BTE) / num_chosen
    passed_BT = jnp.mean(1.0 - routes.taken_BTK.astype(jnp.float32), axis=-1)
    return {
        "router/load_balance": num_experts * jnp.sum(shares_E * mean(probs_BTE)),
        "router/z": mean(jnp.square(log_z_BT)),
        "router/max_load": num_experts * jnp.max(shares_E),
        "router/entropy": mean(-jnp.sum(probs_BTE * log_probs_BTE, axis=-1)),
        "router/dropped": mean(passed_BT),
    }


class Experts(nn.Module):
    """The weighted sum of each token's experts, [B, T, D]; every MLP kind, its kernels stacked, [E, in, out].

    Over a mesh, tokens of the devices that hold different experts are put together, each device runs its own experts, and
    every token's parts are summed on the device that it came from. That moves more than an exchange of single tokens
    would, but its shapes do not depend on the routes, so that nothing has to be dropped.
    """

    config: ExpertsConfig
    kernel_init: Initializer
    out_init: Initializer

    @nn.compact
    def __call__(self, x_BTD: Array, routes: Routes, capacity: int | None) -> Array:
        cfg, width, hidden = self.config, x_BTD.shape[-1], self.config.expert_width

        def make(name: str, rows: int, columns: int, axes: tuple[str, str], init: Initializer):
            shape = (cfg.num_experts, rows, columns)
            return Kernel(shape, axes, init, cfg.bias, cfg.compute_dtype, name=name)()

        inward = width, hidden, ("embed", "mlp"), self.kernel_init
        kernels = {"in": make("in", *inward)}
        if cfg.mlp in GATED:
            kernels["gate"] = make("gate", *inward)
        kernel_out, bias_ED = make("out", hidden, width, ("mlp", "embed"), self.out_init)
        kernels["out"] = (kernel_out, None)
        y_BTD = _on_mesh(cfg, capacity, x_BTD, routes, kernels)
        if bias_ED is not None:
            chosen_BTKE = jax.nn.one_hot(routes.experts_BTK, cfg.num_experts)
            weights_BTE = jnp.einsum("BTK,BTKE->BTE", routes.weights_BTK, chosen_BTKE)
            y_BTD = y_BTD + jnp.matmul(weights_BTE.astype(y_BTD.dtype), bias_ED)
        return y_BTD


class Kernel(nn.Module):
    """A matrix and, if asked, a bias for each expert, each matrix initialised as if it were alone."""

    shape: tuple[int, int, int]
    axes: tuple[str, str]
    kernel_init: Initializer
    bias: bool
    dtype: str

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
            one = lambda key: self.kernel_init(key, shape[1:], dtype)  # noqa: E731
            return jax.vmap(one)(jax.random.split(key, shape[0]))

        kernel = self.param("kernel", named(init, "expert", *self.axes), self.shape)
        if not self.bias:
            return kernel.astype(self.dtype), None
        zeros = named(nn.initializers.zeros, "expert", self.axes[1])
        bias = self.param("bias", zeros, (self.shape[0], self.shape[2]))
        return kernel.astype(self.dtype), bias.astype(self.dtype)


def _on_mesh(
    cfg: ExpertsConfig, capacity: int | None, x_BTD: Array, routes: Routes, kernels: Kernels
) -> Array:
    """`_mixed` where no more than one device computes, else each device's own part of it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _mixed(cfg, capacity, x_BTD, routes, kernels, 0)
    # One by one: of a single array no two axes could be split over the same devices.
    expert, mlp, batch = (
        nn.logical_to_mesh_axes((name,))[0] for name in ("expert", "mlp", "batch")
    )
    rows = (batch,) if isinstance(batch, str) else batch or ()
    if x_BTD.shape[0] % math.prod(mesh.shape[axis] for axis in rows):
        rows = ()  # a few rows that do not divide, of texts that are written: every device has them all
    spread = expert in rows

    def own(x_BTD: Array, routes: Routes, kernels: Kernels) -> Array:
        if spread:
            x_BTD, routes = (
                jax.lax.all_gather(tree, expert, axis=0, tiled=True) for tree in (x_BTD, routes)
            )
        first = 0 if expert is None else jax.lax.axis_index(expert) * len(kernels["in"][0])
        y_BTD = _mixed(cfg, capacity, x_BTD, routes, kernels, first)
        if mlp is not None:
            y_BTD = jax.lax.psum(y_BTD, mlp)
        if spread:
            return jax.lax.psum_scatter(y_BTD, expert, scatter_dimension=0, tiled=True)
        return y_BTD if expert is None else jax.lax.psum(y_BTD, expert)

    by_row = PartitionSpec(rows or None)
    inward, bias = PartitionSpec(expert, None, mlp), PartitionSpec(expert, mlp)
    specs = {name: (inward, None if b is None else bias) for name, (_, b) in kernels.items()}
    specs["out"] = (PartitionSpec(expert, mlp), None)
    return jax.shard_map(own, in_specs=(by_row, by_row, specs), out_specs=by_row, check_vma=False)(
        x_BTD, routes, kernels
    )


def _mixed(
    cfg: ExpertsConfig, capacity: int | None, x_BTD: Array, routes: Routes, kernels: Kernels, first
) -> Array:
    """The part of the weighted sum that is of the experts first, first + 1, ..., whose kernels are given."""
    batch, length, width = x_BTD.shape
    num_chosen, num_here = routes.experts_BTK.shape[-1], len(kernels["in"][0])
    num_choices = batch * length * num_chosen
    num_rows = num_choices
    if capacity is not None:
        num_rows = min(num_rows, num_here * batch * capacity)
    here_J = jnp.where(routes.taken_BTK, routes.experts_BTK - first, num_here).reshape(num_choices)
    order = sort_by_expert(here_J, num_here, num_rows)
    copies_JD = jnp.repeat(x_BTD.reshape(batch * length, width), num_chosen, axis=0)
    rows_RD = _take(copies_JD, order.choice_of_row_R)
    experts_R = _take(here_J, order.choice_of_row_R, num_here)

    def product(name: str, rows: Array) -> Array:
        kernel, bias = kernels[name]
        made = grouped.matmul(rows, kernel, order.sizes_E, cfg.expert_backend)
        if bias is not None:
            made = made + jnp.matmul(jax.nn.one_hot(experts_R, num_here, dtype=made.dtype), bias)
        return made

    activation = ACTIVATIONS[cfg.mlp]
    if "gate" in kernels:
        hidden_RF = activation(product("gate", rows_RD)) * product("in", rows_RD)
    else:
        hidden_RF = activation(product("in", rows_RD))
    made_JD = _take(product("out", hidden_RF), order.row_of_choice_J)
    made_BTKD = made_JD.reshape(batch, length, num_chosen, width)
    return jnp.einsum("BTK,BTKD->BTD", routes.weights_BTK.astype(made_JD.dtype), made_BTKD)


class Order(NamedTuple):
    """Choices sorted by expert, and the way back. What has no counterpart points behind the end, each elsewhere."""

    choice_of_row_R: Array
    row_of_choice_J: Array
    sizes_E: Array  # rows of each expert


def sort_by_expert(experts_J: Array, num_experts: int, num_rows: int) -> Order:
    """Rows in the order of experts, and of choices for the same one.

    Args:
      experts_J: int32; outside of 0 .. num_experts - 1 for a choice that gets no row.
      num_rows: at least as many as the choices that get one.
    """
    num_choices = len(experts_J)
    inside_J = (experts_J >= 0) & (experts_J < num_experts)
    sizes_E = jnp.sum(jax.nn.one_hot(experts_J, num_experts, dtype=jnp.int32), axis=0)
    sorted_J = jnp.argsort(jnp.where(inside_J, experts_J, num_experts), stable=True)
    places_J = jnp.arange(num_choices, dtype=jnp.int32)
    rank_J = jnp.zeros_like(places_J).at[sorted_J].set(places_J, unique_indices=True)
    rows_R = places_J[:num_rows]
    filled_R = rows_R < jnp.sum(sizes_E)
    return Order(
        choice_of_row_R=jnp.where(filled_R, sorted_J[:num_rows], num_choices + rows_R),
        row_of_choice_J=jnp.where(inside_J, rank_J, num_rows + places_J),
        sizes_E=sizes_E,
    )


def _take(values: Array, places: Array, nothing: int = 0) -> Array:
    """Rows of `values`, `nothing` behind its end. No place comes twice, so that the gradient is a take too."""
    return values.at[places].get(mode="fill", fill_value=nothing, unique_indices=True)
