"""Examples to the batches of an evaluation, and batches as a person reads them.

What every task's `eval` and `show` are made of; what an example is, each task says. Batches of
training are cut in pipeline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxlm.core.types import Batch

_LONGEST = 24  # tokens of a line


def evaluation(
    example: Callable[[int], dict[str, np.ndarray]], ids: Sequence[int], batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of the examples with these ids, in order; the last one is filled with zeros.

    Yields:
      What `example` gives, each with a batch axis, and id int64 [B] (-1 in filling rows).
    """
    for first in range(0, len(ids), batch_size):
        own = list(ids[first : first + batch_size])
        rows = [example(number) for number in own]
        batch = {
            name: np.zeros((batch_size, *value.shape), value.dtype)
            for name, value in rows[0].items()
        }
        for row, values in enumerate(rows):
            for name, value in values.items():
                batch[name][row] = value
        batch["id"] = np.array(own + [-1] * (batch_size - len(own)), np.int64)
        yield batch


def show(
    batch: Batch,
    num_examples: int,
    predictions: np.ndarray | None,
    show_example: Callable[[dict[str, np.ndarray], np.ndarray | None], list[str]],
) -> str:
    """The first rows of a batch, each under a line that counts.

    Args:
      batch: tokens, weights and whatever `show_example` reads.
      num_examples: how many rows.
      predictions: int32 like the targets, or None.
      show_example: from a row and its predictions to lines.
    """
    lines = []
    for row in range(min(num_examples, len(batch["tokens"]))):
        arrays = {
            n: values for n, values in batch.items() if values.dtype != object
        }  # no raw texts
        example = {name: np.asarray(values[row]) for name, values in arrays.items()}
        predicted = None if predictions is None else np.asarray(predictions[row])
        segments = example.get("segment_ids")
        size = len(example["tokens"]) if segments is None else int((segments > 0).sum())
        scored = int((example["weights"] > 0).sum())
        lines += [f"example {row}: {size} tokens, {scored} scored"]
        lines += [f"  {line}" for line in show_example(example, predicted)]
    return "\n".join(lines)


def piece(tokenizer: Any, token: int) -> str:
    """A token as id and text."""
    return f"{int(token)}:{tokenizer.decode([int(token)])!r}"


def show_targets(
    tokenizer: Any,
    tokens: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    predicted: np.ndarray | None = None,
) -> str:
    """The first tokens, each with its target, or "ignored", and with what was predicted for it."""
    pairs = []
    for place in range(min(len(tokens), _LONGEST)):
        wanted = piece(tokenizer, targets[place]) if weights[place] else "ignored"
        if weights[place] and predicted is not None:
            wanted += f" (predicted {piece(tokenizer, predicted[place])})"
        pairs.append(f"{piece(tokenizer, tokens[place])} -> {wanted}")
    return f"{'  '.join(pairs)}{'  ...' if len(tokens) > _LONGEST else ''}"
