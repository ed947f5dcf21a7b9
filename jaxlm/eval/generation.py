"""Evaluators of texts that the model writes from sources: what translation, summaries and answers share.

How texts are written is in eval/predict.py; how they are scored, in the three.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from jaxlm.core.types import Batch, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.finish import named

WRITTEN = (
    "seq2seq", "image_to_text", "causal_lm", "distillation", "multi_task", "ppo", "grpo", "on_policy_distillation",
)  # fmt: skip
"""Objectives of models that write from something else, or on behind a prompt."""


class Writes:
    """Scores what is written greedily after each source, at most as long as the data's targets may be.

    A class of your own with other `writes` decodes otherwise; signatures say how.
    """

    name: ClassVar[str]
    main: ClassVar[str]
    """The row that examples are scored by."""
    writes: ClassVar[Mapping[str, Any]] = {"method": "sample", "temperature": 0.0}

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError for data whose targets are not written from a source, or a missing library."""
        if info.tokenizer is None or info.labels or objective not in WRITTEN:
            raise ValueError(
                f'evaluators: "{self.name}" scores texts that are written from sources, images or prompts (data.kind="pairs", '
                f'"captions" or "prompts", objective.kind={" or ".join(WRITTEN)}), not objective.kind="{objective}"'
            )
        self.rows(["a"], ["a"])  # a library that is missing is said now
        self.tokenizer = info.tokenizer
        how = ", ".join(f"{name}={value}" for name, value in self.writes.items())
        self.signature = f"written by {how}|tokenizer={info.tokenizer.name}"

    def rows(self, predictions: list[str], references: list[str]) -> list[Row]:
        """Scores of texts."""
        raise NotImplementedError

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """The rows of `rows`, and every text. Batches have `reference` (predict.check_writes).

        Raises:
          ValueError: no example.
        """
        examples: list[dict[str, Any]] = []
        for batch in data:
            texts = predict(batch)["texts"]
            inputs = batch.get("input", [""] * len(texts))
            columns = batch["id"].tolist(), inputs, texts, batch["reference"]
            for number, source, text, right in zip(*columns, strict=True):
                if number >= 0:
                    examples.append(
                        {"id": number, "input": source, "prediction": text, "reference": right}
                    )
        if not examples:
            raise ValueError("evaluation: the split holds no text to score")
        rows = [
            dataclasses.replace(row, signature=f"{row.signature}|{self.signature}")
            for row in self.rows(
                [one["prediction"] for one in examples], [one["reference"] for one in examples]
            )
        ]
        (main,) = (row for row in rows if row.name == self.main)
        values = named(main.finish)(main.statistics) * (1 if main.higher_is_better else -1)
        for one, value in zip(examples, values.tolist(), strict=True):
            one["score"] = value
        return Scores(rows, examples)


def accepted(reference: str | Sequence[str]) -> list[str]:
    """One example's references, which may be a single text."""
    return [reference] if isinstance(reference, str) else list(reference)


def check_texts(
    predictions: Sequence[str], references: Sequence[str | Sequence[str]], needed: bool = True
) -> None:
    """There are examples, and references for each; an empty text is one.

    Raises:
      ValueError: there are not.
    """
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} texts and references for {len(references)}: expected as many, and at least one"
        )
    missing = [number for number, right in enumerate(references) if not accepted(right)]
    if needed and missing:
        raise ValueError(f"references: example {missing[0]} has none")


def streams(references: Sequence[str | Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: the first of every example, the second of every example, ..."""
    lists = [accepted(right) for right in references]
    return [
        [right[place] if place < len(right) else None for right in lists]
        for place in range(max(map(len, lists)))
    ]
