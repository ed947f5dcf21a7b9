"""Command line -> config -> train.loop.run.

python -m jaxlm.launch --config experiments/quickstart.py [--config.any.key=value ...] [--workdir DIR]
"""

from __future__ import annotations

import sys
from pathlib import Path

from jaxlm import cli, config


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 done, 2 something that the user can change, 128 + n stopped by signal n."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser(
        "jaxlm.launch", "Train what an experiment's file says; the same command again resumes."
    )
    parser.add_argument("--config", required=True, metavar="FILE.py[:variant]")
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<experiment>[-<variant>]")
    parser.add_argument(
        "--show_batch", action="store_true", help="print tokenised, masked examples and stop"
    )
    parser.add_argument(
        "--profile_steps", metavar="FIRST:END", help="trace these steps with jax.profiler"
    )
    options = parser.parse_args(arguments)

    def work() -> None:
        profile = cli.parse_range(options.profile_steps, "--profile_steps")
        cfg = config.load(options.config, overrides)
        workdir = options.workdir or Path("runs") / config.experiment_name(options.config)
        from jaxlm.train import loop, parallel  # after the config: its mistakes show at once

        parallel.initialize_distributed()
        if options.show_batch:
            print(loop.show_batch(cfg))
        else:
            loop.run(cfg, workdir, profile)

    return cli.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
