"""A fine-tuned teacher of six layers, and students of three with and without it, over several seeds.

    python tools/compare_distillation.py --workdir runs/distillation --init_from BERT --seeds 5 --seconds 1700
        [--config.data.path=train.tsv --config.data.val_path=dev.tsv --config.data.test_path=test.tsv ...]

Runs experiments/distil_classify.py, each in a folder of its own: what is finished is not run again, what was stopped goes on. After
--seconds the run in progress is saved and left (exit code 143); the same command goes on. Ends with a Markdown table: accuracy on
the test part (validation, where there is none), and the difference between both students with two 95 % intervals: of other
examples, by paired bootstrap over each one's mean over seeds, and of other seeds, by Student's t.
"""

from __future__ import annotations

import json
import math
import signal
import statistics
import sys
from pathlib import Path

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
    if options.seconds:  # the loop saves and leaves at SIGTERM
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, options.seconds)
    root = Path(options.workdir)
    found = {"teacher": [run(options, overrides, "teacher", root / "teacher", 0)]}
    for name, variant in STUDENTS.items():
        found[name] = [
            run(options, overrides, variant, root / f"{variant or 'student'}_{seed}", seed)
            for seed in range(options.seeds)
        ]
    signal.setitimer(signal.ITIMER_REAL, 0)
    return table(found)


def run(options, overrides: dict[str, str], variant: str, workdir: Path, seed: int) -> Path:
    """The folder of a finished run."""
    import jaxlm

    if (workdir / "summary.json").exists():
        return workdir
    cfg = config.load(f"{EXPERIMENT}:{variant}".removesuffix(":"), overrides)
    cfg.seed, cfg.init_from = seed, options.init_from
    if "teacher" in cfg.objective:
        cfg.objective.teacher = str(Path(options.workdir) / "teacher")
    jaxlm.run(cfg, workdir)
    return workdir


def hits(workdir: Path) -> np.ndarray:
    """Of each scored example, in order, whether the answer is right: of the test part where there is one."""
    names = [workdir / f"predictions_{split}.jsonl" for split in ("test", "val")]
    with next(path for path in names if path.exists()).open(encoding="utf-8") as file:
        return np.array([json.loads(line)["score"] for line in file], np.float64)


def table(found: dict[str, list[Path]]) -> str:
    """What was found, as lines of Markdown."""
    from jaxlm.eval import bootstrap

    right_SN = {name: np.stack([hits(path) for path in paths]) for name, paths in found.items()}
    teacher = float(right_SN["teacher"].mean())
    lines = ["| model | parameters | accuracy | of the teacher's |", "|---|---|---|---|"]
    for name, scores in right_SN.items():
        mean, summary = (
            float(scores.mean()),
            json.loads((found[name][0] / "summary.json").read_text()),
        )
        spread = f" (seeds: {', '.join(f'{one:.4f}' for one in scores.mean(1))})"
        about = spread if len(scores) > 1 else ""
        lines.append(
            f"| {name} | {summary['num_params']:,} | {mean:.4f}{about} | {mean / teacher:.1%} |"
        )
    taught, alone = (right_SN[name] for name in STUDENTS)
    ones = np.ones(taught.shape[1])
    pair = [np.stack([scores.mean(0), ones], 1) for scores in (taught, alone)]
    result = bootstrap.paired(*pair, "ratio", names=tuple(STUDENTS))
    lines.append(
        f"\n{taught.shape[1]} examples. With its teacher - alone: {result.difference:+.4f}, 95 % over examples "
        f"{result.low:+.4f} to {result.high:+.4f} ({result.verdict}){over_seeds(taught, alone)}"
    )
    return "\n".join(lines)


def over_seeds(first_SN: np.ndarray, second_SN: np.ndarray) -> str:
    """The 95 % interval of the mean difference for other seeds."""
    differences = (first_SN.mean(1) - second_SN.mean(1)).tolist()
    if len(differences) < 2:
        return ""
    from scipy import stats

    mean, error = statistics.mean(differences), statistics.stdev(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * error / math.sqrt(len(differences))
    return f"; over {len(differences)} seeds {mean - half:+.4f} to {mean + half:+.4f}"


if __name__ == "__main__":
    sys.exit(main())
