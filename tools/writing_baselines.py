"""What no model is needed for: texts written by three rules, with the scores of the experiments that they stand beside.

    python tools/writing_baselines.py --data bundled:packages --source_column description --target_column synopsis --score summaries
    python tools/writing_baselines.py --data bundled:glosses --source_column question --target_column answer --score answers

commonest: the training part's most frequent target; lead: as many first words of the source as targets have in the middle;
nearest: the target of the training source that BM25 finds most alike. Of bundled data the last twentieth is scored, as by
experiments with data.val_fraction=0.05 (whose data.eval_examples may take fewer: --examples N takes the same).
"""

from __future__ import annotations

import argparse
import collections
import importlib
import sys

import numpy as np

from jaxlm import cli
from jaxlm.data.cleaning import Cleaning
from jaxlm.eval import report
from jaxlm.eval.generation import accepted
from jaxlm.eval.suites import data
from jaxlm.retrieval.words import BM25


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="bundled:NAME, or a file to score")
    parser.add_argument(
        "--training", default="", help="a file to learn from, for --data of your own"
    )
    parser.add_argument("--source_column", required=True)
    parser.add_argument("--target_column", required=True)
    parser.add_argument("--score", choices=("answers", "summaries", "translation"), required=True)
    parser.add_argument("--language", default="english", help="whose words BM25 counts")
    parser.add_argument("--examples", type=int, default=0, help="score so many, evenly spread")
    options = parser.parse_args(argv)
    return cli.guarded(lambda: show(options))


def show(options: argparse.Namespace) -> None:
    """Print the scores of each rule."""
    lines = data.lines(options.data, options.training)
    total = len(lines.scored)
    count = min(total, options.examples or total)
    scored = [lines.scored[number * total // count] for number in range(count)]
    sources, known = (
        [data.column(record, options.source_column, str, options.data) for record in records]
        for records in (scored, lines.examples)
    )
    references, taught = (
        [_accepted(record, options) for record in records] for records in (scored, lines.examples)
    )
    targets = [texts[0] for texts in taught]
    score = importlib.import_module(f"jaxlm.eval.{options.score}").rows
    for name, texts in written(sources, known, targets, options.language).items():
        found = ", ".join(f"{row.name} {report.scored(row)}" for row in score(texts, references))
        print(f"{name:<10} {found}  ({count} texts)")


def written(
    sources: list[str], known: list[str], targets: list[str], language: str
) -> dict[str, list[str]]:
    """What each rule writes for `sources`, having seen `known` sources with their targets."""
    commonest = collections.Counter(targets).most_common(1)[0][0]
    length = int(np.median([len(text.split()) for text in targets]))
    nearest, _ = BM25.build(known, Cleaning(language)).rank(sources, 1)
    return {
        "commonest": [commonest] * len(sources),
        "lead": [" ".join(text.split()[:length]) for text in sources],
        "nearest": [targets[number] if number >= 0 else "" for number in nearest[:, 0]],
    }


def _accepted(record: dict, options: argparse.Namespace) -> list[str]:
    """The target, or a list of several, of which a rule is taught the first."""
    found = accepted(data.column(record, options.target_column, (str, list), options.data))
    if not found:
        raise ValueError(f"--data {options.data}: a record's {options.target_column} is empty")
    return found


if __name__ == "__main__":
    sys.exit(main())
