"""A mixture of experts beside the dense model of as many FLOPs a token: same batches, same steps, paired over seeds.

    python tools/compare_moe.py --workdir runs/moe --steps 600 --seeds 3 --figure docs/figures/moe.png

Trains experiments/moe_small.py:tiny and its twin :dense in turn, through the launcher's loop, each in a folder of its own; what is
finished is not trained again, and what was stopped goes on. One seed draws the weights and the order of the batches of both.
Prints a table of validation losses with the paired difference and its 95 % interval (Student's t), and draws the curves.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path

from jaxlm import cli, config

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "moe_small.py"
TWINS = ("dense", "tiny")
NAMES = {"dense": "dense", "tiny": "mixture of experts"}


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.compare_moe", "A mixture of experts against its dense twin.")
    parser.add_argument("--workdir", required=True, help="a folder for all runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", help="a PNG of the validation losses")
    options = parser.parse_args(arguments)
    return cli.guarded(lambda: print(compare(options, overrides)))


def compare(options, overrides: dict[str, str]) -> str:
    """The table, after all runs are finished."""
    if options.steps < 1 or options.seeds < 1:
        raise ValueError(f"--steps {options.steps} --seeds {options.seeds}: at least 1 of each")
    found = {
        (twin, seed): train(options, overrides, twin, seed)
        for seed in range(options.seeds)
        for twin in TWINS
    }
    if options.figure:
        draw(options.figure, found)
    return table(options, found)


def train(options, overrides: dict[str, str], twin: str, seed: int) -> dict:
    """One run's summary, with its training FLOPs a token, active parameters and validation curve."""
    import jaxlm
    from jaxlm.train import assembly, plan

    cfg = config.load(f"{EXPERIMENT}:{twin}", overrides)
    cfg.seed, cfg.num_steps = seed, options.steps
    cfg.eval_every = -(-options.steps // 6)
    cfg.checkpoint_every, cfg.sample_every = cfg.eval_every, 0
    workdir = Path(options.workdir) / f"{twin}_{seed}"
    summary = jaxlm.run(cfg, workdir)
    cfg = config.read(workdir / "config.json")
    model, length = assembly.make_model(cfg), cfg.data.seq_len
    params = assembly.model_shapes(cfg)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return summary | {
        "flops_per_token": plan.flops_per_token(model, params, (length,))[0],
        "active_params": model.config.active_size(params),
        "curve": [(row["step"], row["val_loss"]) for row in rows if row["split"] == "val"],
    }


def table(options, found: dict[tuple[str, int], dict]) -> str:
    """What was found, as lines of Markdown."""
    lines = [
        "| seed | "
        + " | ".join(f"{NAMES[twin]}, nats a byte" for twin in TWINS)
        + " | difference |",
        "|---|---|---|---|",
    ]
    differences = []
    for seed in range(options.seeds):
        losses = [found[twin, seed]["val_loss"] for twin in TWINS]
        differences.append(losses[1] - losses[0])
        cells = [*(f"{loss:.4f}" for loss in losses), f"{differences[-1]:+.4f}"]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    mean = statistics.mean(differences)
    lines.append(f"| mean | | | {mean:+.4f}{interval(differences)} |")
    for twin in TWINS:
        one = found[twin, 0]
        speeds = [found[twin, seed]["tokens_per_second"] for seed in range(options.seeds)]
        lines.append(
            f"{NAMES[twin]}: {one['num_params']:,} parameters, {one['active_params']:,} a token, "
            f"{one['flops_per_token']:.4g} training FLOPs a token, {one['tokens_seen']:,} tokens, "
            f"{statistics.median(speeds):,.0f} tokens/s"
        )
    return "\n".join(lines)


def interval(differences: list[float]) -> str:
    """± half a 95 % interval of the mean; nothing for a single difference."""
    if len(differences) < 2:
        return ""
    from scipy import stats

    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f" ± {stats.t.ppf(0.975, len(differences) - 1) * error:.4f}"


def draw(path: str, found: dict[tuple[str, int], dict]) -> None:
    """Validation losses against the step: a thin line a run, a thick one for the mean over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=100, layout="constrained")
    axes = figure.subplots()
    for twin, color in zip(TWINS, ("C0", "C1"), strict=True):
        curves = [one["curve"] for (name, _), one in found.items() if name == twin]
        steps = [step for step, _ in curves[0]]
        losses = [[loss for _, loss in curve] for curve in curves]
        for one in losses:
            axes.plot(steps, one, color=color, alpha=0.3, linewidth=1)
        mean = [statistics.mean(at) for at in zip(*losses, strict=True)]
        axes.plot(steps, mean, "o-", color=color, label=f"{NAMES[twin]}: {mean[-1]:.4f}")
    tokens = found[TWINS[0], 0]["tokens_seen"]
    axes.set(xlabel="step", ylabel="validation loss, nats a byte")
    axes.set_title(f"as many FLOPs a token, {tokens:,} bytes, {len(found) // 2} seeds")
    axes.legend()
    axes.grid(alpha=0.3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    sys.exit(main())
