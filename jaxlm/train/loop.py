"""The one training loop: the only Python loop over steps, and the only place that does I/O for a run.

It knows nothing of how learning happens (train/steps), what is learned (objectives) or where arrays live (parallel).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict, FrozenConfigDict

from jaxlm import config as configs
from jaxlm.core.types import Batch
from jaxlm.data import pipeline
from jaxlm.train import assembly, parallel, plan, report, resolve, runtime
from jaxlm.train import workdir as folders
from jaxlm.train.checkpoint import Checkpointer
from jaxlm.train.leaves import state_digest
from jaxlm.train.meter import Meter
from jaxlm.train.signals import StopSignal
from jaxlm.train.writers import Writer


def run(cfg: ConfigDict, workdir: Any, profile: tuple[int, int] | None = None) -> dict[str, Any]:
    """Train what `cfg` says in `workdir`, or go on where an earlier process stopped; gives the summary.

    Args:
      cfg: from `config.base()`; not changed.
      workdir: a folder, local or remote. The same config again resumes; another one is refused.
      profile: (first, end) steps of a jax.profiler trace, end excluded.

    Raises:
      ValueError: something that the user can change; the message says what.
      FloatingPointError: a step without finite loss or gradient, unless step.on_nonfinite="skip".
      SystemExit: SIGINT or SIGTERM came; a checkpoint was saved.
    """
    started = time.perf_counter()
    runtime.configure()
    workdir = folders.open_workdir(workdir)
    cfg, parts, source, example = _prepare(cfg, workdir)
    task, config = parts.task, configs.build(cfg, "checkpoint")
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(parts.mesh))
        stack.enter_context(nn.logical_axis_rules(parallel.RULES))
        writer = stack.enter_context(contextlib.closing(Writer(workdir, cfg.num_steps)))
        checkpoints = Checkpointer(workdir / folders.CHECKPOINTS, config, writer.log)
        stack.enter_context(contextlib.closing(checkpoints))
        prediction = plan.make(cfg, parts, example)
        runtime.keep_freed_memory(prediction.memory)
        for line in prediction.lines:
            writer.log(line)

        state, start, seconds_before, frozen = _start(checkpoints, parts, cfg, example, writer.log)
        writer.resume(start)
        if start == cfg.num_steps and (recorded := folders.read_summary(workdir)):
            writer.log(f"finished   at step {start} before: its summary again")
            writer.finish(recorded)
            return recorded
        step_fn, compile_seconds = compile_step(parts, example, writer.log)
        place = parallel.placer(parts.mesh)
        meter = Meter(prediction, cfg.num_steps, seconds_before, compile_seconds)
        observer = report.Observer(cfg, workdir, parts, writer, meter)
        stack.callback(observer.end_profile)
        batches = pipeline.BatchIterator(
            source, seed=cfg.seed, digest=task.info.digest, start_step=start
        )
        stack.enter_context(contextlib.closing(batches))
        stop = stack.enter_context(StopSignal())
        pending = None  # the step in flight: its metrics are read when the next one is on its way
        for step in range(start, cfg.num_steps):
            observer.profile(profile, step)
            batch = next(batches)
            state, metrics = step_fn(state, place(batch))
            if pending is not None:
                observer.step_done(*pending, batches.wait_seconds)
            pending = (step, metrics, batch)
            due, stopping = observer.due(step + 1), stop.agreed(step + 1)
            if not due and not stopping:
                continue
            observer.step_done(*pending, batches.wait_seconds)
            pending = None
            with meter.paused():
                observer.show(due, state, step + 1)
                if "checkpoint" in due or stopping:
                    metric = observer.metric(step + 1, config.best_metric)
                    extra = {"data": batches.state(), "train_seconds": meter.train_seconds} | frozen
                    checkpoints.save(assembly.saved(state), extra, step + 1, metric)
            if stopping:
                checkpoints.wait()
                stop.leave(writer.log, workdir, step + 1, cfg.num_steps)
        checkpoints.wait()
        observer.end_profile()
        summary = meter.totals(cfg.num_steps) | {
            "final_step": cfg.num_steps,
            **observer.final_scores(state, cfg.num_steps),
            **observer.test_scores(state, cfg.num_steps, checkpoints),
            **prediction.facts(state.params),
            "state_sha256": state_digest(state, batches.state()),
            "workdir": str(workdir),
            "wall_seconds": time.perf_counter() - started,
        }
        writer.finish(summary)
    return summary


def show_batch(cfg: ConfigDict, num_examples: int = 2) -> str:
    """The first training batch as a person reads it: token pieces, targets, what is masked."""
    task = assembly.make_task(assembly.with_lengths(cfg))
    return task.show(pipeline.train_batches(task, cfg.seed, cfg.batch_size)[0], num_examples)


def _prepare(cfg: ConfigDict, workdir: Any):
    """The resolved config, what a run is made of, its batches and their shapes, in a folder claimed for it."""
    cfg = assembly.with_lengths(cfg)
    task = assembly.make_task(cfg)
    cfg = resolve.resolve(cfg, task)
    source = pipeline.train_batches(
        task, cfg.seed, cfg.batch_size, jax.process_index(), jax.process_count()
    )
    assembly.check_targets(source[0], task.info)
    example = assembly.global_shapes(source[0], cfg.batch_size)
    cfg = assembly.fix_micro_batch(cfg, example, folders.recorded(workdir))
    parts = assembly.assemble(cfg, task, example)
    # Last: what is refused leaves no trace.
    folders.claim(workdir, cfg, task.info.tokenizer, task.info.labels)
    return cfg, parts, source, example


def _start(
    checkpoints: Checkpointer,
    parts: assembly.Parts,
    cfg: FrozenConfigDict,
    example: Batch,
    log: Callable[[str], None],
):
    """(state, its step, training seconds so far, digests of what is frozen): of the newest valid checkpoint, or fresh."""
    restored = checkpoints.restore(assembly.saved(parts.abstract_state))
    frozen: dict[str, str] = {}
    if restored is None or parts.abstract_state.frozen:
        first = assembly.first_state(parts, cfg, example, log)
        frozen = {name: state_digest({name: tree}) for name, tree in first.frozen.items()}
        if restored is None:
            return first, 0, 0.0, frozen
    state, extra, step = restored
    if extra["data"]["digest"] != parts.task.info.digest:
        raise ValueError(
            "the data is not what this run was trained on: the text behind data.path has changed. "
            "Take another --workdir, or put the text back"
        )
    if changed := [name for name, digest in frozen.items() if extra[name] != digest]:
        raise ValueError(
            f"the frozen weights ({', '.join(changed)}) are not those that this run was started with: the model behind "
            "init_from or the objective's has changed. Take another --workdir, or put it back"
        )
    log(f"resumed    step {step} from {checkpoints.directory}")
    if frozen:
        state = state.replace(frozen=first.frozen)
    return state, step, extra["train_seconds"], frozen


def compile_step(parts: assembly.Parts, example: Batch, log: Callable[[str], None]):
    """The step, ready to call, and the seconds that compiling took; host code is taken as it is."""
    if not parts.step.compiled:
        return parts.step.fn, 0.0
    begin = time.perf_counter()
    where = parallel.batch_sharding(parts.mesh)
    batch = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=where)
        for name, value in example.items()
    }
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state)
    step = jax.jit(parts.step.fn, donate_argnums=0, out_shardings=(shardings, None))
    compiled = step.lower(parts.abstract_state, batch).compile()
    seconds = time.perf_counter() - begin
    log(f"compiled   in {seconds:.1f} s")
    return compiled, seconds
