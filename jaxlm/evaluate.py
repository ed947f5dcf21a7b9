"""Score a model: a run, a folder in the Hugging Face layout or a .gguf file.

python -m jaxlm.evaluate --workdir runs/quickstart                                  its own evaluators, on its own data
python -m jaxlm.evaluate --model DIR --suite language_modelling,choice --limit 200
python -m jaxlm.evaluate --model DIR --suite qa --shots 0,1,2,4
python -m jaxlm.evaluate --verify evaluations/DIR-qa/results.json                   once more, and compared
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from jaxlm import cli

OPTIONS = {
    "data": "what to score: bundled:NAME or files (each suite has its own default)",
    "limit": "so many examples only (language_modelling: characters of each domain)",
    "shots": "solved examples before a question; 0,1,2,4 makes a curve",
    "examples": "a file to take solved examples from, for --data of your own",
    "seed": "chooses examples and draws",
    "batch_size": "texts at once; moves no score",
    "context": "language_modelling: tokens that a window reads",
    "stride": "language_modelling: tokens by which windows slide",
    "max_tokens": "how long an answer may get",
    "temperature": "of answers; 0: greedy",
}
"""Options of suites that have an argument of their own; any other by --option NAME=VALUE."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0; 1 where --verify finds another result; 2 for something that the user can change."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    options = parser.parse_args(argv)
    if options.workdir and options.model:
        parser.error("--workdir and --model: name one of them")
    path = options.workdir or options.model
    if not path and not options.verify:
        parser.error("name a model: --workdir DIR of a run, or --model PATH")
    typed = [options.suite, options.out, options.best, *options.option]
    typed += [getattr(options, name) for name in OPTIONS]
    if options.verify and any(typed):
        parser.error("--verify runs what the file says: it takes no suite and no options of one")
    different: list[str] = []

    def work() -> None:
        if options.verify:
            different.extend(_verify(options.verify, path))
        else:
            _evaluate(options, path, argv)

    return cli.guarded(work) or int(bool(different))


def _parser() -> cli.Parser:
    parser = cli.Parser("jaxlm.evaluate", "Score a model; writes JSON and a report in HTML.")
    parser.add_argument("--workdir", metavar="DIR", help="a run")
    parser.add_argument("--model", metavar="PATH", help="a Hugging Face folder, .gguf file or run")
    parser.add_argument(
        "--suite",
        metavar="NAME[,NAME]",
        help="run (default with --workdir), language_modelling, choice, classification, qa, summaries, "
        "translation, retrieval, diversity, or your_module:YourSuite",
    )
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint instead of the newest"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="default: WORKDIR/evaluations/SUITE, evaluations/MODEL-SUITE"
    )
    parser.add_argument("--verify", metavar="FILE", help="run a results.json again and compare")
    for name, text in OPTIONS.items():
        parser.add_argument(f"--{name}", help=text)
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other option of a suite",
    )
    return parser


def _given(options: argparse.Namespace) -> dict[str, str]:
    """The options of suites that were typed.

    Raises:
      ValueError: an --option without a value.
    """
    given = {name: getattr(options, name) for name in OPTIONS}
    for text in options.option:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option {text}: expected NAME=VALUE")
        given[name] = value
    return {name: value for name, value in given.items() if value is not None}


def _evaluate(options: argparse.Namespace, path: str, argv: list[str]) -> None:
    from jaxlm import api  # after the arguments: their mistakes show at once
    from jaxlm.eval import report, results

    asked = _asked(options)
    command = ["python", "-m", "jaxlm.evaluate", *argv]
    model = api.name_of(path)
    folders = {suite: _folder(options, suite, model, len(asked)) for suite in asked}
    for folder in folders.values():
        results.check_writable(folder)  # what is scored for hours is kept
    for result in api.evaluate(path, asked, best=options.best, command=command):
        written = results.save(result, folders[result.suite["name"]], report.page(result))
        report.show(result)
        print(f"{written}\n{written.parent / results.REPORT}\n")


def _asked(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Suite -> the options that were typed for it."""
    from jaxlm.eval import suites

    names = [name.strip() for name in (options.suite or "").split(",") if name.strip()]
    if not names and not options.workdir:
        raise ValueError(f"--suite: name one of {', '.join(suites.SUITES)}")
    return suites.shared_out(names or ["run"], _given(options))


def _folder(options: argparse.Namespace, suite: str, model: str, number: int) -> Any:
    suite = suite.replace(":", "-")
    if options.out:
        return options.out if number == 1 else f"{options.out.rstrip('/')}/{suite}"
    if options.workdir:
        return f"{options.workdir.rstrip('/')}/evaluations/{suite}"
    return Path("evaluations") / f"{model}-{suite}"


def _verify(file: str, path: str | None) -> list[str]:
    """What differs from the recorded result when it is run again."""
    from jaxlm import api
    from jaxlm.eval import comparison, results

    old = results.load(file)
    print(f"recorded   {shlex.join(old.command)}")
    name, model = old.suite["name"], old.model
    again = api.evaluate(path or model["path"], {name: old.suite["options"]}, best=model["best"])
    wrong, notes = comparison.differences(old, next(again))
    for line in notes:
        print(f"note       {line}")
    for line in wrong:
        print(f"DIFFERS    {line}")
    if not wrong:
        print(
            f"verified   {len(old.scores.rows)} scores of {old.title}: same weights, same data, equal values"
        )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
