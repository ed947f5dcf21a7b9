"""Train a byte-level BPE tokenizer on one's own text.

    python -m jaxlm.train_tokenizer --input FILES --vocab_size N --out tokenizer.json

Splits words as GPT-2 does, so any text comes back byte for byte. Use it with
`--config.data.tokenizer=tokenizer.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm import cli
from jaxlm.data import bpe, sources


def train(
    inputs: Sequence[str],
    vocab_size: int,
    out: str,
    min_frequency: int = 2,
    text_column: str = "text",
) -> dict[str, Any]:
    """Train on files and write a tokenizer.json; the same files give the same tokenizer.

    Args:
      inputs: sources as in `data.path`: files, globs, bundled:NAME.
      vocab_size: entries wanted, the 256 bytes and <|endoftext|> included; a small text may give
        fewer.
      out: the file to write.
      min_frequency: a pair seen less often is not merged.
      text_column: which entry of a record is the text.

    Returns:
      The summary: path, entries, and bytes a token on the training text.

    Raises:
      ValueError: bad input or vocabulary size.
    """
    if vocab_size < bpe.MIN_SIZE:
        raise ValueError(
            f"--vocab_size={vocab_size} must be at least {bpe.MIN_SIZE}: 256 bytes and {bpe.EOS}"
        )
    if not out.endswith(".json"):
        raise ValueError(f"--out={out} must end in .json, by which data.tokenizer knows it")
    opened = [
        sources.open_source(part.path, text_column)
        for path in inputs
        for part in sources.parse(path)
    ]
    for source in opened:
        if not source.scan()[1]:
            raise ValueError(f"--input={source.name} holds no text")
    pieces = (text for source in opened for text, _ in source.pieces())
    tokenizer = bpe.train(pieces, vocab_size, min_frequency, show_progress=sys.stderr.isatty())
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    num_bytes = num_tokens = 0
    for source in opened:
        for text, _ in source.pieces():
            num_bytes += len(text.encode("utf-8"))
            num_tokens += len(tokenizer.encode(text).ids)
    return {
        "out": str(path),
        "vocab_size": tokenizer.get_vocab_size(),
        "num_bytes": num_bytes,
        "bytes_per_token": round(num_bytes / max(1, num_tokens), 4),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("jaxlm.train_tokenizer", __doc__.splitlines()[0])
    parser.add_argument("--input", nargs="+", required=True, dest="inputs", help="as data.path")
    parser.add_argument("--vocab_size", type=int, required=True)
    parser.add_argument("--out", required=True, help="the tokenizer.json to write")
    parser.add_argument("--min_frequency", type=int, default=2)
    parser.add_argument("--text_column", default="text", help="entry of a record that is the text")
    options = vars(parser.parse_args(argv))
    return cli.guarded(lambda: print(json.dumps(train(**options))))


if __name__ == "__main__":
    sys.exit(main())
