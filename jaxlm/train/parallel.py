"""Where arrays live: one mesh, one table from logical axes to mesh axes, and host batches put together globally."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.core.types import Batch, PyTree

AXES = ("data", "fsdp", "expert", "tensor")
SPLIT_BATCH = ("data", "fsdp", "expert")
"""Mesh axes that split a batch's rows; experts are split over the last of them too (layers/moe.py)."""

RULES = (
    ("batch", SPLIT_BATCH),
    ("length", None),
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("expert", "expert"),
    ("norm", None),
    ("head_dim", None),
    ("layers", None),
)
"""Logical axis -> mesh axis. A parameter's logical axes stand in the layer that makes it."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Devices along each mesh axis; one of them may be -1, the rest of the devices."""

    data: int = -1  # batch split, parameters copied
    fsdp: int = 1  # batch split, parameters and optimizer split too
    expert: int = 1  # batch split, experts split too
    tensor: int = 1  # heads, MLP and vocabulary split


def make_mesh(config: Config) -> Mesh:
    """A mesh over all devices.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    sizes = [getattr(config, axis) for axis in AXES]
    count = jax.device_count()
    shown = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"{shown}: each must be at least 1, and one of them may be -1 (the rest)")
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if int(np.prod(sizes)) != count:
        raise ValueError(f"{shown} do not multiply to the {count} devices of this machine")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def one_device() -> contextlib.AbstractContextManager:
    """Where all is made on the first device, inside of a run's mesh too."""
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.set_mesh(
        jax.make_mesh((1,) * len(AXES), AXES, devices=jax.local_devices()[:1], axis_types=kinds)
    )


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in SPLIT_BATCH)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the axes that split a batch."""
    return NamedSharding(mesh, PartitionSpec(SPLIT_BATCH))


def state_shardings(abstract_state: PyTree, mesh: Mesh) -> PyTree:
    """A sharding for each leaf of a TrainState made of `nn.Partitioned` boxes and plain shapes.

    Parameters follow the table, those that do not train and what is carried too. A leaf of optimizer or EMA follows the parameter whose path
    its own path ends with, if it has that parameter's shape; what is left is copied to every device.

    Raises:
      ValueError: a mesh axis does not divide an axis of a parameter.
    """
    by_path = _specs(abstract_state.params, mesh)
    named = _specs({"frozen": abstract_state.frozen, "vars": abstract_state.vars}, mesh)

    def sharding(path: Any, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        names = _names(path)
        if names in named:
            return NamedSharding(mesh, named[names][1])
        for start in range(len(names)):
            shape, spec = by_path.get(names[start:], (None, None))
            if shape == leaf.shape:
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, nn.unbox(abstract_state))


def _specs(boxed: PyTree, mesh: Mesh) -> dict[tuple[str, ...], tuple[tuple[int, ...], Any]]:
    """Shape and place of each parameter, by the names on the way to it."""
    specs = nn.logical_to_mesh(nn.get_partition_spec(boxed), RULES)
    found = {
        _names(path): (shape.shape, spec)
        for (path, shape), spec in zip(
            jax.tree_util.tree_leaves_with_path(nn.unbox(boxed)),
            jax.tree.leaves(specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)),
            strict=True,
        )
    }
    for path, (shape, spec) in found.items():
        _check_divides("/".join(path), shape, spec, mesh)
    return found


def _names(path: Any) -> tuple[str, ...]:
    return tuple(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def _check_divides(name: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
    for size, axes in zip(shape, spec, strict=False):
        for axis in (axes,) if isinstance(axes, str) else axes or ():
            if size % mesh.shape[axis]:
                raise ValueError(
                    f"mesh.{axis}={mesh.shape[axis]} does not divide {size}, an axis of parameter {name} "
                    f"{shape}: choose model sizes that are multiples of it, or a smaller mesh.{axis}"
                )


def check_batch(batch_size: int, micro_batch_size: int, mesh: Mesh) -> None:
    """A batch is a whole number of micro-batches, each a whole number of shards.

    Raises:
      ValueError: it is not.
    """
    shards = batch_shards(mesh)
    if micro_batch_size < 1 or batch_size % micro_batch_size:
        raise ValueError(
            f"batch_size={batch_size} must be a multiple of micro_batch_size={micro_batch_size}"
        )
    if micro_batch_size % shards:
        raise ValueError(
            f"micro_batch_size={micro_batch_size} must be a multiple of "
            f"{' * '.join(f'mesh.{axis}' for axis in SPLIT_BATCH)} = {shards}"
        )


def check_model(config: Any, mesh: Mesh) -> None:
    """A model's key-value heads and experts are split evenly; a model without a config of ours is not looked into.

    Raises:
      ValueError: they are not.
    """
    heads = getattr(config, "kv_heads", 0)
    if heads % mesh.shape["tensor"]:
        raise ValueError(
            f"mesh.tensor={mesh.shape['tensor']} does not divide the model's {heads} key-value heads"
        )
    experts, devices = getattr(config, "num_experts", 0), mesh.shape["expert"]
    if devices > 1 and not experts:
        raise ValueError(
            f"mesh.expert={devices} needs a model with experts: model.num_experts is 0"
        )
    if experts % devices:
        raise ValueError(f"mesh.expert={devices} does not divide model.num_experts={experts}")


def placer(mesh: Mesh) -> Callable[[Batch], dict[str, jax.Array]]:
    """A function that puts this process's rows of a batch onto the devices, as global arrays."""
    sharding = batch_sharding(mesh)

    def place(batch: Batch) -> dict[str, jax.Array]:
        if jax.process_count() == 1:
            return jax.device_put(dict(batch), sharding)
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }

    return place


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def whole_placer(mesh: Mesh) -> Callable[[Batch], dict[str, jax.Array]]:
    """Like `placer`, for batches that every process holds whole, as in evaluation."""
    sharding = batch_sharding(mesh)

    def place(batch: Batch) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
            for name, rows in batch.items()
        }

    return place


def initialize_distributed() -> None:
    """Join the other processes of a cluster when the environment names one (JAX or Slurm); else do nothing.

    Raises:
      ValueError: Slurm started several tasks, and JAX came up with fewer processes.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
    elif tasks > 1 and "SLURM_PROCID" in os.environ:
        jax.distributed.initialize()
        if jax.process_count() != tasks:
            raise ValueError(
                f"Slurm started {tasks} tasks, JAX sees {jax.process_count()} processes"
            )
