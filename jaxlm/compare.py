"""Compare two models by results of the same suite on the same data.

python -m jaxlm.compare runs/a/evaluations/run/results.json runs/b/evaluations/run/results.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser(
        "jaxlm.compare", "Two models on the same data: differences by paired bootstrap."
    )
    parser.add_argument("first", metavar="A", help="a results.json, or its folder")
    parser.add_argument("second", metavar="B", help="another one, of the same suite and data")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE", help="write the comparison as JSON, too")
    options = parser.parse_args(argv)
    return cli.guarded(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    from jaxlm.eval import comparison, results

    first, second = results.load(options.first), results.load(options.second)
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
