"""What the command lines share: `--config.key=value` overrides, and one clear line for every mistake."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TextIO

from jaxlm import registry

EXPECTED = (ValueError, TypeError, OSError, FloatingPointError)


class Parser(argparse.ArgumentParser):
    """An argument parser that names the nearest option for a misspelt one."""

    def __init__(self, name: str, description: str):
        super().__init__(prog=f"python -m {name}", description=description, allow_abbrev=False)

    def parse_args(self, arguments=None, namespace=None):  # noqa: D102
        options, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            name = unknown[0].split("=")[0]
            self.error(f"no such option {name}{registry.nearest(name, known)}")
        return options

    def error(self, message: str) -> NoReturn:
        """One line, exit code 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def split_overrides(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take `--config.a.b=value` and `--config.a.b value` out of a command line."""
    rest, overrides, index = [], {}, 0
    while index < len(arguments):
        argument = arguments[index]
        index += 1
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            if index >= len(arguments):
                sys.exit(_fail(f"--config.{key} needs a value"))
            value = arguments[index]
            index += 1
        overrides[key] = value
    return rest, overrides


def parse_range(text: str | None, option: str) -> tuple[int, int] | None:
    """`10:13` as (10, 13).

    Raises:
      ValueError: it is not two numbers, the second larger.
    """
    if text is None:
        return None
    first, _, end = text.partition(":")
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise ValueError(f"{option}={text}: expected FIRST:END, such as 10:13")
    return int(first), int(end)


def guarded(work: Callable[[], None], logs: TextIO | None = None) -> int:
    """Run; turn what a user can change into one line on stderr and exit code 2.

    JAXLM_TRACEBACK=1 shows the traceback, for those who change the code.

    Args:
      logs: where what is logged goes; None: standard output.
    """
    logging.basicConfig(format="%(message)s", stream=logs or sys.stdout, level=logging.WARNING)
    logging.getLogger("jaxlm").setLevel(logging.INFO)
    try:
        work()
    except EXPECTED as error:
        if os.environ.get("JAXLM_TRACEBACK") == "1":
            raise
        return _fail(str(error) + _where(error))
    except KeyboardInterrupt:
        print("\njaxlm: interrupted", file=sys.stderr)
        return 130
    return 0


def _where(error: BaseException) -> str:
    """File and line, where the error comes from other code than this package's own checks."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename if trace is not None else ""
    if not file or Path(__file__).parent in Path(file).parents:
        return ""
    return f" ({file}:{trace.tb_lineno}; JAXLM_TRACEBACK=1 shows the whole way there)"


def _fail(message: str) -> int:
    line = " ".join(message.split())
    print(f"jaxlm: error: {line}", file=sys.stderr)
    return 2
