"""Two results of the same suite on the same data: whether one model is better than the other, or both are the same result."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlm.eval import Row, bootstrap, results
from jaxlm.eval.results import Result

TOLERANCE = 1e-6
"""Relative difference of a value that is run again, beyond which it counts as another one."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """One score of both models.

    `difference` is first - second; `low` and `high` bound it with 95 % probability.
    """

    name: str
    unit: str
    higher_is_better: bool
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    better: str  # the model's name; "": not settled
    verdict: str
    note: str  # how the two were not computed alike


def compare(
    first: Result,
    second: Result,
    *,
    seed: int = 0,
    resamples: int = bootstrap.RESAMPLES,
) -> tuple[list[Compared], list[str]]:
    """The scores that both have, by paired bootstrap over their examples.

    Scores a token of models with different tokenizers mean different things, and are left out: bits_per_byte does not.

    Returns:
      What was compared, and a line for each score that could not be.

    Raises:
      ValueError: other suites, data or options: what differs is named; or nothing that can be compared.
    """
    wrong = not_comparable(first, second)
    if wrong:
        raise ValueError(f"these results are not of the same questions: {'; '.join(wrong)}")
    names = names_of(first, second)
    tokens_differ = first.model["tokenizer"] != second.model["tokenizer"]
    others = {row.name: row for row in second.scores.rows}
    compared, left_out = [], []
    for row in first.scores.rows:
        reason = _unlike(row, others.get(row.name), tokens_differ)
        if reason:
            left_out.append(f"{row.name}: {reason}")
        else:
            compared.append(_compare(row, others[row.name], names, seed, resamples))
    left_out += [
        f"{name}: only the second has it"
        for name in others
        if name not in {row.name for row in first.scores.rows}
    ]
    if not compared:
        raise ValueError(f"no score can be compared: {'; '.join(left_out)}")
    return compared, left_out


def names_of(first: Result, second: Result) -> tuple[str, str]:
    """What the models are called; by more than their name where that is the same."""
    names = [one.model["name"] for one in (first, second)]
    if names[0] == names[1]:
        names = [f"{one.model['name']}@{one.model['step']}" for one in (first, second)]
    if names[0] == names[1]:
        names = [f"{one.model['name']} {one.model['sha256'][:6]}" for one in (first, second)]
    if names[0] == names[1]:
        names = [f"{name} ({which})" for name, which in zip(names, ("A", "B"), strict=True)]
    return names[0], names[1]


def record(
    first: Result,
    second: Result,
    compared: list[Compared],
    left_out: list[str],
    *,
    seed: int,
    resamples: int,
) -> str:
    """A comparison as JSON."""
    body = {
        "suite": first.suite,
        "data": first.data,
        "models": [
            {key: one.model[key] for key in ("name", "path", "step", "sha256")}
            for one in (first, second)
        ],
        "method": {"name": "paired bootstrap", "resamples": resamples, "seed": seed, "level": 0.95},
        "versions": results.versions(),
        "scores": [dataclasses.asdict(one) for one in compared],
        "left_out": left_out,
    }
    return json.dumps(results.plain(body), indent=1, ensure_ascii=False) + "\n"


def _unlike(row: Row, other: Row | None, tokens_differ: bool) -> str:
    """Why two rows can't be compared; "" where they can."""
    if other is None:
        return "only the first has it"
    if tokens_differ and "token" in row.unit:
        return f"its unit is {row.unit}, and the tokenizers differ"
    if not row.finish or row.statistics is None or other.statistics is None:
        return "it has no statistics of single examples"
    if row.finish != other.finish or row.statistics.shape != other.statistics.shape:
        return f"statistics {row.statistics.shape} and {other.statistics.shape} are not of the same examples"
    return ""


def _compare(row: Row, other: Row, names: tuple[str, str], seed: int, resamples: int) -> Compared:
    found = bootstrap.paired(
        row.statistics,
        other.statistics,
        row.finish,
        higher_is_better=row.higher_is_better,
        names=names,
        seed=seed,
        resamples=resamples,
    )
    mine, theirs = row.signature.split("|"), other.signature.split("|")
    differing = [part for part in mine if part not in theirs]
    differing += [part for part in theirs if part not in mine]
    values: dict[str, Any] = {
        key: getattr(found, key)
        for key in ("first", "second", "difference", "low", "high", "p", "better")
    }
    return Compared(
        name=row.name,
        unit=row.unit,
        higher_is_better=row.higher_is_better,
        note=f"computed with {', '.join(differing)}" if differing else "",
        verdict=found.verdict,
        **values,
    )


def differences(old: Result, new: Result) -> tuple[list[str], list[str]]:
    """What keeps a result that was run again from being the same one; and what differs without changing it.

    Args:
      old: as it was read.
      new: as it came out now.

    Returns:
      Lines of what must be equal and is not: weights, data, options, every value (within TOLERANCE of it). Lines of what
      may differ: versions, device, rounding, single predictions.
    """
    wrong = [
        f"{name}: {before} -> {after}"
        for name, before, after in _facts(old, new)
        if before != after
    ]
    notes = [
        f"{name}: {before} -> {after}"
        for name, before, after in [
            *_entries("version of ", old.versions, new.versions),
            ("device", old.device, new.device),
        ]
        if before != after
    ]
    after = {row.name: row for row in new.scores.rows}
    for row in old.scores.rows:
        other = after.pop(row.name, None)
        if other is None:
            wrong.append(f"{row.name}: {row.value} -> (absent)")
            continue
        for what in ("value", "stderr"):
            first, second = getattr(row, what), getattr(other, what)
            if first == second or (math.isnan(first) and math.isnan(second)):
                continue
            near = math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE**2)
            # An error bar of a nearly exact score is rounding itself.
            near = near or (what == "stderr" and abs(first - second) <= TOLERANCE * abs(row.value))
            (notes if near else wrong).append(f"{row.name}, {what}: {first!r} -> {second!r}")
    wrong += [f"{name}: (absent) -> {row.value}" for name, row in after.items()]
    changed = _changed_predictions(old.scores.examples, new.scores.examples)
    if changed:
        notes.append(f"{changed} of {len(old.scores.examples)} predictions differ")
    return wrong, notes


def _changed_predictions(old: Sequence[Mapping], new: Sequence[Mapping]) -> int:
    """By place: of a run with several evaluators, examples share their ids."""
    sides = ([one.get("prediction") for one in side] for side in (old, new))
    return sum(before != after for before, after in itertools.zip_longest(*sides))


def _facts(old: Result, new: Result) -> list[tuple[str, Any, Any]]:
    """What two runs of the same thing must share."""
    return [
        ("sha256 of the weights", old.model["sha256"], new.model["sha256"]),
        ("tokenizer", old.model["tokenizer"], new.model["tokenizer"]),
        *_entries("data ", old.data, new.data),
        *_entries("option ", old.suite["options"], new.suite["options"]),
    ]


def not_comparable(first: Result, second: Result) -> list[str]:
    """What keeps two results from being of the same questions on the same data."""
    facts = [
        ("suite", first.suite["name"], second.suite["name"]),
        *_entries("data ", first.data, second.data),
        *(
            fact
            for fact in _entries("option ", first.suite["options"], second.suite["options"])
            if fact[0] != "option batch_size"  # moves no score
        ),
    ]
    return [f"{name}: {one} and {two}" for name, one, two in facts if one != two]


def _entries(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple]:
    names = [*old, *(name for name in new if name not in old)]
    return [(prefix + name, old.get(name), new.get(name)) for name in names]
