"""Continue a text with a trained model.

python -m jaxlm.generate --workdir runs/quickstart --prompt "ROMEO:" --max_tokens 300 --temperature 0.8 --seed 0
"""

from __future__ import annotations

import sys

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser(
        "jaxlm.generate",
        "Continue a text with a trained model; prints the prompt and what follows.",
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="a run, a Hugging Face folder or a .gguf"
    )
    parser.add_argument("--prompt", default="\n")
    parser.add_argument("--max_tokens", type=int, default=300)
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0: always the likeliest token"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--best", action="store_true", help="the best checkpoint instead of the newest"
    )
    options = parser.parse_args(argv)

    def work() -> None:
        from jaxlm import api  # after the arguments: their mistakes show at once

        lm = api.load(options.workdir, best=options.best)
        texts = lm.generate(
            options.prompt,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            seed=options.seed,
        )
        print(options.prompt + texts[0])

    return cli.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
