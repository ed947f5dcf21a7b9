"""One model for all tasks of a mixture, and a model for each: as many examples of every task, and its scores beside.

    python tools/compare_multi_task.py --workdir runs/multi --seconds 1700 --config.init_from=BERT --config.data.tokenizer=init_from
    python tools/compare_multi_task.py --workdir runs/text --experiment experiments/multi_task.py:text_to_text

A model of one task is the same experiment with that task alone, for as many steps as the mixture gave to its examples. Runs are
finished one after the other, each in a folder of its own; after --seconds the one in progress is saved and left (exit code 143) and
the same command goes on. Ends with a Markdown table: a score of each task, and the difference of the single examples' scores with
its 95 % interval by paired bootstrap.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import comparing
import numpy as np

from jaxlm import cli, config

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "multi_task.py"
SCORES = ("entity_f1", "rougeL", "chrf", "f1", "accuracy")
"""The first of these that a task has stands in the table."""
ALL = "all"


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser(
        "tools.compare_multi_task", "One model for several tasks, and one for each."
    )
    parser.add_argument("--workdir", required=True, help="a folder for all runs")
    parser.add_argument("--experiment", default=str(EXPERIMENT), metavar="FILE.py[:VARIANT]")
    parser.add_argument("--seconds", type=float, default=0, help="of this call; 0: all")
    options = parser.parse_args(arguments)
    return cli.guarded(lambda: print(compare(options, overrides)))


def compare(options, overrides: dict[str, str]) -> str:
    """The table, after all runs are finished."""
    cfg = config.load(options.experiment, overrides)
    root = Path(options.workdir)
    steps = steps_of(cfg)
    with comparing.at_most(options.seconds):
        comparing.finish(root / ALL, lambda: cfg)
        for task, count in steps.items():
            comparing.finish(root / task, lambda task=task, count=count: alone(cfg, task, count))
    return table(root, steps)


def steps_of(cfg: Any) -> dict[str, int]:
    """Steps that the mixture gives to each task's examples."""
    from jaxlm.data.mixing import Choices
    from jaxlm.train import assembly

    task = assembly.make_task(assembly.with_lengths(cfg))
    choices = Choices(*task.shares(), cfg.data.schedule_examples, (cfg.seed,))
    drawn, _ = choices(range(cfg.num_steps * cfg.batch_size))
    counts = np.bincount(drawn, minlength=len(task.parts)).tolist()
    names = [part.name for part in task.parts]
    return {name: max(1, round(n / cfg.batch_size)) for name, n in zip(names, counts, strict=True)}


def alone(cfg: Any, task: str, num_steps: int) -> Any:
    """The experiment with one of its tasks."""
    share = num_steps / cfg.num_steps
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.data.tasks = {task: cfg.data.tasks[task]}
    cfg.data.weights, cfg.data.final_weights, cfg.data.schedule_examples = {}, {}, 0
    own = (name for name in cfg.evaluators if name.endswith(f"@{task}"))
    cfg.evaluators = ("multi_task", *own)
    cfg.num_steps = num_steps
    cfg.optim.warmup_steps = round(share * cfg.optim.warmup_steps)
    cfg.eval_every = cfg.checkpoint_every = max(1, round(share * cfg.eval_every))
    return cfg


def table(root: Path, steps: dict[str, int]) -> str:
    """What was found, as lines of Markdown."""
    from jaxlm.eval import bootstrap

    lines = [
        "| task | steps | score | one model for all | a model for each | difference of examples' scores, 95 % |",
        "|---|---|---|---|---|---|",
    ]
    whole = comparing.summary(root / ALL)
    for task, count in steps.items():
        own = comparing.summary(root / task)
        name = next(one for one in SCORES if f"val_{task}_{one}" in whole)
        cells = [
            f"{found[f'val_{task}_{name}']:.4f} ± {found[f'val_{task}_{name}_stderr']:.4f}"
            for found in (whole, own)
        ]
        pair = [example_scores(root / folder, task) for folder in (ALL, task)]
        result = bootstrap.paired(*pair, "ratio", names=("one for all", "one for each"))
        difference = f"{result.difference:+.4f} ({result.low:+.4f} to {result.high:+.4f})"
        lines.append(f"| {task} | {count} | {name} | {' | '.join(cells)} | {difference} |")
    return "\n".join(lines)


def example_scores(workdir: Path, task: str) -> np.ndarray:
    """Of each validation example of a task, in order, its score and 1, float64 [N, 2]."""
    with (workdir / "predictions_val.jsonl").open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row.get("task") == task]
    return np.array([[row["score"], 1.0] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
