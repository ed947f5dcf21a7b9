"""Answer questions from your own documents, with the places that say so.

python -m jaxlm.retrieve build --documents "notes/*.txt" --index notes.index --language english --encoder PATH
python -m jaxlm.answer --index notes.index --reader PATH --question "How is the cache cleared?"

The reader is a chat model, which writes an answer from numbered passages (a .gguf, a folder in the Hugging Face layout, a run),
or a run of experiments/finetune_spans.py, which marks the answer in one of them. In a terminal answers are shown to be read,
with their sources; else one JSON object a line for each question.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from jaxlm import cli, retrieve


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("jaxlm.answer", "Answer questions from documents, with their sources.")
    parser.add_argument(
        "--reader", required=True, metavar="PATH", help="a chat model, or a run trained on spans"
    )
    retrieve.add_search_options(parser, k=3)
    parser.add_argument(
        "--max_tokens", type=int, default=64, help="of an answer that is written; default 64"
    )
    options = parser.parse_args(argv)
    return cli.guarded(lambda: _answer(options), logs=sys.stderr)


def _answer(options: argparse.Namespace) -> None:
    questions = retrieve.asked(options.question)
    searcher = retrieve.opened(options.index, options.encoder, options.method)
    from jaxlm import api
    from jaxlm.retrieval import readers

    lm = api.load(options.reader)
    found = searcher.search(questions, options.k, options.method)
    for question, hits in zip(questions, found, strict=True):
        answer = readers.read(lm, question, hits, options.max_tokens)
        if sys.stdout.isatty():
            _show(answer)
            continue
        row = answer._asdict() | {
            "citations": [place._asdict() for place in answer.citations],
            "read": [hit.passage.id for hit in hits],
        }
        print(json.dumps(row, ensure_ascii=False), flush=True)


def _show(answer: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(emoji=False)
    console.print(Text(answer.question, "bold"))
    console.print(Text(answer.text or "(no answer in the passages)"))
    for place in answer.citations:
        title = f"{place.title}, " if place.title else ""
        where = f"  {title}{place.source}, characters {place.start} to {place.end}"
        console.print(Text(where, "dim"))
        if answer.cited_by != "span":
            console.print(Text(f"  {place.text}", "dim"))
    if answer.cited_by == "words":
        console.print(Text("  (the model named no passage: this one has most of its words)", "dim"))


if __name__ == "__main__":
    sys.exit(main())
