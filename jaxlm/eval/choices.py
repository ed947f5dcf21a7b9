"""Multiple choice: how often the likeliest choice is the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxlm.core import heads
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.metric import collect, make_row


class Choices:
    """Of equal scores the first choice counts. `chance` is what guessing would reach, the mean of 1 / choices."""

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are no choices."""
        if objective != "choice":
            raise ValueError(
                f'evaluators: "choices" scores data.kind="choices" with objective.kind="choice", not "{objective}"'
            )
        self.signature = f"objective={objective}|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """logits_BC."""
        return {"logits": heads.choice_logits(output, batch["starts"])}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows `accuracy`, `chance` and `loss` (nats a question); of each question the choice and its probability.

        Raises:
          ValueError: the data holds no question.
        """
        arrays = collect(predict, data, ("starts", "input", "reference", "raw"))
        targets = arrays["targets"][:, 0]
        logs = np.asarray(jax.nn.log_softmax(arrays["logits"].astype(np.float32), axis=-1))
        chosen = arrays["logits"].argmax(1)
        rows = np.arange(len(targets))
        right = (chosen == targets).astype(np.float64)
        signature = f"{self.signature}|questions={len(targets)}"

        def mean(name: str, values: np.ndarray, unit: str = "fraction") -> Row:
            return make_row(
                name,
                np.stack([values, np.ones(len(values))], 1),
                unit=unit,
                finish="ratio",
                signature=signature,
                higher_is_better=unit == "fraction",
            )

        found = [
            mean("accuracy", right),
            mean("chance", 1 / (arrays["starts"] >= 0).sum(1)),
            mean("loss", -logs[rows, targets], "nats/question"),
        ]
        columns = (arrays[name] for name in ("id", "input", "reference", "raw"))
        examples = [
            {
                "id": int(number),
                "input": "\n".join([asked, *(f"- {choice}" for choice in choices)]),
                "prediction": choices[chosen[row]],
                "reference": reference,
                "probability": float(np.exp(logs[row, chosen[row]])),
                "score": right[row],
            }
            for row, (number, asked, reference, choices) in enumerate(zip(*columns, strict=True))
        ]
        return Scores(found, examples)
