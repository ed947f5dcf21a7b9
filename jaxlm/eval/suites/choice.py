"""Questions whose answers are given: the model's choice is the one that it finds likeliest."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxlm.eval import Scores, classification
from jaxlm.eval.metric import make_row
from jaxlm.eval.suites import data
from jaxlm.eval.suites.few_shot import GROUPS, FewShot, Item, Prompts, group_table

NORMALISED = ("none", "bytes", "tokens")


@dataclasses.dataclass(frozen=True)
class Choice(FewShot):
    """Multiple choice: the answer with the highest log-likelihood behind the question.

    `accuracy` takes the sum over an answer's tokens; `accuracy_per_byte` and `accuracy_per_token` divide it by the UTF-8
    bytes of the answer (without the space before it) or by its tokens, so that short answers have no advantage. Of equals
    the first counts. Records: "question", "choices", "answer" (an index); "source" makes a table.
    """

    data: str = "bundled:choice"

    main: ClassVar[str] = "accuracy"

    def items(
        self, records: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, Any]]
    ) -> list[Item]:
        """Question: ... Answer:"""
        items = []
        for record in records:
            question = data.column(record, "question", str, self.data)
            choices = tuple(map(str, data.column(record, "choices", list, self.data)))
            answer = data.column(record, "answer", int, self.data)
            if len(choices) < 2 or not 0 <= answer < len(choices):
                raise ValueError(
                    f"--data {self.data}: answer {answer} of {len(choices)} choices: {question!r}"
                )
            group = str(record.get("source", ""))
            prompt = f"Question: {question}\nAnswer:"
            items.append(Item(question, prompt, (choices[answer],), choices, group))
        return items

    def room(self, item: Item, encode: Any) -> int:
        return max(encode(f" {choice}") for choice in item.choices)

    def score(self, lm: Any, prompts: Prompts) -> Scores:
        """Log-likelihoods of all choices, and three ways to choose."""
        likelihoods = choice_likelihoods(lm, prompts, self.batch_size)
        chance = np.mean([1 / len(item.choices) for item in prompts.items])
        rows = []
        for how, name in zip(NORMALISED, ("", "_per_byte", "_per_token"), strict=True):
            chosen = [int(np.argmax(one[how])) for one in likelihoods]
            hits = [
                item.choices[choice] == item.references[0]
                for item, choice in zip(prompts.items, chosen, strict=True)
            ]
            signature = f"log-likelihood|normalised by={how}"
            rows.append(
                make_row(
                    f"accuracy{name}",
                    np.stack([np.array(hits, np.float64), np.ones(len(hits))], axis=1),
                    unit="fraction",
                    finish="ratio",
                    signature=f"{signature}|chance={chance:.4f}",
                    higher_is_better=True,
                )
            )
        examples = [
            _example(item, one["none"])
            for item, one in zip(prompts.items, likelihoods, strict=True)
        ]
        table = group_table(prompts.items, rows)
        return Scores(rows, examples, {GROUPS: table} if table else {})


@dataclasses.dataclass(frozen=True)
class Classification(FewShot):
    """The label of a text, chosen among the commonest ones of the training part by their log-likelihood.

    A label's probability is the softmax of the labels' log-likelihoods, after `normalise`. Lines with other labels are
    left out.

    Attributes:
      text_column: the text.
      label_column: its label.
      num_labels: how many labels to choose among: those with most lines in the training part (all lines without one).
      normalise: divide a log-likelihood by "bytes" or "tokens" of the label; "none": not.
      max_characters: of a text; what is longer is cut.
    """

    data: str = "bundled:packages"
    text_column: str = "description"
    label_column: str = "section"
    num_labels: int = 8
    normalise: str = "none"
    max_characters: int = 400

    main: ClassVar[str] = "accuracy"

    def __post_init__(self):
        super().__post_init__()
        if self.normalise not in NORMALISED:
            raise ValueError(f"--normalise {self.normalise}: accepted are {', '.join(NORMALISED)}")
        for name, least in (("num_labels", 2), ("max_characters", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {least}")

    def items(
        self, records: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, Any]]
    ) -> list[Item]:
        """Text: ... Label:"""
        labels = self._labels(training or records)
        items = []
        for record in records:
            label = self._label(record)
            if label not in labels:
                continue
            text = data.column(record, self.text_column, str, self.data)
            text = " ".join(text.split())[: self.max_characters]
            first, second = self.text_column.capitalize(), self.label_column.capitalize()
            items.append(Item(text, f"{first}: {text}\n{second}:", (label,), labels))
        return items

    def _label(self, record: Mapping[str, Any]) -> str:
        return str(data.column(record, self.label_column, (str, int), self.data))

    def _labels(self, records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        counts = collections.Counter(map(self._label, records))
        common = sorted(counts, key=lambda label: (-counts[label], label))
        if len(common) < 2:
            raise ValueError(f"--data {self.data}: {len(common)} labels, at least 2 are needed")
        return tuple(sorted(common[: self.num_labels]))

    def room(self, item: Item, encode: Any) -> int:
        return max(encode(f" {choice}") for choice in item.choices)

    def score(self, lm: Any, prompts: Prompts) -> Scores:
        """Scores of the predicted labels and of their probabilities."""
        labels = prompts.items[0].choices
        found = choice_likelihoods(lm, prompts, self.batch_size)
        logs_NC = np.array([one[self.normalise] for one in found])
        log_probs_NC = logs_NC - np.logaddexp.reduce(logs_NC, axis=1, keepdims=True)
        targets_N = np.array([labels.index(item.references[0]) for item in prompts.items])
        answers = classification.Answers(
            logs_NC.argmax(1)[:, None],
            targets_N[:, None],
            np.ones((len(found), 1)),
            np.exp(log_probs_NC.max(1, keepdims=True)),
            -np.take_along_axis(log_probs_NC, targets_N[:, None], 1),
        )
        how = f"log-likelihood of {len(labels)} labels|normalised by={self.normalise}"
        rows = classification.score(answers, labels, how)
        examples = [
            _example(item, logs) for item, logs in zip(prompts.items, logs_NC.tolist(), strict=True)
        ]
        return Scores(rows, examples, classification.tables(answers, labels))


def choice_likelihoods(lm: Any, prompts: Prompts, batch_size: int) -> list[dict[str, list[float]]]:
    """For each question the log-likelihoods of its choices, by NORMALISED.

    A choice of more tokens than the model can hold is read in windows that overlap by half.

    Raises:
      ValueError: an empty choice.
    """
    for item in prompts.items:
        if not all(item.choices):
            raise ValueError(f"a choice is empty: {item.source!r}")
    pairs = [
        (text, f" {choice}")
        for item, text in zip(prompts.items, prompts.texts, strict=True)
        for choice in item.choices
    ]
    fits = [len(lm.tokenizer.encode(choice)) <= lm.max_len for _, choice in pairs]
    short = [pair for pair, one in zip(pairs, fits, strict=True) if one]
    found = iter(lm.loglikelihoods(short, batch_size=batch_size) if short else ())
    tokens = iter(
        next(found).per_token if one else _long(lm, *pair, batch_size)
        for pair, one in zip(pairs, fits, strict=True)
    )
    likelihoods = []
    for item in prompts.items:
        ones = [next(tokens) for _ in item.choices]
        sums = [math.fsum(one) for one in ones]
        sizes = [len(choice.encode("utf-8")) for choice in item.choices]
        likelihoods.append(
            {
                "none": sums,
                "bytes": [one / size for one, size in zip(sums, sizes, strict=True)],
                "tokens": [one / len(each) for one, each in zip(sums, ones, strict=True)],
            }
        )
    return likelihoods


def _long(lm: Any, context: str, continuation: str, batch_size: int) -> list[float]:
    """Nats of the tokens of a continuation that the model can't hold at once, below 0."""
    before = len(lm.tokenizer.encode(context))
    (found,) = lm.rolling([context + continuation], context=lm.max_len // 2, batch_size=batch_size)
    return found.per_token[before:]


def _example(item: Item, logs: Sequence[float]) -> dict[str, Any]:
    """`score` is by how much the right choice is likelier than the best wrong one."""
    right = item.choices.index(item.references[0])
    best = int(np.argmax(logs))
    wrong = max(value for index, value in enumerate(logs) if index != right)
    return {
        "input": item.source,
        "prediction": item.choices[best],
        "reference": item.references[0],
        "score": float(logs[right] - wrong),
        "choices": dict(zip(item.choices, map(float, logs), strict=False)),
    }
