"""What a run that learnt from preferences reaches on its held-out pairs, beside the model it started from.

    python tools/preference_report.py RUN [--pairs N]

prints accuracies with standard errors, their paired difference, and what length alone gives; and draws RUN/plots/preference.png,
the accuracy of training's rewards beside the KL to the reference.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.preference_report", "Held-out preferences before and after.")
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument(
        "--pairs", type=int, default=0, help="held-out pairs to score; default: all"
    )
    options = parser.parse_args(argv)
    return cli.guarded(lambda: report(options.run, options.pairs))


def report(run: Path, pairs: int) -> None:
    """Score, print and draw."""
    import jaxlm

    lm = jaxlm.load(run)
    with lm.config.unlocked():
        lm.config.data.eval_examples = pairs
    after = scores(lm)
    found = {
        "pairs": len(after["accuracy"].statistics),
        "length_only": round(after["length_only"].value, 4),
        "after": with_error(after["accuracy"]),
    }
    if lm.config.init_from and lm.config.objective.kind != "reward":
        before = scores(dataclasses.replace(lm, params=first_params(lm)))
        differences = [row["accuracy"].statistics[:, 0] for row in (after, before)]
        gained = differences[0] - differences[1]
        error = float(np.std(gained, ddof=1) / math.sqrt(len(gained)))
        found |= {
            "before": with_error(before["accuracy"]),
            "gained": [round(float(gained.mean()), 4), round(error, 4)],
        }
    plot(run)
    print(json.dumps(found))


def first_params(lm):
    """The parameters of the model that a run started from, as its own model has them."""
    from jaxlm import config as configs
    from jaxlm.core import partition
    from jaxlm.train import assembly, origin

    source = origin.open_source(lm.config.init_from)
    shapes = assembly.model_shapes(lm.config, lm.model)
    found, _ = source.weights(configs.build(lm.config, "model"), shapes)
    return partition.nest({path: found[path] for path in partition.flatten(shapes)})


def scores(lm) -> dict:
    """The rows of the run's own evaluators."""
    from jaxlm.train.evaluation import Run

    rows = {row.name.removeprefix("val_"): row for row in Run(splits="val").run(lm).scores.rows}
    if not {"accuracy", "length_only"} <= rows.keys():
        raise ValueError(f'this run has no evaluator "preference": it scored {", ".join(rows)}')
    return rows


def with_error(row) -> list[float]:
    """A score and its standard error."""
    return [round(row.value, 4), round(row.stderr, 4)]


def plot(run: Path) -> None:
    """Accuracy and KL against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(8, 5.5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    curves = (
        (above, "accuracy", "rewards of a training batch"),
        (above, "val_accuracy", "log-probabilities, held out"),
        (below, "kl", ""),
    )
    for axes, name, label in curves:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1, label=label)
    above.set_ylabel("better text found")
    above.legend(frameon=False)
    below.set_ylabel("KL to the reference (nats a token)")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.grid(alpha=0.25)
    FigureCanvasAgg(figure).print_png(str(run / "plots" / "preference.png"))


if __name__ == "__main__":
    sys.exit(main())
