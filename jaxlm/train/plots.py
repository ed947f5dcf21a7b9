"""The plot of a run's losses, as a file: nobody needs an account or a server to see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath


def plot_loss(path: epath.Path, rows: Iterable[Mapping[str, Any]], title: str) -> None:
    """Draw loss and learning rate against the step.

    Args:
      path: the PNG to write; its folder is made.
      rows: those of metrics.jsonl; losses that were not finite (None) are left out.
      title: shown above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(rows)
    train = [(r["step"], r["loss"]) for r in rows if r.get("loss") is not None]
    val = [(r["step"], r["val_loss"]) for r in rows if r.get("val_loss") is not None]
    rates = [(r["step"], r["lr"]) for r in rows if r.get("lr") is not None]
    units = [r["units"]["loss"] for r in rows if "loss" in r.get("units", {})]

    figure = Figure(figsize=(8, 5.5), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    if train:
        steps, losses = zip(*train, strict=True)
        smooth = _smoothed(losses)
        above.plot(steps, losses, color="C0", alpha=0.3, linewidth=1, label="training")
        above.plot(steps, smooth, color="C0", linewidth=1.8, label="training, smoothed")
        settled = [*smooth[len(smooth) // 20 :], *(loss for _, loss in val)]
        margin = 0.08 * (max(settled) - min(settled)) or 0.1  # the first drop may leave the frame
        above.set_ylim(min(settled) - margin, max(settled) + margin)
    if val:
        steps, losses = zip(*val, strict=True)
        label = f"validation (last {losses[-1]:.4f}, lowest {min(losses):.4f})"
        above.plot(steps, losses, "o-", color="C3", markersize=4, linewidth=1, label=label)
    if train or val:
        above.legend(frameon=False)
    if rates:
        below.plot(*zip(*rates, strict=True), color="C2", linewidth=1.5)
    above.set_title(title)
    above.set_ylabel(f"loss ({units[-1] if units else 'nats per token'})")
    below.set_ylabel("learning rate")
    below.set_ylim(bottom=0)
    below.ticklabel_format(axis="y", scilimits=(-2, 3))
    below.set_xlabel("step (updates of the parameters)")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def _smoothed(values: Iterable[float]) -> list[float]:
    """A running mean with the time constant of a fiftieth of the curve, unbiased at its start."""
    values = list(values)
    keep = 1 - 1 / max(1.0, len(values) / 50)
    total = weight = 0.0
    smooth = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth
