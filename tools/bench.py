"""Speed of an experiment's real step, as one JSON line: tokens/s, MFU, compile seconds, memory.

    python tools/bench.py experiments/gpt_small.py --steps 20 [--config.batch_size=8 ...]
    python tools/bench.py experiments/quickstart.py --steps 200 --loop    what the loop costs over the bare step

With --loop the same number of steps runs three times each, in turn, as a bare Python loop over the compiled step and
through `train.loop.run`; the medians are compared.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time

from jaxlm import cli, config


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.bench", "Time an experiment's real step.")
    parser.add_argument("experiment", metavar="FILE.py[:variant]")
    parser.add_argument("--steps", type=int, default=20, help="timed steps, after two that are not")
    parser.add_argument("--loop", action="store_true", help="also compare with the training loop")
    options = parser.parse_args(arguments)
    return cli.guarded(
        lambda: print(json.dumps(bench(config.load(options.experiment, overrides), options)))
    )


def bench(cfg, options) -> dict:
    """Figures of the step, and of the loop where asked."""
    import flax
    import flax.linen as nn
    import jax

    from jaxlm.data import pipeline
    from jaxlm.train import assembly, devices, loop, parallel, plan, resolve, runtime

    runtime.configure()
    cfg = assembly.with_lengths(cfg)
    task = assembly.make_task(cfg)
    frozen = resolve.resolve(cfg, task)
    source = pipeline.train_batches(task, frozen.seed, frozen.batch_size)
    shapes = assembly.global_shapes(source[0], frozen.batch_size)
    frozen = assembly.fix_micro_batch(frozen, shapes)
    parts = assembly.assemble(frozen, task, shapes)
    prediction = plan.make(frozen, parts, shapes)
    place = parallel.placer(parts.mesh)
    runtime.keep_freed_memory(prediction.memory)
    rates, loop_rates = [], []
    with jax.set_mesh(parts.mesh), nn.logical_axis_rules(parallel.RULES):
        step, compile_seconds = loop.compile_step(parts, shapes, lambda line: None)
        state = assembly.init_state(parts, frozen.seed, shapes)
    batches = [place(source[index]) for index in range(min(options.steps, 8))]
    for index in range(2):
        state, metrics = step(state, batches[index % len(batches)])
    jax.block_until_ready(metrics)
    for _ in range(3 if options.loop else 1):
        begin = time.perf_counter()
        for index in range(options.steps):
            state, metrics = step(state, batches[index % len(batches)])
        jax.block_until_ready(metrics)
        rates.append(options.steps * prediction.tokens_per_step / (time.perf_counter() - begin))
        if options.loop:
            loop_rates.append(_loop_rate(cfg, options.steps, loop))
    rate = statistics.median(rates)
    memory = step.memory_analysis() if parts.step.compiled else None
    stats = jax.local_devices()[0].memory_stats() or {}
    result = {
        "experiment": options.experiment,
        "device": devices.device_name(),
        "tokens_per_second": rate,
        "mfu": rate * prediction.flops_per_token / prediction.peak.flops
        if prediction.peak.flops
        else None,
        "peak_flops": prediction.peak.flops or None,
        "peak_source": prediction.peak.source,
        "compile_seconds": compile_seconds,
        "num_params": prediction.num_params,
        "tokens_per_step": prediction.tokens_per_step,
        "micro_batch_size": parts.micro_batch_size,
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
        "device_peak_bytes": stats.get("peak_bytes_in_use"),
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "attention": plan.attention(parts.model, shapes),
        "loss": float(metrics["loss"]),
        "versions": {
            "python": sys.version.split()[0],
            "jax": jax.__version__,
            "flax": flax.__version__,
        },
    }
    if options.loop:
        result["loop_tokens_per_second"] = statistics.median(loop_rates)
        result["loop_cost"] = statistics.median(
            bare / looped - 1 for bare, looped in zip(rates, loop_rates, strict=True)
        )
    return result


def _loop_rate(cfg, steps, loop) -> float:
    """Tokens a second of `loop.run` on the same config, its evaluations and samples left to the end."""
    cfg = cfg.copy_and_resolve_references()
    cfg.num_steps = steps
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 0
    with tempfile.TemporaryDirectory() as folder:
        return loop.run(cfg, folder)["tokens_per_second"]


if __name__ == "__main__":
    sys.exit(main())
