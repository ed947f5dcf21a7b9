"""From a config to the parts that a run is made of: data, model, objective, evaluators, mesh, optimizer, step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from jaxlm import config as configs
from jaxlm.core import partition
from jaxlm.core.types import Batch, Objective, PyTree, Step, Task, TaskInfo, TrainState
from jaxlm.eval import Evaluator, of_task
from jaxlm.eval.likelihood import check_probabilities
from jaxlm.eval.predict import check_writes
from jaxlm.train import initial, optim, others, parallel, plan
from jaxlm.train.steps import gradient

RESERVED_KEYS = ("id",)
"""Batch entries that only evaluators and people read."""


class Parts(NamedTuple):
    """What `loop.run` works with."""

    task: Task
    model: Any
    tuning: Any
    objective: Objective
    others: list[others.Other]
    evaluators: list[Evaluator]
    mesh: Mesh
    step: Step
    on_nonfinite: str
    abstract_state: TrainState  # shapes with their shardings
    micro_batch_size: int


def make_task(cfg: ConfigDict) -> Task:
    """The dataset, tokenised and ready."""
    return configs.implementation(cfg, "data")(initial.data_config(cfg))


def make_model(cfg: ConfigDict) -> Any:
    """The module that `model` names, as `tuning` trains it."""
    model = configs.implementation(cfg, "model")(configs.build(cfg, "model"))
    return configs.implementation(cfg, "tuning").model(configs.build(cfg, "tuning"), model)


def make_tuning(cfg: ConfigDict, params: PyTree) -> Any:
    """What says which of these parameters train."""
    return configs.implementation(cfg, "tuning")(configs.build(cfg, "tuning"), params)


def make_objective(
    cfg: ConfigDict, model: Any, batch: Batch, modules: Mapping[str, Any] = MappingProxyType({})
) -> Objective:
    """The loss that `objective` names; raises ValueError for a model or a batch that it is not for."""
    kind, config = configs.implementation(cfg, "objective"), configs.build(cfg, "objective")
    objective = kind(config, model, **modules)
    check_keys(batch, model, objective)
    return objective


def with_lengths(cfg: ConfigDict) -> ConfigDict:
    """A copy with the architecture of `init_from`'s model, in which `data.seq_len` 0 is the model's `max_len`.

    `data.num_streams` 0 is a stream for each row of a batch.

    Raises:
      ValueError: `init_from` leads to no model, or to one of another kind.
    """
    cfg = cfg.copy_and_resolve_references()
    if cfg.init_from:
        initial.take_architecture(cfg)
    if "seq_len" in cfg.data and not cfg.data.seq_len and "max_len" in cfg.model:
        cfg.data.seq_len = cfg.model.max_len
    if "num_streams" in cfg.data:
        cfg.data.num_streams = cfg.data.num_streams or cfg.batch_size
    return cfg


def fix_micro_batch(
    cfg: FrozenConfigDict,
    batch: dict[str, jax.ShapeDtypeStruct],
    recorded: ConfigDict | None = None,
) -> FrozenConfigDict:
    """`micro_batch_size` 0 replaced by that of the run to be resumed, else by what this device's memory holds."""
    if cfg.micro_batch_size:
        return cfg
    fixed = ConfigDict(cfg)
    if recorded is not None:
        fixed.micro_batch_size = recorded.micro_batch_size
        return FrozenConfigDict(fixed)
    model = make_model(cfg)
    # What does not fit has no shapes to be asked for.
    more = others.open_all(cfg, model)
    objective = make_objective(cfg, model, batch, others.modules(more))
    if objective.coupled:
        fixed.micro_batch_size = cfg.batch_size
        return FrozenConfigDict(fixed)
    mesh = parallel.make_mesh(configs.build(cfg, "mesh"))
    params = abstract_params(model, batch)
    tuning = make_tuning(cfg, params)
    trained, _ = split_shapes(tuning, params)
    lengths = plan.lengths_of(batch, model)
    held = others.shapes(more, batch, trained, tuning)
    fixed.micro_batch_size = plan.choose_micro_batch(
        cfg.batch_size, model, params, trained, sum(lengths), mesh, plan.work(cfg), held
    )
    return FrozenConfigDict(fixed)


def abstract_params(model: Any, batch: Batch) -> PyTree:
    """Shapes of a model's parameters; see `gradient.fresh`."""
    shapes = jax.eval_shape(lambda: gradient.fresh(model, jax.random.key(0), batch))
    return partition.unboxed(shapes)


def input_shapes(model: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """A smallest batch of what a model reads: its parameters depend on no lengths."""
    tokens = jax.ShapeDtypeStruct((1, 1), "int32")
    return dict.fromkeys(model.inputs, tokens) | dict(getattr(model, "input_shapes", {}))


def model_shapes(cfg: ConfigDict, model: Any = None) -> PyTree:
    """Shapes of all parameters of a config's model."""
    model = make_model(cfg) if model is None else model
    return abstract_params(model, input_shapes(model))


def assemble(cfg: FrozenConfigDict, task: Task, batch: dict[str, jax.ShapeDtypeStruct]) -> Parts:
    """Build everything from a resolved config and one global batch's shapes.

    Raises:
      ValueError: parts that do not fit together, before anything is compiled.
    """
    model = make_model(cfg)
    more = others.open_all(cfg, model)
    others.check_vocabularies(more, task)
    objective = make_objective(cfg, model, batch, others.modules(more))
    mesh = parallel.make_mesh(configs.build(cfg, "mesh"))
    micro_batch_size = cfg.micro_batch_size
    parallel.check_batch(cfg.batch_size, micro_batch_size, mesh)
    parallel.check_model(getattr(model, "config", None), mesh)
    params = abstract_params(model, batch)
    tuning = make_tuning(cfg, params)
    trained, _ = split_shapes(tuning, params)
    world = {"tokenizer": task.info.tokenizer, "mesh": mesh, "task": task}
    world |= {"optim": configs.build(cfg, "optim"), "num_steps": cfg.num_steps}
    builder = make_builder(cfg, model, objective, tuning, trained, world)
    step = builder.build()
    boxed = jax.eval_shape(step.init, jax.random.key(0), batch)
    boxed = boxed.replace(frozen=boxed.frozen | others.shapes(more, batch, boxed.params, tuning))
    # A wrong pairing fails here, in a second.
    jax.eval_shape(step.fn if step.compiled else builder.shapes, nn.unbox(boxed), batch)
    shardings = parallel.state_shardings(boxed, mesh)
    abstract = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        nn.unbox(boxed),
        shardings,
    )
    seq_len = plan.lengths_of(batch, model)[0]
    evaluators = make_evaluators(cfg, task, model, seq_len)
    on_nonfinite = getattr(builder.config, "on_nonfinite", "stop")
    return Parts(
        task, model, tuning, objective, more, evaluators, mesh, step, on_nonfinite, abstract,
        micro_batch_size,
    )  # fmt: skip


def make_builder(
    cfg: ConfigDict, model: Any, objective: Objective, tuning: Any, trained: PyTree, world: dict
) -> Any:
    """What builds the step that `step` names; of `world` it is given what it `needs`."""
    kind, config = configs.implementation(cfg, "step"), configs.build(cfg, "step")
    num_updates = cfg.num_steps * getattr(config, "num_updates", 1)
    tx, schedule = optim.build(configs.build(cfg, "optim"), num_updates, trained)
    tx = tuning.optimizer(tx, trained)
    parts = cfg.batch_size // cfg.micro_batch_size
    needed = {name: world[name] for name in getattr(kind, "needs", ())}
    return kind(config, model, objective, tx, schedule, parts, tuning, **needed)


def make_evaluators(cfg: Any, task: Task, model: Any, seq_len: int) -> list[Evaluator]:
    """What `evaluators` names; raises ValueError for data or a model that one of them does not score."""
    found = []
    for index, name in enumerate(cfg.evaluators):
        where = f"evaluators[{index}]"
        found.append(of_task.make(name, task.info, seq_len, cfg.objective.kind, where))
        if getattr(found[-1], "needs_probabilities", False):
            check_probabilities(model, f'{where}="{name}"')
        if hasattr(found[-1], "writes"):
            split = "val" if "val" in task.info.splits else "train"
            data = task.eval(split, 1)
            own = found[-1].own(data) if hasattr(found[-1], "own") else data
            check_writes(found[-1], model, next(iter(own)))
    return found


def global_shapes(rows: Batch, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a whole batch, from one process's rows of it."""
    return {
        name: jax.ShapeDtypeStruct((batch_size, *value.shape[1:]), value.dtype)
        for name, value in rows.items()
    }


def check_keys(batch: Batch, model: Any, objective: Objective) -> None:
    """Every entry of a batch is consumed, and every one that is needed is there.

    Raises:
      ValueError: neither model nor objective reads an entry, or one is missing.
    """
    needed = {*model.inputs, *objective.batch_keys}
    unread = set(batch) - needed - set(model.optional_inputs) - set(RESERVED_KEYS)
    if unread:
        raise ValueError(
            f"data.kind gives {sorted(unread)}, which neither the model ({type(model).__name__}) nor the objective "
            f"({type(objective).__name__}) reads: nothing is dropped in silence"
        )
    if needed - set(batch):
        raise ValueError(
            f"data.kind does not give {sorted(needed - set(batch))}, which model or objective needs"
        )


def check_targets(batch: Batch, info: TaskInfo) -> None:
    """Weighed targets of host rows are classes or ids that there are: any other scores as if it were one, in silence.

    Raises:
      ValueError: one that is negative or too large.
    """
    if not {"targets", "weights"} <= batch.keys() or batch["targets"].dtype.kind not in "iu":
        return
    size = len(info.labels) or (0 if info.num_outputs else info.vocab_size)
    found = batch["targets"][batch["weights"] > 0]
    if size and len(found) and not 0 <= found.min() <= found.max() < size:
        raise ValueError(
            f"data.kind gives targets from {found.min()} to {found.max()}: accepted are 0 to {size - 1}"
        )


def init_state(parts: Parts, seed: int, batch: dict[str, jax.ShapeDtypeStruct]) -> TrainState:
    """A fresh state, made where it will live."""
    abstract = parts.abstract_state
    base = {name: tree for name, tree in abstract.frozen.items() if name == "base"}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.replace(frozen=base))
    make = jax.jit(lambda key: nn.unbox(parts.step.init(key, batch)), out_shardings=shardings)
    return make(jax.random.key(seed))


def first_state(
    parts: Parts,
    cfg: FrozenConfigDict,
    batch: dict[str, jax.ShapeDtypeStruct],
    log: Callable[[str], None],
) -> TrainState:
    """The state that a run starts from: fresh, or with the weights of `init_from`, which is logged; and other models."""
    state = init_state(parts, cfg.seed, batch)
    if cfg.init_from:
        state, lines = initial.apply(state, cfg)
        for line in lines:
            log(line)
    base = state.frozen.get("base", {})
    begun = parts.tuning.begin(parts.model, state.params, base, jax.random.key(cfg.seed))
    if begun is not state.params:
        ema = jax.tree.map(jnp.copy, begun) if state.ema else state.ema
        state = state.replace(params=begun, ema=ema)
    frozen = dict(state.frozen)
    for other in parts.others:
        if other.source is None:
            frozen[other.name] = jax.tree.map(jnp.copy, parts.tuning.first(state.params))
        else:
            frozen[other.name] = other.weights(parts.abstract_state.frozen[other.name])
            log(f"{other.name:<10} {type(other.model).__name__} of {other.path}")
    return state.replace(frozen=frozen)


def saved(state: TrainState) -> TrainState:
    """What of a state a checkpoint holds: not what never changes and is read, or drawn, where it came from."""
    return state.replace(frozen={})


def evaluation_params(parts: Parts, state: TrainState) -> tuple[PyTree, str]:
    """The weights that scores, samples and exports use, and their name: EMA where it is on."""
    trained, name = (state.ema, "ema") if state.ema else (state.params, "raw")
    return whole(parts, state, trained), name


def whole(parts: Parts, state: TrainState, trained: PyTree) -> PyTree:
    """The parameters that the model is called with."""
    return parts.tuning.merge(trained, state.frozen.get("base", {}))


def split_shapes(tuning: Any, params: PyTree) -> tuple[PyTree, PyTree]:
    """Shapes of what trains and of what doesn't."""
    return jax.eval_shape(lambda all_of: tuning.split(all_of, jax.random.key(0)), params)
