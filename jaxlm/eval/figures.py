"""Plots of scores as SVG that stands in a page: its text is the page's, its colours are the page's, in dark mode too."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlm.eval import Row

# Colours that nothing else has: replaced by the page's.
INK, FAINT, COLOURS = "#010203", "#010204", ("#010205", "#010206", "#010207", "#010208", "#010209")
PAGE = {INK: "currentColor", FAINT: "var(--faint)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS)
}
WIDTH = 5.0  # inches: as wide as a phone shows it, so that text keeps its size
INTERVAL = 1.96  # standard errors on each side of a score: 95 %


def scores(rows: Sequence[Row], label: str) -> str:
    """Scores of one unit as points with their 95 % intervals, one below the other."""
    names = [row.name for row in rows]
    figure, axes = _figure(0.6 + 0.3 * len(rows))
    for place, row in enumerate(rows):
        error = _interval(row.value, row.stderr, row.unit)
        axes.errorbar(row.value, place, xerr=error, color=COLOURS[0], **_POINT)
    _names(axes, names)
    axes.set_xlabel(label)
    if rows[0].unit == "fraction" and all(0 <= row.value <= 1 for row in rows):
        axes.set_xlim(-0.02, 1.02)
    return _svg(figure, "scores")


def bars(table: Sequence[Mapping[str, Any]], name: str, value: str, label: str) -> str:
    """One value of each line of a table, with its 95 % interval where there is `value`_stderr."""
    figure, axes = _figure(0.6 + 0.34 * len(table))
    values = [line[value] for line in table]
    errors = _intervals(table, value, label)
    places = range(len(table))
    axes.barh(places, values, color=COLOURS[0], alpha=0.45, height=0.6)
    axes.errorbar(values, places, xerr=errors, color=INK, fmt="none", linewidth=1.2, capsize=3)
    _names(axes, [str(line[name]) for line in table])
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    return _svg(figure, "bars")


def curve(table: Sequence[Mapping[str, Any]], values: Sequence[str], label: str) -> str:
    """Scores against the number of solved examples in the prompt."""
    figure, axes = _figure(2.9)
    lines = sorted(table, key=lambda line: line["shots"])
    shots = [line["shots"] for line in lines]
    for value, colour in zip(values, COLOURS, strict=False):
        errors = _intervals(lines, value, label)
        heights = [math.nan if line[value] is None else line[value] for line in lines]
        axes.errorbar(
            shots,
            heights,
            yerr=errors,
            color=colour,
            label=_short(value),
            **(_POINT | {"fmt": "o-"}),
        )
    axes.set_xticks(shots)
    axes.set_xlabel("solved examples in the prompt")
    axes.set_ylabel(label)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    _legend(figure, axes)
    return _svg(figure, "curve")


def calibration(table: Sequence[Mapping[str, Any]]) -> str:
    """How often answers of a confidence are right: on the diagonal where the confidence is honest."""
    figure, axes = _figure(3.4)
    known = [line for line in table if line["answers"]]
    most = max((line["answers"] for line in known), default=1)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="honest")
    axes.bar(
        [(line["above"] + line["up_to"]) / 2 for line in known],
        [0.25 * line["answers"] / most for line in known],
        width=[0.9 * (line["up_to"] - line["above"]) for line in known],
        color=FAINT,
        alpha=0.6,
        label="share of the answers (not to scale)",
    )
    axes.plot(
        [line["confidence"] for line in known],
        [line["accuracy"] for line in known],
        "o-",
        color=COLOURS[0],
        linewidth=1.4,
        markersize=4.5,
        label="the model",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence in the answer")
    axes.set_ylabel("share that is right")
    _legend(figure, axes)
    return _svg(figure, "calibration")


def _interval(value: float | None, stderr: float | None, unit: str) -> list[list[float]]:
    """How far a 95 % interval goes to both sides; that of a fraction ends at 0 and 1."""
    if value is None or not stderr or not math.isfinite(stderr):
        return [[0.0], [0.0]]
    below = above = INTERVAL * stderr
    if unit == "fraction" and 0 <= value <= 1:
        below, above = min(below, value), min(above, 1 - value)
    return [[below], [above]]


def _intervals(table: Sequence[Mapping[str, Any]], value: str, unit: str) -> list[list[float]]:
    found = [_interval(line[value], line.get(f"{value}_stderr"), unit) for line in table]
    return [[one[side][0] for one in found] for side in (0, 1)]


_POINT: dict[str, Any] = {"fmt": "o", "markersize": 5, "linewidth": 1.6, "capsize": 3}


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, which="both", labelsize=9.5, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
        axis.label.set_size(10)
    return figure, axes


def _names(axes: Any, names: Sequence[str]) -> None:
    """Names of rows, the first at the top."""
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _short(name: str, limit: int = 26) -> str:
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$")  # else matplotlib reads what stands between two as a formula


def _legend(figure: Any, axes: Any) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        ncols=2,
    )


def _svg(figure: Any, name: str) -> str:
    """The figure without its header, with the page's colours."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r' id="(figure|axes|patch|text|matplotlib|xtick|ytick|line2d)[^"]*"', "", text)
    for colour, own in PAGE.items():
        text = text.replace(colour, own)
    return text
