"""Ask vectors of words what is near to what, and write them in word2vec's formats.

python -m jaxlm.neighbours --model RUN --word king
python -m jaxlm.neighbours --model vectors.txt --analogy king man woman         king - man + woman
python -m jaxlm.neighbours --model RUN --pairs wordsim353.tsv --analogies questions-words.txt
python -m jaxlm.neighbours --model RUN --export vectors.bin

RUN is a run's folder (experiments/families/skipgram.py, cbow.py, fasttext.py, glove.py); a file is *.txt or *.vec (word2vec's text,
GloVe's too), *.bin (word2vec's binary) or *.npy with --words. In a terminal a table is shown; else one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    return cli.guarded(lambda: _answer(options), logs=sys.stderr)


def _parser() -> cli.Parser:
    parser = cli.Parser("jaxlm.neighbours", "Ask vectors of words what is near to what.")
    parser.add_argument(
        "--model", required=True, metavar="RUN|FILE", help="a run's folder or a file"
    )
    parser.add_argument("--words", default="", metavar="FILE", help="the words of a *.npy file")
    parser.add_argument(
        "--word", action="append", default=[], help="its neighbours; again and again"
    )
    parser.add_argument(
        "--analogy",
        action="append",
        nargs=3,
        default=[],
        metavar=("A", "B", "C"),
        help="what is near A - B + C",
    )
    parser.add_argument(
        "--pairs", metavar="FILE", help="two words and a score a line: Spearman's correlation"
    )
    parser.add_argument("--analogies", metavar="FILE", help="four words a line: how many are right")
    parser.add_argument("--k", type=int, default=10, help="neighbours; default 10")
    parser.add_argument("--export", metavar="FILE", help="write the vectors: *.txt, *.vec or *.bin")
    return parser


def _answer(options: argparse.Namespace) -> None:
    from jaxlm import word_vectors

    asked = (options.word, options.analogy, options.pairs, options.analogies, options.export)
    if not any(asked):
        raise ValueError("nothing asked: give --word, --analogy, --pairs, --analogies or --export")
    if options.k < 1:
        raise ValueError(f"--k {options.k} must be at least 1")
    vectors = word_vectors.load(options.model, options.words)
    for word in options.word:
        _show({"word": word}, vectors.neighbours(word, options.k))
    for words in options.analogy:
        _show({"analogy": words}, vectors.analogy(*words, k=options.k))
    _score(vectors, options)
    if options.export:
        from jaxlm.interop import word2vec

        word2vec.write(options.export, word2vec.WordTable(vectors.words, vectors.vectors_VD))
        size, width = vectors.vectors_VD.shape
        print(f"{options.export}: {size} words, {width} numbers each", file=sys.stderr)


def _score(vectors: Any, options: argparse.Namespace) -> None:
    from jaxlm.eval import word_vectors as scores

    rows = []
    if options.pairs:
        rows += scores.similarity_rows(vectors, scores.read_pairs(options.pairs))
    if options.analogies:
        rows += scores.analogy_rows(vectors, scores.read_analogies(options.analogies))[0]
    for row in rows:
        if sys.stdout.isatty():
            print(f"{row.name:<12} {row.value:.4f} ± {row.stderr:.4f}  {row.signature}")
        else:
            found = {name: getattr(row, name) for name in ("name", "value", "stderr", "signature")}
            print(json.dumps(found, ensure_ascii=False), flush=True)


def _show(asked: dict[str, Any], found: list[tuple[str, float]]) -> None:
    if not sys.stdout.isatty():
        near = [{"word": word, "cosine": round(cosine, 6)} for word, cosine in found]
        print(json.dumps(asked | {"neighbours": near}, ensure_ascii=False), flush=True)
        return
    value = next(iter(asked.values()))
    print(value if isinstance(value, str) else "{} - {} + {}".format(*value))
    for word, cosine in found:
        print(f"  {cosine:.4f}  {word}")


if __name__ == "__main__":
    sys.exit(main())
