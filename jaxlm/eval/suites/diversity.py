"""What a model writes freely from short beginnings: how varied it is, and how much it repeats itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxlm.eval import Scores, diversity
from jaxlm.eval.suites import Found, data


@dataclasses.dataclass(frozen=True)
class Diversity:
    """Continuations of the beginnings of held-out documents; there is no right answer, so no reference.

    Attributes:
      data: files or bundled:NAME, joined by commas, whose documents give the beginnings.
      text_column: the text of a *.jsonl record.
      prompt_words: how many words of a document are given.
      limit: how many texts to write; a long document gives several beginnings.
      max_tokens: of each.
      temperature: 0: greedy.
      top_p: the smallest set of tokens with this probability is drawn from; 1: all.
      seed: of the first text; each has its own.
      batch_size: texts at once.
    """

    data: str = "bundled:shakespeare"
    text_column: str = "text"
    prompt_words: int = 6
    limit: int = 32
    max_tokens: int = 100
    temperature: float = 0.8
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self):
        for name, least in (("prompt_words", 1), ("max_tokens", 1), ("seed", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {least}")
        if self.limit < 2:
            raise ValueError(f"--limit {self.limit}: at least 2 texts can be compared")

    def run(self, lm: Any) -> Found:
        """Rows of eval/diversity.py, and the texts."""
        found = data.domains(self.data, self.text_column)
        prompts = beginnings([text for one in found for text in one.documents], self)
        texts = lm.generate(
            prompts,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        how = f"temperature={self.temperature}|top_p={self.top_p}|{self.max_tokens} tokens"
        how += f"|seed={self.seed}|data={self.data}"
        rows = [
            dataclasses.replace(row, signature=f"{row.signature}|{how}".strip("|"))
            for row in diversity.rows(texts)
        ]
        examples = [
            {
                "id": str(number),
                "input": prompt,
                "prediction": text,
                "reference": "",
                "score": distinct_share(text),
            }
            for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]
        return Found(Scores(rows, examples, {}), {one.name: one.digest for one in found})


def distinct_share(text: str) -> float | None:
    """Different words of all words, of one text."""
    words = text.split()
    return len(set(words)) / len(words) if words else None


def beginnings(documents: list[str], suite: Diversity) -> list[str]:
    """`limit` beginnings: those of the documents, or of evenly spaced lines where the documents are fewer.

    Raises:
      ValueError: there are not so many.
    """
    places = list(documents)
    if len(places) < suite.limit:
        lines = [line for text in documents for line in text.split("\n") if len(line.split()) > 2]
        step = max(1, len(lines) // suite.limit)
        places = [
            "\n".join(lines[start : start + suite.prompt_words])
            for start in range(0, len(lines), step)
        ]
    if len(places) < suite.limit:
        raise ValueError(
            f"--limit {suite.limit}: --data {suite.data} has only {len(places)} beginnings"
        )
    return [" ".join(text.split()[: suite.prompt_words]) for text in places[: suite.limit]]
