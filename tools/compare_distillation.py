"""A fine-tuned teacher of six layers, and students of three with and without it, over several seeds.

    python tools/compare_distillation.py --workdir runs/distillation --init_from BERT --seeds 5 --seconds 1700
        [--config.data.path=train.tsv --config.data.val_path=dev.tsv --config.data.test_path=test.tsv ...]

Runs experiments/distil_classify.py, each in a folder of its own: what is finished is not run again, what was stopped goes on. After
--seconds the run in progress is saved and left (exit code 143); the same command goes on. Ends with a Markdown table: accuracy on
the test part (validation, where there is none), and the difference between both students with two 95 % intervals: of other
examples, by paired bootstrap over each one's mean over seeds, and of other seeds, by Student's t.
"""

from __future__ import annotations

import sys
from pathlib import Path

import comparing
import numpy as np

from jaxlm import cli, config

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "distil_classify.py"
STUDENTS = {"with its teacher": "", "alone": "alone"}
"""Name -> variant of the experiment."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.compare_distillation", "Students with and without a teacher.")
    parser.add_argument("--workdir", required=True, help="a folder for all runs")
    parser.add_argument("--init_from", required=True, metavar="BERT", help="of six layers")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0, help="of this call; 0: all")
    options = parser.parse_args(arguments)
    return cli.guarded(lambda: print(compare(options, overrides)))


def compare(options, overrides: dict[str, str]) -> str:
    """The table, after all runs are finished."""
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: at least 1")
    root = Path(options.workdir)
    with comparing.at_most(options.seconds):
        found = {"teacher": [run(options, overrides, "teacher", root / "teacher", 0)]}
        for name, variant in STUDENTS.items():
            found[name] = [
                run(options, overrides, variant, root / f"{variant or 'student'}_{seed}", seed)
                for seed in range(options.seeds)
            ]
    return table(found)


def run(options, overrides: dict[str, str], variant: str, workdir: Path, seed: int) -> Path:
    """The folder of a finished run."""

    def configured():
        cfg = config.load(f"{EXPERIMENT}:{variant}".removesuffix(":"), overrides)
        cfg.seed, cfg.init_from = seed, options.init_from
        if "teacher" in cfg.objective:
            cfg.objective.teacher = str(Path(options.workdir) / "teacher")
        return cfg

    return comparing.finish(workdir, configured)


def table(found: dict[str, list[Path]]) -> str:
    """What was found, as lines of Markdown."""
    right_SN = {name: np.stack([comparing.hits(path) for path in found[name]]) for name in found}
    teacher = float(right_SN["teacher"].mean())
    lines = ["| model | parameters | accuracy | of the teacher's |", "|---|---|---|---|"]
    for name, scores in right_SN.items():
        mean, count = float(scores.mean()), comparing.summary(found[name][0])["num_params"]
        about = f" (seeds: {comparing.each(scores)})" if len(scores) > 1 else ""
        lines.append(f"| {name} | {count:,} | {mean:.4f}{about} | {mean / teacher:.1%} |")
    names = tuple(STUDENTS)
    said = comparing.difference(names, *(right_SN[name] for name in names))
    return "\n".join([*lines, "", said])


if __name__ == "__main__":
    sys.exit(main())
