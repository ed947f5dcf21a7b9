"""The table of families as people read it: JSON, Markdown and a plot. What is in a row: train/families.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

INTERVAL = 1.96  # standard errors on each side: 95 %


def ordered(rows: Sequence[Row]) -> list[Row]:
    """The best first, then those without a score."""
    return sorted(
        rows, key=lambda row: (row.get("bits_per_byte") is None, row.get("bits_per_byte"))
    )


def noted(rows: Sequence[Row]) -> list[Row]:
    """The rows, with a note where one was not scored as most of them."""
    signatures = [row["signature"] for row in rows if row.get("signature")]
    usual = max(signatures, key=signatures.count, default="")
    found = []
    for row in rows:
        other = row.get("signature") and row["signature"] != usual
        found.append(
            dict(row) | ({"note": f"scored otherwise: {row['signature']}"} if other else {})
        )
    return found


def write(rows: Sequence[Row], about: Mapping[str, Any], folder: Path) -> list[Path]:
    """families.json, families.md and families.png; gives their paths."""
    rows = noted(ordered(rows))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"families.{kind}" for kind in ("json", "md", "png")]
    text = json.dumps(dict(about) | {"rows": rows}, indent=1, ensure_ascii=False)
    paths[0].write_text(text + "\n", encoding="utf-8")
    paths[1].write_text(markdown(rows, about), encoding="utf-8")
    plot(rows, about, paths[2])
    return paths


def markdown(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """A table, and below it a sample of each family."""
    lines = [
        f"{about['corpus']}, {about['budget']} a family; {about['device']}; {about['versions']}; {about['date']}. "
        "`±` is a standard error over windows.",
        "",
        "| family | bits per byte | parameters | training FLOPs | seconds | tokens | tokens/s | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        note = f"{row['status']}: {row['note']}" if row["status"] != "finished" else row["note"]
        lines.append(
            f"| {row['family']} | {_score(row)} | {_number(row, 'num_params')} | {_power(row, 'train_flops')} | "
            f"{_number(row, 'train_seconds')} | {_number(row, 'tokens_seen')} | {_number(row, 'tokens_per_second')} | "
            f"{_plain(note)} |"
        )
    for row in rows:
        if row.get("sample"):
            lines += [
                "",
                f"**{row['family']}**",
                "",
                "```text",
                row["sample"].replace("```", "'''"),
                "```",
            ]
    return "\n".join(lines) + "\n"


def _score(row: Row) -> str:
    if row.get("bits_per_byte") is None:
        return "-"
    return f"{row['bits_per_byte']:.3f} ± {row['bits_per_byte_stderr']:.3f}"


def _number(row: Row, name: str) -> str:
    return "-" if row.get(name) is None else f"{row[name]:,.0f}"


def _power(row: Row, name: str) -> str:
    return f"{row[name]:.2g}" if row.get(name) else "-"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def plot(rows: Sequence[Row], about: Mapping[str, Any], path: Path) -> None:
    """Bits per byte of each family with their 95 % intervals, the best one above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [row for row in rows if row.get("bits_per_byte") is not None]
    figure = Figure(figsize=(7, 1.2 + 0.32 * max(1, len(scored))), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(scored):
        error = INTERVAL * (row["bits_per_byte_stderr"] or 0.0)
        axes.errorbar(row["bits_per_byte"], -place, xerr=error, fmt="o", color="C0", capsize=2)
    axes.set_yticks([-place for place in range(len(scored))], [row["family"] for row in scored])
    axes.set_xlabel("bits per byte of held-out text (lower is better)")
    axes.set_title(f"{about['corpus']}, {about['budget']} a family", fontsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)
