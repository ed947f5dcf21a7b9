"""Before compiling: what was chosen and why, and how much memory and time the run will take on this hardware."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm import config as configs
from jaxlm.core import partition
from jaxlm.core.types import PyTree, SplitInfo, TaskInfo
from jaxlm.train import devices, parallel

ASSUMED_MFU = {"cpu": 0.45, "gpu": 0.35, "tpu": 0.4}
"""Share of the peak that a run is expected to reach; the log shows what it does reach."""
LONG_RUN_SECONDS = 24 * 3600.0


class Work(NamedTuple):
    """What a step makes of a batch: a policy step writes rows itself, and goes through them several times, in parts."""

    num_completions: int = 1  # rows learned from for each of the batch
    num_epochs: int = 1
    num_minibatches: int = 1  # updates that share them


ONCE = Work()


def work(cfg: Any) -> Work:
    """That of the config's step; of one that says nothing of it, every row once."""
    step = configs.build(cfg, "step")
    return Work(*(getattr(step, name, 1) for name in Work._fields))


def num_params(params: PyTree) -> int:
    """Entries of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def flops_per_token(
    model: Any, params: PyTree, lengths: tuple[int, ...], step: Any = None
) -> tuple[float, str]:
    """Training FLOPs a token and their formula: what the step says, else the model, else 6 N."""
    if hasattr(step, "flops_per_token"):
        return step.flops_per_token(model, params, *lengths)
    if hasattr(model, "flops_per_token"):
        formula = "6 N + 12 L H K T" if len(lengths) == 1 else "6 N of each side + attention"
        formula = getattr(model, "flops_formula", formula)
        return model.flops_per_token(params, *lengths), formula
    return 6.0 * num_params(params), "6 N"


def frozen_flops(model: Any, params: PyTree, base: PyTree, lengths: tuple[int, ...]) -> float:
    """FLOPs a token that need no doing: gradients of kernels that do not train, a third of their 6 N."""
    frozen = {path for path in partition.flatten(base) if path.endswith("/kernel")}
    left = {
        path: jax.ShapeDtypeStruct((0,), leaf.dtype) if path in frozen else leaf
        for path, leaf in partition.flatten(params).items()
    }
    whole, _ = flops_per_token(model, params, lengths)
    without, _ = flops_per_token(model, partition.nest(left), lengths)
    return (whole - without) / 3


def activation_bytes(model: Any, params: PyTree, num_tokens: int) -> float:
    """What the backward pass of `num_tokens` needs, by the model or by a rule of thumb."""
    if hasattr(model, "activation_bytes"):
        return model.activation_bytes(num_tokens)
    return 64.0 * num_tokens * max(leaf.shape[-1] for leaf in jax.tree.leaves(params) if leaf.ndim)


def lengths_of(batch: Any, model: Any) -> tuple[int, ...]:
    """Positions of a row in each thing that the model reads: a source counts as well as what is written from it.

    By the second axis, or as the model says of what has no axis of positions (an image).
    """
    own = getattr(model, "input_lengths", {})
    return tuple(own.get(name, batch[name].shape[1]) for name in model.inputs)


def row_tokens(info: TaskInfo, lengths: tuple[int, ...]) -> float:
    """Tokens that a row counts for: its positions, or what the data say, whose rows are no pieces of the text (pairs of words)."""
    return info.row_tokens or sum(lengths)


def choose_micro_batch(
    batch_size: int,
    model: Any,
    params: PyTree,
    trained: PyTree,
    row_tokens: int,
    mesh: Mesh,
    of_step: Work = ONCE,
    others: PyTree = (),
) -> int:
    """The largest part of a batch whose predicted memory fits a device.

    Twenty bytes a parameter that trains, spread over fsdp and tensor, for weights, gradients, two moments and
    an average in float32, four for one that does not, of `others` (teachers, references) too; the rest of 90 % of the memory is
    for activations. The choice is a function of the machine and the config alone.
    """
    shards = parallel.batch_shards(mesh)
    spread = mesh.shape["fsdp"] * mesh.shape["tensor"]
    held = 16.0 * num_params(trained) + 4.0 * num_params((params, others))
    room = 0.9 * devices.memory_bytes() - held / spread
    fitting = []
    for size in range(shards, batch_size + 1, shards):
        rows, left = divmod(size * of_step.num_completions, of_step.num_minibatches * shards)
        even = batch_size % size == 0 and not left
        if even and activation_bytes(model, params, rows * row_tokens) <= room:
            fitting.append(size)
    return max(fitting, default=shards)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Figures of a run before its first step."""

    num_params: int
    num_trained: int
    tokens_per_step: int
    flops_per_token: float
    peak: devices.Peak
    memory: float  # bytes a device
    lines: tuple[str, ...] = ()

    def facts(self, trained: PyTree) -> dict[str, Any]:
        """What a run's summary says of its size at its end, and what it ran on (no peak: unknown)."""
        num_trained = num_params(trained)  # tables of counts have grown
        return {
            "num_params": self.num_params - self.num_trained + num_trained,
            "num_trained": num_trained,
            "peak_flops": self.peak.flops or None,
            "device": devices.device_name(),
        }


def make(cfg: Any, parts: Any, batch: Any) -> Plan:
    """Predict a run; `lines` is what a person reads."""
    trained = parts.abstract_state.params
    base = parts.abstract_state.frozen.get("base", {})
    params = partition.join(trained, base) if base else trained
    lengths = lengths_of(batch, parts.model)
    of_step = work(cfg)
    step = configs.implementation(cfg, "step")
    flops, formula = flops_per_token(parts.model, params, lengths, step)
    if base:
        flops -= frozen_flops(parts.model, params, base, lengths)
        formula += " - 2 of frozen kernels"
    if of_step.num_epochs > 1:
        flops *= of_step.num_epochs
        formula = f"{of_step.num_epochs} x ({formula})"
    found = Plan(
        num_params=num_params(params),
        num_trained=num_params(trained),
        tokens_per_step=round(
            cfg.batch_size * of_step.num_completions * row_tokens(parts.task.info, lengths)
        ),
        flops_per_token=flops,
        peak=devices.peak(_dtype(cfg)),
        memory=_memory(parts, params, of_step, sum(lengths)),
    )
    mesh = " ".join(f"{axis}={size}" for axis, size in parts.mesh.shape.items())
    lines = [
        f"device     {devices.device_name()} | mesh {mesh} | compute {_dtype(cfg)}, parameters float32 | attention {attention(parts.model, batch)}",
        f"model      {type(parts.model).__name__}, {found.num_params:,} parameters{active(parts.model, params)} | {flops:.4g} training FLOPs a token ({formula})",
        *trains(parts.tuning, found, cfg.init_from),
        *experts(parts.model),
        *scan(parts.model, lengths),
        *_steps(cfg, parts, found, row(parts.model, lengths)),
        *_fits(cfg, parts, found),
    ]
    return dataclasses.replace(found, lines=tuple(lines))


def _dtype(cfg: Any) -> str:
    return cfg.model.dtype if "dtype" in cfg.model else "float32"


def _memory(parts: Any, params: PyTree, of_step: Work, row_tokens: int) -> float:
    """Bytes a device: its part of the state and of the gradients, and the activations of a micro-batch."""
    held = [*jax.tree.leaves(parts.abstract_state), *jax.tree.leaves(parts.abstract_state.params)]
    local = sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * 4 for leaf in held)
    rows = parts.micro_batch_size * of_step.num_completions
    rows //= of_step.num_minibatches * parallel.batch_shards(parts.mesh)
    return local + activation_bytes(parts.model, params, rows * row_tokens)


def _steps(cfg: Any, parts: Any, plan: Plan, row: str) -> list[str]:
    """Lines on the data, and on what a step takes of them."""
    info, times = parts.task.info, work(cfg).num_completions
    row = f"{info.row_tokens:.4g}" if info.row_tokens else row
    train: SplitInfo = info.splits["train"]
    epochs = cfg.num_steps * cfg.batch_size / max(1, train.num_examples)
    part = micro_batches(cfg.batch_size, parts.micro_batch_size)
    written = f" x {times} completions" if times > 1 else ""
    classes = f", {len(info.labels)} classes" if info.labels else ""
    return [
        f"data       {train.num_tokens:,} training tokens, vocabulary {info.vocab_size:,}{classes} | {epochs:.3g} epochs",
        f"step       {plan.tokens_per_step:,} tokens ({cfg.batch_size}{written} x {row}){part} | {cfg.num_steps:,} steps",
    ]


def _fits(cfg: Any, parts: Any, plan: Plan) -> list[str]:
    """Lines on memory and time, and a warning where this hardware has too little."""
    assumed = ASSUMED_MFU.get(jax.default_backend(), 0.35)
    tokens, peak = cfg.num_steps * plan.tokens_per_step, plan.peak
    seconds = tokens * plan.flops_per_token / (peak.flops * assumed) if peak.flops else 0.0
    room = devices.memory_bytes()
    lines = [
        f"memory     about {plan.memory / 2**30:.2f} GiB a device predicted, {room / 2**30:.1f} GiB to plan with",
        f"time       {duration(seconds)} for {tokens:.3g} tokens at an assumed {assumed:.0%} of "
        f"{peak.flops / 1e12:.3g} TFLOP/s ({peak.source})"
        f"{', of updates alone' * (not parts.step.compiled)}"
        if seconds
        else f"time       not predicted: {f'the peak is {peak.source}' if plan.flops_per_token else 'no FLOPs are counted'}",
    ]
    if seconds > LONG_RUN_SECONDS or (room and plan.memory > room):
        lines.append(
            "WARNING    this hardware is too small for this run; it goes on. For a first result here: "
            "python -m jaxlm.launch --config experiments/quickstart.py"
        )
    return lines


def row(model: Any, lengths: tuple[int, ...]) -> str:
    """The positions of a row: "128", or "(512 source + 114 target)" where the model reads several things."""
    if len(lengths) == 1:
        return str(lengths[0])
    named = {
        "target" if name == "tokens" else name: n
        for name, n in zip(model.inputs, lengths, strict=True)
    }
    return "(" + " + ".join(f"{named[name]} {name}" for name in sorted(named)) + ")"


def micro_batches(batch_size: int, size: int) -> str:
    """How a batch is cut, ", 4 micro-batches of 8"; nothing where it is not."""
    return f", {batch_size // size} micro-batches of {size}" if size < batch_size else ""


def attention(model: Any, batch: Any) -> str:
    """The attention backend that the model will run on such batches, and why."""
    chosen = getattr(model, "attention_choice", None)
    if hasattr(model, "scan_choice"):
        return "none"
    return "{} ({})".format(*chosen(tuple(batch))) if chosen else "the model's own"


def trains(tuning: Any, plan: Plan, init_from: str) -> list[str]:
    """A line on what trains, where that is not everything."""
    said = tuning.describe()
    if not said:
        return []
    share = f"{plan.num_trained:,} of {plan.num_params:,} parameters ({plan.num_trained / plan.num_params:.2%})"
    random = "" if init_from else "; the rest stays as it was drawn at random: init_from is empty"
    return [f"trains     {share}: {said}{random}"]


def experts(model: Any) -> list[str]:
    """A line on a model's experts, with the backend that will run them, and why; none where it has none."""
    config = getattr(model, "config", None)
    if not getattr(config, "num_experts", 0):
        return []
    shared = f" and {config.num_shared_experts} shared" if config.num_shared_experts else ""
    factor = config.capacity_factor
    kept = f"at most {factor:g} x an even share of a row" if factor else "dropless"
    return [
        f"experts    {config.num_experts}, {config.experts_per_token}{shared} a token, {kept} | balanced within a "
        "micro-batch | {} ({})".format(*config.expert_choice())
    ]


def scan(model: Any, lengths: tuple[int, ...]) -> list[str]:
    """A line on the form of a model's recursions, and why; none where it has no choice."""
    chosen = getattr(model, "scan_choice", None)
    return ["scan       {} ({})".format(*chosen(*lengths))] if chosen else []


def active(model: Any, params: PyTree) -> str:
    """How many parameters a token meets, where that is not all of them."""
    config = getattr(model, "config", None)
    return f", {config.active_size(params):,} a token" if getattr(config, "num_experts", 0) else ""


def duration(seconds: float) -> str:
    """Seconds in the unit a person thinks in."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return (
                f"{seconds / size:.0f} {unit}"
                if seconds / size >= 10
                else f"{seconds / size:.1f} {unit}"
            )
    return f"{seconds / 86400:.1f} days"
