"""What a person sees of a run: console, log, metrics, TensorBoard, plot, samples, summary.

Steps are counted as done: row 100 is of the 100th update. Not here: computing any of the figures.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from etils import epath

from jaxlm.train.plots import plot_figures, plot_loss

PLOT_SECONDS = 30.0  # a plot takes about half a second: during a run not more often than this
_SAMPLE_HEADER = re.compile(r"^=== step (\d+) ===$", re.MULTILINE)


class Writer:
    """Everything a run shows goes through one of these; on processes other than 0 it is silent.

    On a terminal stdout shows a progress bar with the newest row, and other lines above it;
    elsewhere every row is a line. log.txt has all lines either way.
    """

    def __init__(self, workdir: epath.PathLike, num_steps: int, title: str = ""):
        """Args: num_steps of the whole run; title of the plot (the work directory's name)."""
        self.workdir = epath.Path(workdir)
        self.num_steps = num_steps
        self.title = title or self.workdir.name
        self._active = jax.process_index() == 0
        self._rows: list[dict[str, Any]] = []  # those of metrics.jsonl, for the plot
        self._files: dict[str, Any] = {}
        self._tensorboard = None
        self._bar = None
        self._start = 0
        self._plotted_at, self._plotted_rows = time.monotonic(), 0
        if self._active:
            self.workdir.mkdir(parents=True, exist_ok=True)

    def resume(self, step: int) -> None:
        """Take back what an earlier process wrote of updates after `step`: they come again."""
        self._start = step
        if not self._active:
            return
        metrics, samples = self.workdir / "metrics.jsonl", self.workdir / "samples.txt"
        if metrics.exists():
            rows = [_parse(line) for line in metrics.read_text().splitlines()]
            self._rows = [row for row in rows if row is not None and row["step"] <= step]
            _replace(metrics, "".join(_json(row) + "\n" for row in self._rows))
            self._plotted_rows = len(self._rows)
        if samples.exists():
            text = samples.read_text()
            later = (m.start() for m in _SAMPLE_HEADER.finditer(text) if int(m[1]) > step)
            _replace(samples, text[: next(later, len(text))])

    def log(self, line: str) -> None:
        """Show a line, above the bar if there is one, and keep it in log.txt."""
        if not self._active:
            return
        self._append("log.txt", line + "\n")
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def train(self, step: int, row: Mapping[str, float]) -> None:
        """Write a row of training metrics.

        Args:
          step: updates done.
          row: any figures; shown are loss, bits_per_byte, accuracy, reward, kl, lr, grad_norm, router/max_load, router/dropped (a
            fraction), step_seconds, data_wait and fill (fractions), tokens_per_second, mfu (a fraction), what ends in
            _loss (of a task, of a term) and eta_seconds, those that are there.
        """
        if not self._active:
            return
        self._record({"step": step, "split": "train", **row}, "train", row)
        line = train_line(step, self.num_steps, row)
        if sys.stdout.isatty():
            self._append("log.txt", line + "\n")
            self._show_bar(step, line)
        else:
            self.log(line)

    def eval(self, step: int, rows: Iterable[Any], weights: str = "", split: str = "val") -> None:
        """Write scores of a split: objects with name, value, unit, stderr and signature.

        `weights` says which ones were scored, such as raw or ema.
        """
        if not self._active:
            return
        rows = list(rows)
        scores = {}
        for row in rows:
            scores |= {f"{split}_{row.name}": row.value, f"{split}_{row.name}_stderr": row.stderr}
        about = {
            "units": {row.name: row.unit for row in rows},
            "signatures": {row.name: row.signature for row in rows},
        }
        whole = {"step": step, "split": split, "weights": weights, **scores, **about}
        self._record(whole, split, {row.name: row.value for row in rows})
        shown = "  ".join(map(_score, rows))
        what = "eval" if split == "val" else split
        self.log(f"{what:10} step {step}  {shown}" + (f"  ({weights} weights)" if weights else ""))
        if time.monotonic() - self._plotted_at > PLOT_SECONDS:
            self._plot()

    def samples(self, step: int, text: str) -> None:
        """Append a text that the model wrote to samples.txt, and show its first lines."""
        if not self._active:
            return
        self._append("samples.txt", f"=== step {step} ===\n{text}\n\n")
        lines = text.strip().splitlines()[:4]
        self.log("\n".join([f"sample     step {step}", *(f"  | {line[:96]}" for line in lines)]))

    def predictions(self, split: str, examples: Iterable[Mapping[str, Any]]) -> None:
        """Write predictions_SPLIT.jsonl: every example with its id, input, prediction, reference and score."""
        if not self._active:
            return
        path = self.workdir / f"predictions_{split}.jsonl"
        lines = (json.dumps(_strict(one), ensure_ascii=False) + "\n" for one in examples)
        _replace(path, "".join(lines))
        self.log(f"predicted  {path}: every {split} example, with what was predicted")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json and end standard output with it, as one line of JSON."""
        if not self._active:
            return
        self._plot()
        self._stop_bar()
        summary = _strict(dict(summary))
        _replace(self.workdir / "summary.json", json.dumps(summary, indent=1) + "\n")
        print(json.dumps(summary), flush=True)

    def close(self) -> None:
        """Draw what is not yet drawn, and release files; prints nothing but a failed plot."""
        if not self._active:
            return
        self._plot()
        self._stop_bar()
        if self._tensorboard is not None:
            self._tensorboard.close()
        for file in self._files.values():
            file.close()
        self._files = {}

    def _append(self, name: str, text: str) -> None:
        if name not in self._files:
            self._files[name] = (self.workdir / name).open("a")
        self._files[name].write(text)
        self._files[name].flush()  # what is before a checkpoint must survive a kill

    def _record(self, row: dict[str, Any], tag: str, figures: Mapping[str, float]) -> None:
        self._rows.append(_strict(row))
        self._append("metrics.jsonl", _json(row) + "\n")
        if self._tensorboard is None:
            import tensorboardX

            directory = str(self.workdir / "tensorboard")
            self._tensorboard = tensorboardX.SummaryWriter(directory, purge_step=self._start + 1)
        for name, value in figures.items():
            if not math.isnan(value):  # what a step has none of
                self._tensorboard.add_scalar(f"{tag}/{name}", value, row["step"])

    def _show_bar(self, step: int, line: str) -> None:
        if self._bar is None:
            from rich import progress, table

            text = progress.TextColumn(
                "{task.description}",
                markup=False,
                table_column=table.Column(no_wrap=True, overflow="ellipsis", ratio=1),
            )
            self._bar = progress.Progress(progress.BarColumn(16), text, expand=True)
            self._bar.add_task(line.strip(), total=self.num_steps, completed=step)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=step, description=line.strip())

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            print()  # ends the line that has the bar's last escape codes

    def _plot(self) -> None:
        if len(self._rows) == self._plotted_rows:
            return
        self._plotted_at, self._plotted_rows = time.monotonic(), len(self._rows)
        for name, plot in (("loss", plot_loss), ("metrics", plot_figures)):
            path = self.workdir / "plots" / f"{name}.png"
            try:
                plot(path, self._rows, self.title)
            except Exception as error:  # a plot is not worth a run
                self.log(f"plot       {path} was not drawn: {type(error).__name__}: {error}")


def train_line(step: int, num_steps: int, row: Mapping[str, float]) -> str:
    """One row of training metrics as a line; figures that are not in the row are left out, as are those that this step had none of: nan."""
    row = {name: value for name, value in row.items() if name == "loss" or not math.isnan(value)}
    shown = (
        ("loss", "loss {:.4f}", 1.0),
        ("bits_per_byte", "{:.3f} bits/byte", 1.0),
        ("accuracy", "accuracy {:.3f}", 1.0),
        ("reward", "reward {:.3f}", 1.0),
        ("kl", "kl {:.4f}", 1.0),
        ("lr", "lr {:.2e}", 1.0),
        ("grad_norm", "grad {:.2f}", 1.0),
        ("router/max_load", "max load {:.2f}", 1.0),
        ("router/dropped", "dropped {:.1f}%", 100.0),
        ("step_seconds", "{:.0f} ms", 1e3),
        ("data_wait", "wait {:.1f}%", 100.0),
        ("fill", "fill {:.1f}%", 100.0),
        ("tokens_per_second", "{:,.0f} tok/s", 1.0),
        ("mfu", "MFU {:.1f}%", 100.0),
    )
    parts = [f"{100 * step / num_steps:5.1f}%", f"step {step:{len(str(num_steps))}}/{num_steps}"]
    parts += [text.format(row[name] * factor) for name, text, factor in shown if name in row]
    losses = {name: value for name, value in row.items() if name.endswith("_loss")}
    parts += [f"{name.removesuffix('_loss')} {value:.3f}" for name, value in losses.items()]
    if "eta_seconds" in row:
        parts.append(f"ETA {_duration(row['eta_seconds'])}")
    return "  ".join(parts)


def _score(row: Any) -> str:
    """A score of all examples at once has no error."""
    error = "" if math.isnan(row.stderr) else f" ± {row.stderr:.4f}"
    return f"{row.name} {row.value:.4f}{error} {row.unit}".rstrip()


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"


def _strict(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {key: _strict(v) for key, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(_strict(row))


def _parse(line: str) -> dict[str, Any] | None:
    """A row, or None for a line that a kill cut short."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _replace(path: epath.Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text)
    partial.replace(path)
