"""Find passages of your own documents.

python -m jaxlm.retrieve build --documents "notes/*.txt" --index notes.index --language english --encoder PATH
python -m jaxlm.retrieve search --index notes.index --question "How is the cache cleared?"

Documents are *.txt files, one each, or lines of *.jsonl, *.csv or *.tsv with named columns. --language counts words (BM25),
--encoder compares the vectors of a sentence encoder (a folder in the Hugging Face layout, or a run of experiments/embed.py),
both together are fused. In a terminal passages are shown to be read; else one JSON object a line for each question.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["build"]:
        options = _build_parser().parse_args(argv[1:])
        return cli.guarded(lambda: _build(options))
    if argv[:1] == ["search"]:
        options = _search_parser().parse_args(argv[1:])
        return cli.guarded(lambda: _search(options), logs=sys.stderr)
    parser = cli.Parser("jaxlm.retrieve", "Find passages of documents. Each command has --help.")
    parser.add_argument("command", choices=("build", "search"))
    parser.parse_args(argv[:1])
    return 2


def _build_parser() -> cli.Parser:
    parser = cli.Parser("jaxlm.retrieve build", "Make an index of documents.")
    parser.add_argument(
        "--documents", required=True, metavar="PATH", help="files or a glob in quotes; bundled:NAME"
    )
    parser.add_argument("--index", required=True, metavar="DIR", help="a new folder")
    how = parser.add_argument_group("how", argument_default=argparse.SUPPRESS)
    how.add_argument("--text_column", help="of lines; several joined by +; default text")
    how.add_argument("--title_column", help="of lines; default none")
    how.add_argument("--passage_characters", type=int, help="at most, of a passage; default 600")
    how.add_argument("--overlap", type=int, help="characters that a passage repeats; default 0")
    how.add_argument("--language", help="of the words that BM25 counts: english, chinese, any, ...")
    how.add_argument(
        "--vector_index", help="as faiss spells it: Flat (default, exact), HNSW32, ..."
    )
    parser.add_argument("--encoder", metavar="PATH", help="a sentence encoder: a folder or a run")
    return parser


def _search_parser() -> cli.Parser:
    parser = cli.Parser("jaxlm.retrieve search", "Search an index.")
    add_search_options(parser, k=5)
    return parser


def add_search_options(parser: cli.Parser, k: int) -> None:
    """Which index is asked what, and how; `k` passages a question where nothing else is said."""
    parser.add_argument("--index", required=True, metavar="DIR", help="of jaxlm.retrieve build")
    parser.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="TEXT",
        help="again and again; else stdin",
    )
    parser.add_argument("--k", type=int, default=k, help=f"passages a question; default {k}")
    parser.add_argument("--method", default="", help="bm25, dense or hybrid; default: all there is")
    parser.add_argument(
        "--encoder", metavar="PATH", help="where the index's encoder is, if it was moved"
    )


def _build(options: argparse.Namespace) -> None:
    from jaxlm.retrieval import index

    given = {
        name: value for name, value in vars(options).items() if name not in ("index", "encoder")
    }
    encoder = _encoder(options.encoder) if options.encoder else None
    made = index.build(Path(options.index), index.Settings(**given), encoder)
    print(f"{options.index}: {len(made.passages)} passages, found by {', '.join(made.methods)}")


def _search(options: argparse.Namespace) -> None:
    questions = asked(options.question)
    searcher = opened(options.index, options.encoder, options.method)
    found = searcher.search(questions, options.k, options.method)
    if sys.stdout.isatty():
        _show(questions, found)
        return
    for question, hits in zip(questions, found, strict=True):
        rows = [{"rank": hit.rank, "score": hit.score, **hit.passage._asdict()} for hit in hits]
        print(json.dumps({"question": question, "passages": rows}, ensure_ascii=False), flush=True)


def asked(questions: Sequence[str]) -> list[str]:
    """Those of the command line, or lines of standard input.

    Raises:
      ValueError: there are none.
    """
    given = questions if questions or sys.stdin.isatty() else sys.stdin
    found = [one.strip() for one in given if one.strip()]
    if len(found) < len(questions) or not found:
        raise ValueError("no question: give --question TEXT, or lines of standard input")
    return found


def opened(folder: str, encoder: str | None, method: str) -> Any:
    """A Searcher of an index with what `method` needs: for bm25 alone no encoder is read."""
    from jaxlm.retrieval import index

    made_by = index.recorded(Path(folder))["encoder"]
    if encoder is None and (made_by is None or method == "bm25"):
        return index.load(Path(folder))
    return index.load(Path(folder), _encoder(encoder or made_by["path"]))


def _encoder(path: str) -> Any:
    from jaxlm import api

    return api.encoder(path)


def _show(questions: Sequence[str], found: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(emoji=False)
    for question, hits in zip(questions, found, strict=True):
        console.print(Text(question, "bold"))
        for hit in hits:
            one = hit.passage
            where = f"{one.source}, characters {one.start} to {one.end}"
            console.print(Text(f"{hit.rank:>3}  {hit.score:.4g}  {where}", "dim"))
            console.print(
                Text(f"     {one.title}: {one.text}" if one.title else f"     {one.text}")
            )


if __name__ == "__main__":
    sys.exit(main())
