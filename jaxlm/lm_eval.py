"""The evaluation harness's own command line with jaxlm in it: the model "jaxlm", and the tasks on bundled texts.

python -m jaxlm.lm_eval --model jaxlm --model_args path=runs/quickstart --tasks jaxlm_choice,jaxlm_technical
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change; the harness's own for its arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    return cli.guarded(lambda: run(arguments))


def run(arguments: list[str]) -> None:
    """Do what the harness's arguments say; without --model it is "jaxlm".

    Raises:
      ValueError: the harness is not installed, or something that the user can change.
    """
    from jaxlm.interop import lm_eval, lm_eval_tasks  # registers the model

    harness = lm_eval.harness()
    with mock.patch.object(sys, "argv", ["lm-eval", *arguments]):  # where it reads them
        options = harness.parse_args()
    if "include_path" in options:
        options.include_path = [str(lm_eval_tasks.FOLDER), *_paths(options)]
    if "model_args" in options and not options.model and not options.config:
        options.model = "jaxlm"
    harness.execute(options)


def _paths(options: Any) -> list[str]:
    """Folders with tasks that the user names; what is said here takes the place of what a --config file says."""
    said = options.include_path
    if said is None and getattr(options, "config", None):
        from lm_eval.config.evaluate_config import EvaluatorConfig

        said = EvaluatorConfig.load_yaml_config(options.config).get("include_path")
    return [said] if isinstance(said, str) else list(said or ())


if __name__ == "__main__":
    sys.exit(main())
