"""Answers that stand in a text: exact match and token F1 (SQuAD's), of the best span over all windows of the text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.core import heads
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores, answers
from jaxlm.eval.metric import make_row

LONGEST = 60
"""Tokens of an answer."""


class Found(NamedTuple):
    """The best span of a window, or of several."""

    score: float  # logits of beginning and end
    start: int  # characters
    end: int
    none: float  # the same sum at [CLS]: that there is no answer


class Spans:
    """The span with the highest sum of logits, that is not longer than LONGEST tokens; no answer where that sum is lower
    than at [CLS] (Devlin et al. 2019, arXiv:1810.04805, section 4.3, threshold 0; of several windows the lowest [CLS]).
    """

    always: ClassVar[bool] = False  # give a span even so

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are no spans."""
        if objective != "span":
            raise ValueError(
                f'evaluators: "spans" scores data.kind="spans" with objective.kind="span", not "{objective}"'
            )
        self.signature = (
            f"best span of at most {LONGEST} tokens over windows={seq_len}|no answer="
            f"{'never' if self.always else 'where [CLS] is likelier'}|tokenizer={info.tokenizer.name}"
        )

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """logits_B2T."""
        return {"logits": heads.span_logits(output, batch["allowed"])}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows `exact_match` and `f1`; where some questions have no answer, also `answerable_f1` and `no_answer_accuracy`.

        Examples have the first character of the answer and the one behind its last, in the data's text.

        Raises:
          ValueError: the data holds no question.
        """
        best: dict[int, Found] = {}
        about: dict[int, tuple[str, list[str], str]] = {}
        for batch in data:
            logits = np.asarray(predict(batch)["logits"], np.float64)
            for row in np.flatnonzero(batch["id"] >= 0):
                number, raw = int(batch["id"][row]), batch["raw"][row]
                found = best_span(logits[row], batch["allowed"][row], raw.offsets)
                best[number] = _better(best[number], found) if number in best else found
                about[number] = batch["input"][row], list(batch["reference"][row]), raw.context
        if not best:
            raise ValueError("evaluation: the split holds no question")
        examples = []
        for number, found in best.items():
            question, accepted, context = about[number]
            none = found.none > found.score and not self.always
            examples.append(
                {
                    "id": number,
                    "input": question,
                    "prediction": "" if none else context[found.start : found.end],
                    "reference": accepted,
                    "start": None if none else found.start,
                    "end": None if none else found.end,
                }
            )
        rows = self._rows(examples)
        f1 = next(row for row in rows if row.name == "f1").statistics[:, 0]
        for example, value in zip(examples, f1.tolist(), strict=True):
            example["score"] = value
        return Scores(rows, examples)

    def _rows(self, examples: list[dict[str, Any]]) -> list[Row]:
        predictions = [one["prediction"] for one in examples]
        references = [one["reference"] for one in examples]
        rows = [
            dataclasses.replace(row, signature=f"{row.signature}|{self.signature}")
            for row in answers.rows(predictions, references)
        ]
        there = np.array([bool(accepted) for accepted in references])
        if there.all() or not there.any():
            return rows
        f1 = rows[1].statistics[:, 0]
        nothing = np.array([not text for text in predictions])
        for name, values, counts in (
            ("answerable_f1", f1, there),
            ("no_answer_accuracy", nothing, ~there),
        ):
            rows.append(
                make_row(
                    name,
                    np.stack([values * counts, counts], 1),
                    unit="fraction",
                    finish="ratio",
                    signature=rows[1].signature,
                    higher_is_better=True,
                )
            )
        return rows


class AnsweredSpans(Spans):
    """For data whose questions all have an answer, as those of SQuAD 1.1."""

    always: ClassVar[bool] = True


def best_span(logits_2T: np.ndarray, allowed_T: np.ndarray, offsets_T2: np.ndarray) -> Found:
    """The likeliest span of one window.

    Args:
      logits_2T: of its beginning and end.
      allowed_T: 1 at the places of the text, and at [CLS], the first place.
      offsets_T2: characters of each token of the text.

    Returns:
      The span, its score and that of no answer; of a window without text, no answer for certain.
    """
    none = float(logits_2T[:, 0].sum())
    places = np.flatnonzero(allowed_T)[1:]
    if not len(places):
        return Found(-np.inf, 0, 0, none)
    sums = logits_2T[0, places][:, None] + logits_2T[1, places][None]
    long = np.arange(len(places))[None] - np.arange(len(places))[:, None]
    sums = np.where((long >= 0) & (long < LONGEST), sums, -np.inf)
    first, last = np.unravel_index(sums.argmax(), sums.shape)
    start, end = offsets_T2[places[first], 0], offsets_T2[places[last], 1]
    return Found(float(sums[first, last]), int(start), int(end), none)


def _better(one: Found, other: Found) -> Found:
    best = one if one.score >= other.score else other
    return best._replace(none=min(one.none, other.none))
