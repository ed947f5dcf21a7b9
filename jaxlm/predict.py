"""What a fine-tuned model says of new lines: labels, tags, choices, answers in texts, scores.

python -m jaxlm.predict --workdir runs/mine --data new.csv --output predictions.jsonl
python -m jaxlm.predict --workdir runs/mine --text "I'd see it again." --text "Two hours of my life."
echo "I'd see it again." | python -m jaxlm.predict --workdir runs/mine

One JSON object a line, in order: id, input, prediction. Lines have the columns that the model was trained on; what is to be
predicted may be missing, and where it is there, reference and score stand beside it.
"""

from __future__ import annotations

import argparse
import json
import sys

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    options = _parser().parse_args(argv)
    return cli.guarded(lambda: _predict(options), logs=sys.stderr)


def _parser() -> cli.Parser:
    parser = cli.Parser("jaxlm.predict", "What a fine-tuned model says of new lines.")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a run")
    parser.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")
    parser.add_argument("--data", metavar="FILE", help=".csv, .jsonl, .json, .tsv or hf:, tfds:")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="TEXT",
        help="again and again; without --data and --text: standard input, one a line",
    )
    parser.add_argument("--output", metavar="FILE", help="JSON Lines")
    return parser


def _predict(options: argparse.Namespace) -> None:
    if options.data and options.text:
        raise ValueError("--data and --text: give one of them")
    texts = options.text
    if not (options.data or texts):
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("nothing to predict: give --data FILE, --text TEXT or pipe lines in")
        texts = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    from jaxlm import api  # after the arguments: their mistakes show at once

    found = api.predict(options.workdir, options.data or texts, best=options.best)
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in found]
    if not options.output:
        sys.stdout.writelines(lines)
        return
    with open(options.output, "w", encoding="utf-8") as file:
        file.writelines(lines)
    print(f"{options.output}: {len(lines)} lines", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
