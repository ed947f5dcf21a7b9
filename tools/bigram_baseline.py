"""What an add-one bigram reaches on the text of an experiment, or on the targets of its pairs, as one JSON line: the least
that a model should beat.

    python tools/bigram_baseline.py experiments/llama_small.py:tiny [--config.data.path=...]

p(b | a) = (count of a b + 1) / (count of a + V) over the training tokens of the config's data, with its tokenizer; scored on
every validation token after the one before it; of pairs, on what a decoder writes, end included, from the target alone. V is the tokenizer's vocabulary, without what a task puts behind it.
"""

from __future__ import annotations

import json
import math
import sys

import numpy as np

from jaxlm import cli, config


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.bigram_baseline", "Bits per byte of an add-one bigram.")
    parser.add_argument("experiment", metavar="FILE.py[:variant]")
    options = parser.parse_args(arguments)
    return cli.guarded(
        lambda: print(json.dumps(baseline(config.load(options.experiment, overrides))))
    )


def baseline(cfg) -> dict:
    """Scores of the bigram over the streams of a task that is made of text."""
    from jaxlm.data import special_tokens
    from jaxlm.train import assembly

    task = assembly.make_task(assembly.with_lengths(cfg))
    if hasattr(task, "parts"):
        streams = [text_stream(part) for part in task.parts]
    elif "target_len" in cfg.data:
        eos, limit = task.tokenizer.eos_id, cfg.data.target_len
        streams = [tuple(target_stream(task.splits[name], eos, limit) for name in ("train", "val"))]
    else:
        raise ValueError(
            f'data.kind="{cfg.data.kind}" is no stream of text: a bigram has nothing to count'
        )
    tokenizer = special_tokens.base(task.tokenizer)
    nll, targets = bigram_nll(streams, tokenizer.vocab_size)
    num_bytes = int(tokenizer.token_bytes()[targets].sum())
    return {
        "data": cfg.data.path,
        "tokenizer": tokenizer.name,
        "bits_per_byte": float(nll.sum() / math.log(2) / num_bytes),
        "loss": float(nll.mean()),
        "tokens": len(targets),
        "bytes": num_bytes,
    }


def text_stream(part) -> tuple[np.ndarray, np.ndarray]:
    """Training tokens of a source, and its validation tokens with the one before them."""
    ids = np.empty(len(part.tokens), np.int32)
    part.tokens.fill(0, ids)
    return ids[: part.num_train], ids[part.num_train - 1 :]


def target_stream(split, eos_id: int, limit: int) -> np.ndarray:
    """The targets of pairs, cut as the task cuts them, each between two ends."""
    targets = split.table.columns["target"]
    ended = [np.append(targets[row][: limit - 1], eos_id) for row in split.rows]
    return np.concatenate([[eos_id], *ended])


def bigram_nll(
    streams: list[tuple[np.ndarray, np.ndarray]], vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nats of every validation token, and these tokens.

    Args:
      streams: (training tokens, validation tokens with the one before them) of each source.
    """

    def pairs(ids: np.ndarray) -> np.ndarray:
        return ids[:-1].astype(np.int64) * vocab_size + ids[1:]

    seen, counts = np.unique(np.concatenate([pairs(ids) for ids, _ in streams]), return_counts=True)
    firsts = np.bincount(seen // vocab_size, counts, vocab_size)
    asked = np.concatenate([pairs(ids) for _, ids in streams])
    places = np.minimum(np.searchsorted(seen, asked), len(seen) - 1)
    found = np.where(seen[places] == asked, counts[places], 0)
    return -np.log((found + 1) / (firsts[asked // vocab_size] + vocab_size)), asked % vocab_size


if __name__ == "__main__":
    sys.exit(main())
