"""Questions that a model answers by writing: short answers, summaries, translations."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxlm.eval import Row, Scores
from jaxlm.eval.suites import data
from jaxlm.eval.suites.few_shot import GROUPS, FewShot, Item, Prompts, group_table, scores_of_each


@dataclasses.dataclass(frozen=True)
class Writing(FewShot):
    """As FewShot; a language model's answer ends with its line, an encoder-decoder writes from the source alone.

    Attributes:
      max_tokens: how long an answer may get.
      temperature: 0: greedy.
    """

    max_tokens: int = 32
    temperature: float = 0.0

    metrics: ClassVar[str] = ""  # the module whose rows(predictions, references) scores

    def __post_init__(self):
        super().__post_init__()
        if self.max_tokens < 1:
            raise ValueError(f"--max_tokens {self.max_tokens} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"--temperature {self.temperature} must be 0 (greedy) or more")

    def room(self, item: Item, encode: Any) -> int:
        return self.max_tokens

    def rows(self, predictions: list[str], items: Sequence[Item]) -> list[Row]:
        """Scores of the answers."""
        references = [item.references[0] for item in items]
        return importlib.import_module(self.metrics).rows(predictions, references)

    def score(self, lm: Any, prompts: Prompts) -> Scores:
        """Write every answer, and compare."""
        written = lm.generate(
            prompts.texts,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            stop=() if "source" in lm.model.inputs else ("\n",),
            batch_size=self.batch_size,
        )
        predictions = [text.strip() for text in written]
        how = "greedy" if not self.temperature else f"temperature={self.temperature}"
        rows = [
            dataclasses.replace(row, signature=f"{row.signature}|{how}|{self.max_tokens} tokens")
            for row in self.rows(predictions, prompts.items)
        ]
        main = next((row for row in rows if row.name == self.main), rows[0])
        examples = [
            {
                "input": item.source,
                "prediction": prediction,
                "reference": " | ".join(item.references),
                "score": score,
            }
            for item, prediction, score in zip(
                prompts.items, predictions, scores_of_each(main), strict=True
            )
        ]
        table = group_table(prompts.items, rows)
        return Scores(rows, examples, {GROUPS: table} if table else {})


@dataclasses.dataclass(frozen=True)
class QA(Writing):
    """Short answers from memory: exact match and token F1 against the accepted answers.

    Records: "question", and "answers" (several are accepted) or "answer"; "topic" makes a table.
    """

    data: str = "bundled:trivia"

    main: ClassVar[str] = "f1"
    metrics: ClassVar[str] = "jaxlm.eval.answers"

    def items(
        self, records: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, Any]]
    ) -> list[Item]:
        """Question: ... Answer:"""
        items = []
        for record in records:
            question = data.column(record, "question", str, self.data)
            name = "answers" if "answers" in record else "answer"
            answers = data.column(record, name, (str, list), self.data)
            answers = (answers,) if isinstance(answers, str) else tuple(map(str, answers))
            if not answers:
                raise ValueError(f"--data {self.data}: a record accepts no answer: {question!r}")
            group = str(record.get("topic", ""))
            items.append(Item(question, f"Question: {question}\nAnswer:", answers, group=group))
        return items

    def rows(self, predictions: list[str], items: Sequence[Item]) -> list[Row]:
        references = [list(item.references) for item in items]
        return importlib.import_module(self.metrics).rows(predictions, references)


@dataclasses.dataclass(frozen=True)
class Summaries(Writing):
    """One line that says what a description is about.

    Attributes:
      source_column: what is summarised.
      target_column: the summary.
    """

    data: str = "bundled:packages"
    source_column: str = "description"
    target_column: str = "synopsis"

    main: ClassVar[str] = "rougeL"
    metrics: ClassVar[str] = "jaxlm.eval.summaries"

    def items(
        self, records: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, Any]]
    ) -> list[Item]:
        """Description: ... Synopsis:"""
        names = self.source_column, self.target_column
        return [_item(record, self.data, names) for record in records]


@dataclasses.dataclass(frozen=True)
class Translation(Writing):
    """Sentences in another language.

    Attributes:
      languages: of source and target, as the prompt calls them.
    """

    data: str = "bundled:en-de"
    max_tokens: int = 128
    languages: str = "English,German"

    main: ClassVar[str] = "chrf"
    metrics: ClassVar[str] = "jaxlm.eval.translation"

    def __post_init__(self):
        super().__post_init__()
        if len(self.languages.split(",")) != 2:
            raise ValueError(f"--languages {self.languages}: expected two, as in English,German")

    def items(
        self, records: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, Any]]
    ) -> list[Item]:
        """English: ... German:"""
        languages = tuple(self.languages.split(","))
        return [_item(record, self.data, ("source", "target"), languages) for record in records]


def _item(
    record: Mapping[str, Any],
    path: str,
    columns: tuple[str, str],
    shown: tuple[str, ...] = (),
) -> Item:
    """Its two columns as question and answer, each under the name that the prompt shows."""
    source, target = (data.column(record, name, str, path) for name in columns)
    first, second = shown or [name.capitalize() for name in columns]
    source = " ".join(source.split())  # a line break ends an answer
    return Item(source, f"{first}: {source}\n{second}:", (" ".join(target.split()),))
