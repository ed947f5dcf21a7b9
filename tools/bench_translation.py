"""The translator beside torch.nn.Transformer: the same weights at first, data, order, steps, optimizer; both decoded by our beam search.

    python tools/bench_translation.py --out DIR [experiments/transformer_translate.py] [--steps N] [--config.KEY=VALUE ...]

In turn: jaxlm trains through its launcher (DIR/jaxlm), then torch (DIR/torch, a run's folder too: generate and evaluate take
it); both translate the validation pairs, scored by the run's own evaluators and compared by paired bootstrap; and both
train in alternating slices of the same batches, for tokens/s of real tokens, filling left out. Killed, or out of
--seconds, it goes on with the same command. --parts names some of the four. Ends with a Markdown table and DIR/result.json.
Needs the extras [eval,parity].
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm import cli, config

PARTS = ("jaxlm", "torch", "scores", "speed")
SIDES = ("jaxlm", "torch")


class Setup(NamedTuple):
    """What both sides share."""

    cfg: Any  # frozen
    source: Any  # the batch of every step
    shapes: Any
    parts: Any  # train.assembly.Parts


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, 1 where training is not yet done, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.bench_translation", "Translation beside torch.nn.Transformer.")
    default = "experiments/transformer_translate.py"
    parser.add_argument("experiment", nargs="?", default=default, metavar="FILE.py[:variant]")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path)
    parser.add_argument("--steps", type=int, default=0, help="0: the experiment's num_steps")
    parser.add_argument("--parts", type=_parts, default=PARTS, metavar=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=0, help="of training in this call; 0: all")
    parser.add_argument("--layout", default="packed", help="torch's rows: packed, padded")
    parser.add_argument("--views", type=int, default=8, help="padded: groups of similar lengths")
    parser.add_argument(
        "--slices", type=int, default=5, help="speed: how often each side's turn is"
    )
    parser.add_argument("--slice_steps", type=int, default=8)
    options = parser.parse_args(arguments)
    if options.steps:
        overrides["num_steps"] = str(options.steps)
    left: list[str] = []
    code = cli.guarded(lambda: left.extend(bench(options, overrides)))
    for line in left:
        print(line, flush=True)
    return code or bool(left)


def bench(options: argparse.Namespace, overrides: dict[str, str]) -> list[str]:
    """Runs the parts in turn; what is left to do."""
    end = time.monotonic() + options.seconds if options.seconds else float("inf")
    options.out.mkdir(parents=True, exist_ok=True)
    if "jaxlm" in options.parts and not train_jaxlm(options, overrides, end):
        return ["jaxlm is not done: the same command goes on"]
    if set(options.parts) == {"jaxlm"}:
        return []
    import torch_training as training  # torch, only where it is needed

    setup = prepare(config.load(options.experiment, overrides))
    if "torch" in options.parts and not training.train(options, setup, end):
        return ["torch is not done: the same command goes on"]
    if "scores" in options.parts:
        record(options.out, "scores", scores(options.out))
    if "speed" in options.parts:
        record(options.out, "speed", speed(options, setup))
    print(table(json.loads((options.out / "result.json").read_text())), flush=True)
    return []


def prepare(cfg: Any) -> Setup:
    """The data and the parts of our run, from the same config."""
    from jaxlm.data import pipeline
    from jaxlm.train import assembly, resolve, runtime

    runtime.configure()
    cfg = assembly.with_lengths(cfg)
    task = assembly.make_task(cfg)
    cfg = resolve.resolve(cfg, task)
    if cfg.data.kind != "packed_pairs" or cfg.model.kind != "encoder_decoder":
        raise ValueError(
            "the experiment must have model.kind=encoder_decoder, data.kind=packed_pairs"
        )
    if max(cfg.data.source_len, cfg.data.target_len) > cfg.model.max_len:
        raise ValueError("model.max_len must be at least data.source_len and data.target_len")
    source = pipeline.train_batches(task, cfg.seed, cfg.batch_size)
    shapes = assembly.global_shapes(source[0], cfg.batch_size)
    cfg = assembly.fix_micro_batch(cfg, shapes)
    return Setup(cfg, source, shapes, assembly.assemble(cfg, task, shapes))


# --- training ------------------------------------------------------------------------------------


def train_jaxlm(options: argparse.Namespace, overrides: dict[str, str], end: float) -> bool:
    """Whether the launcher's run is finished."""
    from jaxlm.train.signals import StopSignal

    summary = options.out / "jaxlm" / "summary.json"
    if summary.exists():
        return True
    command = [sys.executable, "-m", "jaxlm.launch", "--config", options.experiment]
    command += ["--workdir", str(options.out / "jaxlm")]
    command += [f"--config.{key}={value}" for key, value in overrides.items()]
    with StopSignal() as stop, subprocess.Popen(command) as child:
        while child.poll() is None:
            time.sleep(0.2)
            if stop.requested or time.monotonic() > end:
                child.terminate()
                child.wait()
    if child.returncode not in (0, 128 + 15, -15, 130):
        raise ValueError(f"the launcher failed with {child.returncode}: see above")
    return summary.exists()


# --- scores and speed ----------------------------------------------------------------------------


def scores(out: Path) -> dict[str, Any]:
    """Both runs' validation scores, and their paired comparison."""
    from jaxlm import api
    from jaxlm.eval import comparison, report, results

    found = []
    for side in SIDES:
        print(f"scores     {side}", flush=True)
        (result,) = api.evaluate(out / side, {"run": {"splits": "val"}})
        results.save(result, out / side / "evaluations" / "run", report.page(result))
        found.append(result)
    compared, left_out = comparison.compare(*found)
    rows = [
        {"name": one.name, "jaxlm": one.first, "torch": one.second, "difference": one.difference}
        | {"interval": [one.low, one.high], "p": one.p, "verdict": one.verdict}
        for one in compared
    ]
    summary = json.loads((out / "jaxlm" / "summary.json").read_text())
    facts = json.loads((out / "torch" / "facts.json").read_text())
    return {
        "rows": rows,
        "left_out": left_out,
        "stderr": {row.name: row.stderr for row in found[0].scores.rows},
        "signatures": {row.name: row.signature for row in found[0].scores.rows},
        "steps": summary["final_step"],
        "num_params": summary["num_params"],
        "tokens": facts["tokens"],
        "train_seconds": {"jaxlm": summary["train_seconds"], "torch": facts["train_seconds"]},
        "versions": results.versions(),
        "device": results.device(),
    }


def speed(options: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """Real tokens a second of both, in alternating slices of the same batches; the ratio is the median of pairs."""
    import torch
    from torch_training import real_tokens

    number = options.slice_steps
    if setup.cfg.num_steps < (options.slices + 1) * number:
        raise ValueError(f"--slices {options.slices} of {number} steps are more than num_steps")
    sides = {"jaxlm": our_steps(setup), "torch": their_steps(options, setup)}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(options.slices + 1):
        batches = [setup.source[step] for step in range(turn * number, (turn + 1) * number)]
        batches = batches if turn else batches[:2]  # the first turn is not counted
        tokens = sum(map(real_tokens, batches))
        for side, run in sides.items():
            begin = time.perf_counter()
            run(batches)
            if turn:
                rates[side].append(tokens / (time.perf_counter() - begin))
                print(f"speed      {side} {rates[side][-1]:,.0f} tokens/s", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    medians = {side: statistics.median(found) for side, found in rates.items()}
    about = {"layout": options.layout, "views": options.views, "torch": torch.__version__}
    about |= {"threads": torch.get_num_threads(), "slice_steps": number}
    return {"tokens_per_second": medians, "ratio": statistics.median(ratios), "all": rates} | about


def our_steps(setup: Setup) -> Callable[[list], None]:
    """Trains on the batches that it is given."""
    import flax.linen as nn
    import jax

    from jaxlm.train import assembly, loop, parallel, plan, runtime

    runtime.keep_freed_memory(plan.make(setup.cfg, setup.parts, setup.shapes).memory)
    place = parallel.placer(setup.parts.mesh)
    with jax.set_mesh(setup.parts.mesh), nn.logical_axis_rules(parallel.RULES):
        step, _ = loop.compile_step(setup.parts, setup.shapes, lambda line: None)
        state = assembly.init_state(setup.parts, setup.cfg.seed, setup.shapes)

    def run(batches: list) -> None:
        nonlocal state
        for batch in batches:
            state, metrics = step(state, place(batch))
        jax.block_until_ready(metrics)

    return run


def their_steps(options: argparse.Namespace, setup: Setup) -> Callable[[list], None]:
    """The same for torch."""
    import torch_training

    trainer = torch_training.make_trainer(options, setup)

    def run(batches: list) -> None:
        for batch in batches:
            trainer.step(batch)

    return run


def record(out: Path, name: str, found: dict[str, Any]) -> None:
    """Put a part into DIR/result.json, beside what is there."""
    path = out / "result.json"
    body = json.loads(path.read_text()) if path.exists() else {}
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(body | {name: found}, indent=1) + "\n")
    draft.replace(path)


def table(body: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = ["| | jaxlm | torch.nn.Transformer | |", "|---|---|---|---|"]
    if "scores" in body:
        found = body["scores"]
        for row in found["rows"]:
            low, high = row["interval"]
            what = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}], {row['verdict']}"
            error = f" ± {found['stderr'][row['name']]:.3f}"
            lines.append(
                f"| {row['name']} | {row['jaxlm']:.3f}{error} | {row['torch']:.3f} | {what} |"
            )
        seconds = [found["train_seconds"][side] for side in SIDES]
        rates = " | ".join(f"{found['tokens'] / one:,.0f}" for one in seconds)
        lines.append(f"| tokens/s of the whole run | {rates} | {seconds[1] / seconds[0]:.2f} |")
    if "speed" in body:
        found = body["speed"]
        rates = " | ".join(f"{found['tokens_per_second'][side]:,.0f}" for side in SIDES)
        lines.append(f"| tokens/s, alternating slices | {rates} | {found['ratio']:.2f} |")
    if "scores" in body:
        lines += ["", f"BLEU: {body['scores']['signatures']['val_bleu']}"]
    return "\n".join(lines)


def _parts(text: str) -> tuple[str, ...]:
    if wrong := set(text.split(",")) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{wrong.pop()}: accepted are {', '.join(PARTS)}")
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())
