"""A result for people: one HTML page that needs nothing else, and a table for the terminal."""

from __future__ import annotations

import json
import math
import random
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jaxlm.eval import Row, figures, results

SHOWN = 5  # examples of a kind
LARGEST_MATRIX = 60  # classes
HEADLINES = 4


def page(result: results.Result) -> str:
    """The HTML page of a result; what a model or its data wrote is escaped.

    The page fetches nothing and runs no script.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"cell": cell, "score": scored, "numeric": _is_numeric}
    template = resources.files("jaxlm.eval").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        result=result,
        headlines=_headlines(result),
        plots=_plots(result),
        matrices={n: _matrix(t) for n, t in result.scores.tables.items() if _is_confusion(n, t)},
        tables={n: t for n, t in result.scores.tables.items() if not _is_confusion(n, t) and t},
        examples=chosen_examples([one for one in result.scores.examples if _says_something(one)]),
        num_examples=len(result.scores.examples),
        command=shlex.join(result.command),
        config=json.dumps(result.model["config"], indent=2),
    )


def show(result: results.Result) -> None:
    """Print the scores as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=result.title, title_justify="left")
    for name in ("score", "value", "± error", "unit"):
        table.add_column(name, justify="right" if name in ("value", "± error") else "left")
    for row in result.scores.rows:
        value, error = parts(row.value, row.stderr)
        table.add_row(row.name, value, error, f"{row.unit} {'↑' if row.higher_is_better else '↓'}")
    Console(markup=False, emoji=False).print(table)  # a folder may be called [/b]
    for signature in dict.fromkeys(row.signature for row in result.scores.rows):
        print(f"  {signature}")


def parts(value: float, stderr: float) -> tuple[str, str]:
    """A value with as many digits as its standard error allows, and the error to two of them."""
    if not math.isfinite(value):
        return "–", ""
    if not stderr or not math.isfinite(stderr):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}", ""
    digits = max(0, 1 - math.floor(math.log10(stderr)))
    if digits > 8 or abs(value) >= 1e7:
        return f"{value:.6g}", f"{stderr:.1e}"
    return f"{value:,.{digits}f}", f"{stderr:,.{digits}f}"


def scored(row: Row) -> str:
    """3.412 ± 0.021"""
    value, error = parts(row.value, row.stderr)
    return f"{value} ± {error}" if error else value


def cell(value: Any) -> str:
    """A table's entry."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        whole = abs(value) >= 1e4 or (value.is_integer() and abs(value) >= 1)
        return f"{value:,.0f}" if whole and abs(value) < 1e12 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def chosen_examples(examples: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, list[Any]]:
    """The best, the worst and random ones, none twice; those of several evaluators apart, as their scores are."""
    groups: dict[str, list[Any]] = {}
    for one in examples:
        groups.setdefault(one.get("evaluator", ""), []).append(one)
    return {
        f"{kind} by {name}" if name else kind: some
        for name, group in groups.items()
        for kind, some in _chosen(group, seed).items()
    }


def _chosen(examples: Sequence[Mapping[str, Any]], seed: int) -> dict[str, list[Any]]:
    known = [one for one in examples if one.get("score") is not None]
    order = sorted(range(len(known)), key=lambda place: (-known[place]["score"], place))
    count = min(SHOWN, len(known) // 2)
    best, worst = order[:count], order[len(order) - count :][::-1]
    shown = {id(known[place]) for place in best + worst}
    rest = [one for one in examples if id(one) not in shown]
    drawn = random.Random(seed).sample(rest, min(SHOWN, len(rest)))
    chosen = {"Best": [known[p] for p in best], "Worst": [known[p] for p in worst], "Random": drawn}
    return {name: some for name, some in chosen.items() if some}


def _headlines(result: results.Result) -> list[Row]:
    """The first scores; of a curve, those with most solved examples."""
    rows = result.scores.rows
    if "shots" in result.scores.tables:
        most = max(line["shots"] for line in result.scores.tables["shots"])
        rows = [row for row in rows if row.name.endswith(f"_{most}shot")]
    return rows[:HEADLINES]


def _says_something(example: Mapping[str, Any]) -> bool:
    """Whether a person sees anything in it: text that was read or written."""
    return bool(example.get("input") or example.get("prediction"))


def _is_numeric(table: Sequence[Mapping[str, Any]], column: str) -> bool:
    values = [line[column] for line in table if line[column] is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _is_confusion(name: str, table: Sequence[Mapping[str, Any]]) -> bool:
    return "confusion" in name and 0 < len(table) <= LARGEST_MATRIX


def _matrix(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Names, counts and shares of a row, of a table of confusions."""
    columns = [name for name in table[0] if name != "true"]
    lines = []
    for line in table:
        total = sum(line[name] for name in columns) or 1
        lines.append((line["true"], [(line[name], line[name] / total) for name in columns]))
    return {"columns": [name.removeprefix("predicted ") for name in columns], "lines": lines}


def _plots(result: results.Result) -> list[tuple[str, str]]:
    """(what is shown, SVG)."""
    rows, tables, found = result.scores.rows, result.scores.tables, []
    if "shots" in tables:
        values = [name for name in tables["shots"][0] if f"{name}_stderr" in tables["shots"][0]]
        units = {row.name.rpartition("_")[0]: row.unit for row in rows}
        unit = units.get(values[0], "")
        values = [name for name in values if units.get(name, "") == unit][: len(figures.COLOURS)]
        found.append(("Scores by number of shots", figures.curve(tables["shots"], values, unit)))
    else:
        for unit in dict.fromkeys(row.unit for row in rows):
            same = [row for row in rows if row.unit == unit and math.isfinite(row.value)]
            if 2 <= len(same) <= 24 and "domains" not in tables:
                found.append((f"Scores, {unit}", figures.scores(same, unit)))
    if "domains" in tables and len(tables["domains"]) > 1:
        svg = figures.bars(tables["domains"], "domain", "bits_per_byte", "bits per byte")
        found.append(("Bits per byte by domain: fewer is better", svg))
    for name, table in tables.items():
        if "calibration" in name and any(line["answers"] for line in table):
            found.append((name.replace("_", " ").capitalize(), figures.calibration(table)))
    return found
