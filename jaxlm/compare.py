"""Compare two models by results of the same suite on the same data, or families by training each on one text.

python -m jaxlm.compare runs/a/evaluations/run/results.json runs/b/evaluations/run/results.json
python -m jaxlm.compare experiments/families/*.py --corpus bundled:shakespeare --budget 5m --out runs/families
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser(
        "jaxlm.compare", "Two models on the same data by paired bootstrap, or families on one text."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="RESULTS|FILE.py[:variant]",
        help="two results.json or their folders, of the same suite and data; or experiments, which are trained",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="results: a file for JSON, too; experiments: the folder"
    )
    results = parser.add_argument_group("results")
    results.add_argument("--resamples", type=int, default=1000)
    results.add_argument("--seed", type=int, default=0)
    families = parser.add_argument_group("experiments")
    families.add_argument(
        "--corpus",
        metavar="NAME|FILE",
        help="as data.path: bundled:NAME, a .txt, a .jsonl with text",
    )
    families.add_argument(
        "--budget", metavar="N", help="of each: tokens, such as 5m, or seconds, such as 180s"
    )
    families.add_argument("--tokenizer", default="chars", help="as data.tokenizer; default chars")
    families.add_argument(
        "--seq_len", type=int, default=128, help="tokens of a window; default 128"
    )
    options = parser.parse_args(argv)
    experiments = [".py" in Path(one).name for one in options.inputs]
    if any(experiments):
        return cli.guarded(lambda: _train(options, all(experiments)))
    return cli.guarded(lambda: _compare(options))


def _train(options: argparse.Namespace, alike: bool) -> None:
    from jaxlm.eval import families as tables
    from jaxlm.train.families import Budget, Corpus, run

    if not alike:
        raise ValueError("the inputs are results and experiments: all must be of one kind")
    for name in ("corpus", "budget", "out"):
        if not getattr(options, name):
            raise ValueError(
                f"--{name} is missing: experiments are trained on one text, within a budget, into a folder"
            )
    budget = Budget.parse(options.budget)
    corpus = Corpus(options.corpus, options.tokenizer, options.seq_len)
    out, rows = Path(options.out), []
    about = {"corpus": options.corpus, "tokenizer": options.tokenizer, "seq_len": options.seq_len}
    about |= {"budget": f"{options.budget} {'of training' if budget.seconds else 'tokens'}"}
    for spec in options.inputs:
        print(f"{datetime.datetime.now():%H:%M:%S}  {spec}", flush=True)
        rows.append(run(spec, corpus, budget, out / "rows"))
        facts = {
            "device": next((row["device"] for row in rows if "device" in row), "-"),
            "versions": _versions(),
            "date": f"{datetime.date.today()}",
        }
        paths = tables.write(rows, about | facts, out)
        print(
            f"          {rows[-1]['status']}: {rows[-1].get('bits_per_byte') or rows[-1]['note']}",
            flush=True,
        )
    print("\n".join(map(str, paths)))
    if all(row["status"] != "finished" for row in rows):
        raise ValueError(f"no family was trained; the first said: {rows[0]['note']}")


def _versions() -> str:
    from importlib.metadata import version

    return f"Python {sys.version.split()[0]}, jax {version('jax')}"


def _compare(options: argparse.Namespace) -> None:
    from jaxlm.eval import comparison, results

    if len(options.inputs) != 2:
        raise ValueError(f"{len(options.inputs)} results: two are compared")
    for name in ("corpus", "budget"):
        if getattr(options, name):
            raise ValueError(
                f"--{name} is for experiments, which are trained; these inputs are results"
            )
    first, second = map(results.load, options.inputs)
    settings = {"seed": options.seed, "resamples": options.resamples}
    compared, left_out = comparison.compare(first, second, **settings)
    _show(comparison.names_of(first, second), compared)
    for line in left_out:
        print(f"left out   {line}")
    for note in dict.fromkeys(f"{one.name}: {one.note}" for one in compared if one.note):
        print(f"note       {note}")
    if options.out:
        text = comparison.record(first, second, compared, left_out, **settings)
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(text, encoding="utf-8")
        print(options.out)


def _show(names: tuple[str, str], compared: list) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("score", overflow="fold")
    for name in (*names, "difference", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for one in compared:
        arrow = "↑" if one.higher_is_better else "↓"
        table.add_row(
            f"{one.name} {arrow}",
            f"{one.first:.4g}",
            f"{one.second:.4g}",
            f"{one.difference:+.3g}",
            f"{one.low:+.3g} to {one.high:+.3g}",
            one.verdict,
        )
    Console(markup=False, emoji=False).print(table)  # a folder may be called [/b]


if __name__ == "__main__":
    sys.exit(main())
