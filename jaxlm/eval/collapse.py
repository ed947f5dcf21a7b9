"""How varied the texts are that a language model writes freely: a generator that has collapsed writes the same few again and again.

Each text begins with the first token of an evaluation example, and is a token shorter at most: decoding would read a full context
again. Scores are those of diversity.py, which the suite "diversity" gives of finished models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxlm.core.types import Batch, TaskInfo
from jaxlm.eval import Scores, diversity

NUM_TEXTS = 64


class Collapse:
    """distinct_n, self_bleu and repetition_n of at most NUM_TEXTS texts, drawn from the model's own distribution.

    Greedily written texts would be alike of any model. Of fewer than two texts self-BLEU says nothing.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError for data that is no text, or whose tokenizer has no end of a text."""
        if info.tokenizer is None or info.labels or info.num_outputs:
            raise ValueError(
                'evaluators: "collapse" is of texts that are written freely: data.kind="text"'
            )
        if info.tokenizer.eos_id is None:
            raise ValueError(
                f'evaluators: "collapse" needs a tokenizer with an end of a text, and {info.tokenizer.name} has none'
            )
        diversity.rows(["a", "b"])  # a library that is missing is said now
        self.tokenizer, self.num_tokens = info.tokenizer, max(1, seq_len - 2)
        self.writes = {"method": "sample", "temperature": 1.0, "max_tokens": self.num_tokens}

    def own(self, data: Iterable[Batch]) -> Iterator[Batch]:
        """The first examples as prompts of one token, whose texts go on until the end of a text, or of the row."""
        left = NUM_TEXTS
        for batch in data:
            real = np.cumsum(batch["id"] >= 0)
            ids = np.where(real <= left, batch["id"], -1)
            yield {
                "tokens": batch["tokens"],
                "targets": np.full_like(batch["tokens"], self.tokenizer.eos_id),
                "weights": np.ones(batch["tokens"].shape, np.float32),
                "id": ids,
                "reference": [""] * len(ids),
            }
            left -= int((ids >= 0).sum())
            if left <= 0:
                return

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows of diversity.rows, and every text.

        Raises:
          ValueError: no example.
        """
        examples = []
        for batch in self.own(data):
            firsts = batch["tokens"][:, 0].tolist()
            for number, first, text in zip(
                batch["id"].tolist(), firsts, predict(batch)["texts"], strict=True
            ):
                if number >= 0:
                    given = self.tokenizer.decode([first])
                    examples.append({"id": number, "input": given, "prediction": text})
        if not examples:
            raise ValueError("evaluation: the split holds no text to begin one with")
        how = f"drawn behind one token, at most {self.num_tokens} more|tokenizer={self.tokenizer.name}"
        rows = [
            dataclasses.replace(row, signature=f"{row.signature}|{how}")
            for row in diversity.rows([one["input"] + one["prediction"] for one in examples])
        ]
        return Scores(rows, examples)
