"""Prompts with k solved examples before the question, and what suites of such prompts share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.eval import Row, Scores
from jaxlm.eval.finish import named
from jaxlm.eval.metric import unknown_ids
from jaxlm.eval.suites import Found, data

GROUPS = "groups"
"""The table of scores by topic or source of the questions."""
BETWEEN = "\n\n"
"""What separates solved examples, and the last of them from the question."""


class Item(NamedTuple):
    """One question."""

    source: str  # what an encoder-decoder reads
    prompt: str  # what a language model reads; the answer follows behind a space
    references: tuple[str, ...]  # accepted answers; the first is shown in examples
    choices: tuple[str, ...] = ()
    group: str = ""


class Prompts(NamedTuple):
    """What is asked, with `shots` examples where they fit."""

    shots: int
    items: Sequence[Item]
    texts: list[str]
    used: list[int]  # examples in each prompt
    cut: int = 0  # prompts that leave no room for an answer: their beginning may not be read
    unknown: int = 0  # prompts with characters that the tokenizer does not know

    @property
    def signature(self) -> str:
        """How the prompts were made."""
        fewer = sum(number < self.shots for number in self.used)
        counts = {
            "fewer shots fit in": fewer,
            "prompt and answer exceed the context in": self.cut,
            "unknown tokens in": self.unknown,
        }
        parts = [f"{name} {count} prompts" for name, count in counts.items() if count]
        return "|".join([f"shots={self.shots}", *parts])


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Questions from the held-out lines of bundled data, or every line of a file; a scored question is never an example.

    Which examples stand before a question is a function of (seed, number of the question); with more shots, those of
    fewer shots stay. Examples that the context has no room for are left out, the first ones first, and counted in the
    signature.

    Attributes:
      data: bundled:NAME, or a file of the same form.
      examples: a file to take examples from; "": the training part of bundled data.
      shots: how many examples; several numbers, joined by commas, make a curve.
      limit: score the first so many questions only; 0: all.
      seed: chooses the examples.
      batch_size: questions at once.
    """

    data: str = ""
    examples: str = ""
    shots: tuple[int, ...] = (0,)
    limit: int = 0
    seed: int = 0
    batch_size: int = 8

    main: ClassVar[str] = ""  # the row that examples are ordered by

    def __post_init__(self):
        if not self.shots or min(self.shots) < 0 or len(set(self.shots)) != len(self.shots):
            raise ValueError(
                f"--shots {','.join(map(str, self.shots))}: expected different numbers, 0 or more"
            )
        for name, least in (("limit", 0), ("seed", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {least}")

    def run(self, lm: Any) -> Found:
        """Scores for each number of shots, and with several of them a table of the curve.

        Raises:
          ValueError: data of another form, too few examples, or a model that can't answer.
        """
        if getattr(lm.model, "direction", "") == "bidirectional":
            raise ValueError(f"{type(lm.model).__name__} reads both ways: it writes no answers")
        if lm.tokenizer is None:
            raise ValueError("this model has no tokenizer: it was not trained on text")
        lines = data.lines(self.data, self.examples)
        items = self.items(lines.scored, lines.examples)
        if not items:
            raise ValueError(f"--data {self.data} holds no line to score")
        solved = self._solved(lines, items)
        items = items[: self.limit or None]
        parts = []
        for shots in self.shots:
            asked = self._prompts(lm, items, solved, shots)
            parts.append(self._named(self.score(lm, asked), asked))
        return Found(self._merged(parts), lines.digests)

    def items(
        self, records: Sequence[Mapping[str, Any]], training: Sequence[Mapping[str, Any]]
    ) -> list[Item]:
        """The questions that records ask; `training` is what may be looked at to choose labels."""
        raise NotImplementedError

    def score(self, lm: Any, prompts: Prompts) -> Scores:
        """The answers' scores; an entry of `examples` a question."""
        raise NotImplementedError

    def room(self, item: Item, encode: Any) -> int:
        """Tokens that an answer may take."""
        raise NotImplementedError

    def _solved(self, lines: data.Lines, items: list[Item]) -> list[Item]:
        """What examples are drawn from: of the lines for them, those that ask nothing that is scored."""
        most = max(self.shots)
        if not most:
            return []
        scored = {item.prompt for item in items}
        found = self.items(lines.examples, lines.examples) if lines.examples else []
        found = [one for one in found if one.prompt not in scored]
        if most > len(found):
            raise ValueError(
                f"--shots {most} needs as many solved examples, and there are {len(found)}: "
                "name a file of others in --examples (scored questions are never used)"
            )
        return found

    def _prompts(self, lm: Any, items: list[Item], solved: list[Item], shots: int) -> Prompts:
        def encode(text: str) -> int:
            return len(lm.tokenizer.encode(text))

        if "source" in lm.model.inputs:
            if shots:
                raise ValueError(
                    f"--shots {shots}: {type(lm.model).__name__} reads a source, not examples: "
                    "only --shots 0 is meaningful"
                )
            texts = [item.source for item in items]
            return Prompts(0, items, texts, [0] * len(items), 0, _with_unknown(lm.tokenizer, texts))
        texts, used, cut = [], [], 0
        for number, item in enumerate(items):
            order = np.random.default_rng([self.seed, number]).permutation(len(solved))
            before = [solved[index] for index in order[:shots]]
            parts = [f"{one.prompt} {one.references[0]}{BETWEEN}" for one in before][::-1]
            room = lm.max_len - self.room(item, encode) - encode(item.prompt) - 1
            cut += room < 0
            sizes = [encode(part) for part in parts]
            while parts and sum(sizes) > room:
                parts, sizes = parts[1:], sizes[1:]
            texts.append("".join(parts) + item.prompt)
            used.append(len(parts))
        return Prompts(shots, items, texts, used, cut, _with_unknown(lm.tokenizer, texts))

    def _named(self, scores: Scores, prompts: Prompts) -> Scores:
        """With the prompts in signatures, names and examples."""
        several = len(self.shots) > 1
        suffix = f"_{prompts.shots}shot" if several else ""
        about = (
            f"{prompts.signature}|seed={self.seed}|data={self.data}|examples={len(prompts.items)}"
        )
        rows = [
            dataclasses.replace(
                row,
                name=row.name + suffix,
                signature="|".join(filter(None, [row.signature, about])),
            )
            for row in scores.rows
        ]
        named = [
            {"id": f"{number}{suffix}", "shots": used, **example}
            for number, (used, example) in enumerate(
                zip(prompts.used, scores.examples, strict=True)
            )
        ]
        tables = {
            name if name == GROUPS else f"{name}{suffix}": [
                {"shots": prompts.shots, **line} if several and name == GROUPS else line
                for line in table
            ]
            for name, table in scores.tables.items()
        }
        if several:
            line: dict[str, Any] = {"shots": prompts.shots}
            for row in scores.rows:
                line |= {row.name: row.value, f"{row.name}_stderr": row.stderr}
            tables = {"shots": [line], **tables}
        return Scores(rows, named, tables)

    def _merged(self, parts: list[Scores]) -> Scores:
        tables: dict[str, list[dict[str, Any]]] = {}
        for part in parts:
            for name, table in part.tables.items():
                tables.setdefault(name, []).extend(table)
        rows = [row for part in parts for row in part.rows]
        return Scores(rows, [example for part in parts for example in part.examples], tables)


def _with_unknown(tokenizer: Any, texts: Sequence[str]) -> int:
    """How many texts have characters that the tokenizer does not know."""
    unknown = unknown_ids(tokenizer)
    return sum(bool(np.isin(tokenizer.encode(text), unknown).any()) for text in texts)


def scores_of_each(row: Row) -> list[float | None]:
    """The value of each example alone; an error (a loss, an edit rate) is negated, so that more is better."""
    values = named(row.finish)(row.statistics) * (1 if row.higher_is_better else -1)
    return [value if math.isfinite(value) else None for value in values.tolist()]


def group_table(items: Sequence[Item], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every row's value for each group of items; nothing where all are of one."""
    groups = np.array([item.group for item in items])
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        return []
    table = []
    for name in names:
        chosen = groups == name
        line: dict[str, Any] = {"group": name, "examples": int(chosen.sum())}
        for row in rows:
            if row.finish and row.statistics is not None:
                line[row.name] = float(named(row.finish)(row.statistics[chosen].sum(0)))
        table.append(line)
    return table
