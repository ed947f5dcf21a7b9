"""The plots of a run, as files: nobody needs an account or a server to see them."""

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


KNOWN = ("loss", "bits_per_byte", "perplexity", "lr", "step_seconds", "data_wait", "tokens_per_second", "eta_seconds", "mfu",
         "fill", "grad_norm", "loss_total", "rollout_seconds", "written_per_second")  # fmt: skip
"""Figures of a run that have a place in the plot of the loss, or say nothing of what is learned."""


def plot_figures(path: epath.Path, rows: Iterable[Mapping[str, Any]], title: str) -> bool:
    """Draw every further figure of training against the step, side by side: rewards and accuracies beside the KL.

    A score of validation stands in the panel of the training figure that has its name.

    Args:
      path: the PNG to write; its folder is made.
      rows: those of metrics.jsonl.
      title: shown above.

    Returns:
      Whether there were any: else nothing is written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train = _curves(rows, "train", "")
    val = _curves(rows, "val", "val_")
    if not train:
        return False
    names = [*train, *(name for name in val if name not in train)]
    columns = min(3, len(names))
    count = -(-len(names) // columns)
    size = (3.6 * columns, 0.4 + 2.3 * count)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels = figure.subplots(count, columns, sharex=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        if name in train:
            steps, values = zip(*train[name], strict=True)
            axes.plot(steps, values, color="C0", alpha=0.3, linewidth=1)
            axes.plot(steps, _smoothed(values), color="C0", linewidth=1.8)
        if name in val:
            axes.plot(*zip(*val[name], strict=True), "o-", color="C3", markersize=3, linewidth=1)
        axes.set_title(f"{name} (red: validation)" if name in val else name, fontsize=9)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)
    return True


def _curves(
    rows: Iterable[Mapping[str, Any]], split: str, prefix: str
) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every figure of a split that is not KNOWN and not the error of one."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.get("split") != split:
            continue
        for key, value in row.items():
            name = key.removeprefix(prefix)
            counts = isinstance(value, int | float) and key != "step" and key.startswith(prefix)
            if counts and name not in KNOWN and not name.endswith("_stderr"):
                found.setdefault(name, []).append((row["step"], value))
    return found
