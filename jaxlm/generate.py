"""Write on with a trained model.

python -m jaxlm.generate --workdir runs/quickstart --prompt "ROMEO:" --max_tokens 300 --temperature 0.8 --seed 1
python -m jaxlm.generate --workdir DIR --prompts_file prompts.txt --method beam --num_beams 4 --output texts.jsonl
echo "Once upon a time" | python -m jaxlm.generate --workdir DIR --top_p 0.9
python -m jaxlm.generate --workdir DIR --infill --prompt "The [MASK] sat on the mat."
python -m jaxlm.generate --workdir DIR --image digits.jsonl
python -m jaxlm.generate --workdir TEACHER --prompts_file train.tsv --method beam --num_beams 4 --output taught.jsonl --resume

The last writes a teacher's texts for the sources of its students' pairs: sequence-level distillation (Kim and Rush 2016,
arXiv:1606.07947), trained on by data.path=taught.jsonl data.source_column=prompt data.target_column=text.

A single prompt in a terminal: its text, as it comes. Else one JSON object a line for each continuation; with --infill for
each prompt, with the filled text and what was filled in.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from jaxlm import cli

GROUP = 16  # batches whose results are written together
SETTINGS: dict[str, tuple[Any, str]] = {
    "temperature": (float, "sample: 0 takes the likeliest token each time; default 0.8"),
    "top_k": (int, "sample: keep the k likeliest tokens; contrastive: candidates"),
    "top_p": (float, "sample: keep the fewest tokens that are so probable together"),
    "min_p": (float, "sample: keep tokens with this share of the likeliest one's probability"),
    "repetition_penalty": (float, "sample: above 1 makes tokens of prompt and text less likely"),
    "presence_penalty": (float, "sample: taken off the logits of tokens that were written"),
    "frequency_penalty": (float, "sample: taken off for each time that a token was written"),
    "num_beams": (int, "beam: texts that are followed at once"),
    "num_return": (int, "beam: texts a prompt, best first"),
    "length_penalty": (float, "beam: above 0 favours long texts"),
    "early_stopping": (
        {"true": True, "false": False, "never": "never"},
        "beam: true, false or never",
    ),
    "num_groups": (int, "beam: groups of diverse beam search"),
    "diversity_penalty": (float, "beam: between groups"),
    "penalty_alpha": (float, "contrastive: 0 is greedy"),
    "num_draft": (int, "with --draft: tokens that it writes ahead"),
}
"""Settings of the methods in jaxlm.decode.METHODS; a default stands in the method's file."""
ASKED = ("method", "max_tokens", "seed", "stop", "batch_size", "blank")


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    options = _parser().parse_args(argv)
    return cli.guarded(lambda: _generate(options), logs=sys.stderr)


def _parser() -> cli.Parser:
    parser = cli.Parser("jaxlm.generate", "Write on with a trained model.")
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="a run, a Hugging Face folder or a .gguf"
    )
    parser.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")
    prompts = parser.add_argument_group("prompts (without any: standard input, one a line)")
    prompts.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help='again and again; "-": stdin'
    )
    prompts.add_argument(
        "--prompts_file",
        metavar="FILE",
        help="one a line, or those of a .jsonl or .tsv file's column",
    )
    prompts.add_argument(
        "--column",
        metavar="NAME",
        help='of a .jsonl file, default "prompt"; of a .tsv file with a header, else its first one',
    )
    prompts.add_argument(
        "--image",
        metavar="FILE",
        help="what a model of images writes of: lines as those of its data, or an .npy file; a prompt begins their texts",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="FILE", help="JSON Lines")
    output.add_argument(
        "--resume", action="store_true", help="go on behind the prompts that --output has"
    )
    how = parser.add_argument_group("how", argument_default=argparse.SUPPRESS)
    how.add_argument("--method", help="sample, beam or contrastive; default sample")
    how.add_argument(
        "--max_tokens",
        type=int,
        help="default 200, fewer where they do not fit; of a filling a quarter of the model's positions",
    )
    how.add_argument("--infill", action="store_true", default=False, help="fill gaps in prompts")
    how.add_argument("--blank", metavar="TEXT", help="what stands for a gap; default [MASK]")
    how.add_argument("--seed", type=int, help="prompt number n draws by seed + n; default 0")
    how.add_argument("--stop", action="append", metavar="TEXT", help="ends a text; again and again")
    how.add_argument("--batch_size", type=int, help="prompts side by side; changes no text")
    how.add_argument("--choices", action="append", metavar="TEXT", help="write one of these")
    how.add_argument("--regex", help="write what it matches")
    how.add_argument("--json_schema", metavar="FILE|JSON", help="write JSON of this schema")
    how.add_argument("--draft", metavar="DIR", help="a smaller model that writes ahead")
    for name, (kind, text) in SETTINGS.items():
        kind = {"choices": list(kind)} if isinstance(kind, dict) else {"type": kind}
        how.add_argument(f"--{name}", help=text, **kind)
    return parser


def _generate(options: argparse.Namespace) -> None:
    given = vars(options)
    prompts = list(_prompts(options))
    if not prompts:
        raise ValueError("no prompt: the file or standard input is empty")
    asked = {name: given[name] for name in (*ASKED, *SETTINGS) if name in given}
    for name, (kind, _) in SETTINGS.items():
        if name in asked and isinstance(kind, dict):
            asked[name] = kind[asked[name]]
    asked["constraint"] = _constraint(given)
    if "blank" in asked and not options.infill:
        raise ValueError("--blank goes with --infill")
    if options.resume and not options.output:
        raise ValueError("--resume goes with --output")
    if options.column and not (options.prompts_file or "").endswith((".jsonl", ".tsv")):
        raise ValueError("--column goes with a --prompts_file that is .jsonl or .tsv")
    done = _written(options.output, prompts, asked.get("num_return", 1)) if options.resume else 0
    if done == len(prompts):
        print(f"{options.output} has a text for every prompt", file=sys.stderr)
        return
    from jaxlm import api  # after the arguments: their mistakes show at once

    lm = api.load(options.workdir, best=options.best)
    if "draft" in given:
        asked["draft"] = api.load(given["draft"])
    if options.image is not None:
        asked["images"] = api.read_images(options.image, lm)
        prompts = prompts * len(asked["images"]) if len(prompts) == 1 else prompts
    several = len(prompts) > 1 or asked.get("num_return", 1) > 1
    rows = _filled_rows if options.infill else _written_rows
    with api.measured() as timing:
        if options.output:
            with open(options.output, "a" if done else "w", encoding="utf-8") as file:
                _write_lines(lm, prompts, asked, rows, file, done)
        elif several or not sys.stdout.isatty():
            _write_lines(lm, prompts, asked, rows, sys.stdout)
        else:
            _stream(lm, prompts[0], asked, options.infill)
    print(timing, file=sys.stderr)


def _prompts(options: argparse.Namespace) -> Iterator[str]:
    """In the order of their arguments, then those of the file."""
    for prompt in options.prompt:
        yield from _lines(sys.stdin) if prompt == "-" else [prompt]
    if options.prompts_file is not None:
        path = Path(options.prompts_file)
        with open(path, encoding="utf-8") as file:
            if path.suffix == ".tsv":
                yield from _column_of(file, options.column, path)
            elif path.suffix != ".jsonl":
                yield from _lines(file)
            else:
                for number, line in enumerate(_lines(file), 1):
                    yield _prompt_of(line, f"{path}:{number}", options.column or "prompt")
    elif options.image is not None and not options.prompt:
        yield ""
    elif not options.prompt:
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("no prompt: give --prompt TEXT, --prompts_file FILE or pipe them in")
        yield from _lines(sys.stdin)


def _lines(file: TextIO) -> Iterator[str]:
    try:
        yield from (line.removesuffix("\n") for line in file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{getattr(file, 'name', 'prompts')} is not UTF-8: {error}") from error


def _column_of(file: TextIO, column: str | None, path: Path) -> Iterator[str]:
    """One column of the lines that aren't blank: the first, or the one that a header calls so."""
    rows = (line.split("\t") for line in _lines(file) if line.strip())
    if column is None:
        yield from (row[0] for row in rows)
        return
    header = next(rows, [])
    if column not in header:
        raise ValueError(f"{path}:1 names no column {column!r}: {', '.join(header)}")
    place = header.index(column)
    for number, row in enumerate(rows, 2):
        if place >= len(row):
            raise ValueError(f"{path}:{number} has {len(row)} columns, and no {column!r}")
        yield row[place]


def _written(output: str, prompts: list[str], each: int) -> int:
    """How many prompts a file has all texts of, `each` of them; what it has of a further one is taken out of it.

    Raises:
      ValueError: texts of other prompts.
    """
    path = Path(output)
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # cut short
    done = len(lines) // each
    found = [json.loads(line)["prompt"] for line in lines[: done * each : each]]
    if found != prompts[:done]:
        raise ValueError(
            f"--resume: {output} has texts of other prompts than these, or another number of each"
        )
    if lines:
        path.write_bytes(b"".join(lines[: done * each]))
    return done


def _prompt_of(line: str, where: str, column: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        raise ValueError(f'{where} has no text under "{column}"')
    return row[column]


def _constraint(given: dict[str, Any]) -> dict[str, Any] | None:
    found = {name: given[name] for name in ("choices", "regex", "json_schema") if name in given}
    if len(found) > 1:
        raise ValueError(f"--{' and --'.join(found)}: name one of them")
    schema = found.get("json_schema")
    if schema is not None and not schema.lstrip().startswith("{"):
        found["json_schema"] = Path(schema).read_text(encoding="utf-8")
    return found or None


def _stream(lm: Any, prompt: str, asked: dict[str, Any], infill: bool) -> None:
    """The text as it comes, behind its prompt; an encoder-decoder's alone, a filled text from its beginning."""
    if not infill and "source" not in lm.model.inputs:
        print(prompt, end="", flush=True)
    write = lm.fill if infill else lm.write
    write([prompt], **asked, on_text=lambda _, piece: print(piece, end="", flush=True))
    print()


def _write_lines(
    lm: Any,
    prompts: list[str],
    asked: dict[str, Any],
    rows: Callable[..., Any],
    file: TextIO,
    done: int = 0,
) -> None:
    """A group of batches after the other, so that what is done is kept."""
    group, seed = GROUP * asked.get("batch_size", 8), asked.get("seed", 0)
    for start in range(done, len(prompts), max(1, group)):
        part, now = prompts[start : start + group], {"seed": seed + start}
        if "images" in asked:
            now["images"] = asked["images"][start : start + group]
        for place, row in rows(lm, part, asked | now):
            row = {"prompt": part[place], **row, "seed": seed + start + place}
            row["method"] = asked.get("method", "sample")
            print(json.dumps(row, ensure_ascii=False), file=file, flush=True)


def _written_rows(
    lm: Any, prompts: list[str], asked: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of a prompt and what was written behind it, best first."""
    for place, texts in enumerate(lm.write(prompts, **asked)):
        for one in texts:
            yield place, _fields(one)


def _filled_rows(
    lm: Any, prompts: list[str], asked: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of a prompt, its text and what was filled in."""
    for place, one in enumerate(lm.fill(prompts, **asked)):
        yield place, {"text": one.text, "fillings": [_fields(text) for text in one.fillings]}


def _fields(one: Any) -> dict[str, Any]:
    return {
        "text": one.text,
        "finish": one.finish,
        "num_tokens": len(one.tokens),
        "score": one.score,
    }


if __name__ == "__main__":
    sys.exit(main())
