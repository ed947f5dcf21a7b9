"""One row of the table of families: an experiment on a given text with a given budget, trained by the launcher in a process of its own.

A row that is finished is not run again, one that was cut off goes on, and one that fails says why and leaves the others alone.
Not for how rows are shown (eval/families.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm.data import pipeline, sources, word_tokenizer
from jaxlm.train import assembly, plan, signals

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
PILOT_STEPS = 20  # that are timed where the budget is one of seconds
PATIENCE = 3.0  # times a budget of seconds, and GRACE more: then a row is stopped
GRACE = 300.0
SCRIPT_SAMPLE = 100_000  # characters of a text by which it is said where its words end


@dataclasses.dataclass(frozen=True)
class Budget:
    """What each family may use: training tokens, or seconds of training on this machine; the other one is 0."""

    tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Of "5m", "500k" or "2000000" (tokens), "180s" (seconds).

        Raises:
          ValueError: it is neither.
        """
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbs]?)", text.strip().lower())
        if not found or float(found[1]) <= 0:
            raise ValueError(
                f"--budget {text}: expected tokens, such as 5m or 500k, or seconds, such as 180s"
            )
        number, unit = float(found[1]), found[2]
        return cls(seconds=number) if unit == "s" else cls(tokens=round(number * UNITS[unit]))


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What all families are trained on and scored by."""

    path: str
    tokenizer: str = "chars"
    seq_len: int = 128
    val_fraction: float = 0.1
    eval_examples: int = 256

    def overrides(self, cfg: ConfigDict) -> dict[str, str]:
        """The config's keys that make it learn from this text, in windows of one length; and it is scored at the end only.

        Vectors of words keep their own tokenizer and rows: they are of words, and are not scored by windows.
        """
        wanted = {f"data.{name}": value for name, value in dataclasses.asdict(self).items()}
        if of_words(cfg):
            wanted["data.tokenizer"] = self.words(cfg.data.tokenizer)
            wanted.pop("data.seq_len")
        wanted |= {"model.max_len": self.seq_len, "eval_every": 0, "sample_every": 0}
        known = set(configs.all_keys(cfg))
        return {key: str(value) for key, value in wanted.items() if key in known}

    def words(self, own: str) -> str:
        """The tokenizer that gives words: this one, or an experiment's own, for the script of the text."""
        if word_tokenizer.is_named(self.tokenizer):
            return self.tokenizer
        part = sources.parse(self.path)[0].path
        pieces = () if part.startswith("tokens:") else sources.open_source(part).pieces()
        text = "".join(piece[:SCRIPT_SAMPLE] for piece, _ in itertools.islice(pieces, 100))
        return word_tokenizer.with_language(own, text[:SCRIPT_SAMPLE])


def of_words(cfg: ConfigDict) -> bool:
    """Whether an experiment is one of words, by its own tokenizer: no other one has what it learns."""
    return "tokenizer" in cfg.data and word_tokenizer.is_named(cfg.data.tokenizer)


def fitted(cfg: ConfigDict, budget: Budget, seconds_per_step: float = 0.0) -> dict[str, int]:
    """num_steps, and a smaller batch_size where one step would be more than a budget of tokens.

    Where a text is counted, steps are no more than it has; those of EM are whole passes.

    Raises:
      ValueError: a budget of tokens is less than a pass of EM.
    """
    cfg = assembly.with_lengths(cfg)
    task = assembly.make_task(cfg)
    found = {"batch_size": cfg.batch_size}
    if budget.seconds:
        steps = int(budget.seconds / seconds_per_step) if seconds_per_step else PILOT_STEPS
    else:
        batch = pipeline.train_batches(task, cfg.seed, cfg.batch_size)[0]
        model = configs.implementation(cfg, "model")
        rows = max(
            1, int(budget.tokens / plan.row_tokens(task.info, plan.lengths_of(batch, model)))
        )
        if cfg.step.kind == "counting":
            return _counted(rows, task.steps_per_epoch, cfg.batch_size)
        found["batch_size"] = min(cfg.batch_size, rows)
        steps = rows // found["batch_size"]
    if cfg.step.kind == "counting":
        steps = min(steps, -(-task.steps_per_epoch // found["batch_size"]))
    if cfg.step.kind == "em":
        steps = _whole_passes(cfg, task, steps, budget)
    return found | {"num_steps": max(1, steps)}


def _counted(rows: int, windows: int, batch_size: int) -> dict[str, int]:
    """Batches, which of any size count the same, of the rows that the budget has, or of the whole text, whose last one is filled up.

    Their size is halved, so that devices can still share it, until what is lost or filled up is at most a twentieth.
    """
    whole, rows, size = rows >= windows, min(rows, windows), batch_size
    while True:
        steps = -(-rows // size) if whole else rows // size
        if steps and (size % 2 or 20 * abs(steps * size - rows) <= rows):
            return {"batch_size": size, "num_steps": steps}
        size = max(1, size // 2)


def _whole_passes(cfg: ConfigDict, task: Any, steps: int, budget: Budget) -> int:
    """Steps of EM: it makes its parameters behind a pass, and what came after the last one would count for nothing."""
    size = cfg.step.batches_per_update or task.steps_per_epoch
    if budget.tokens and steps < size:
        raise ValueError(
            f"a budget of {budget.tokens} tokens is {steps} batches, and EM makes its first parameters of {size} "
            "(step.batches_per_update; 0: an epoch)"
        )
    return max(size, steps - steps % size)


def run(spec: str, corpus: Corpus, budget: Budget, folder: Path) -> dict[str, Any]:
    """The row of one experiment, `FILE.py[:variant]`; its files are in folder/NAME and beside it."""
    name = configs.experiment_name(spec)
    record = folder / f"{name}.json"
    asked = {
        "config": spec,
        "corpus": dataclasses.asdict(corpus),
        "budget": dataclasses.asdict(budget),
    }
    row = json.loads(record.read_text()) if record.is_file() else {}
    if any(row.get(key) != value for key, value in asked.items()):
        row = asked | {"family": name}
    if row.get("status") == "finished":
        return row
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if "fitted" not in row:
            row["fitted"] = _planned(spec, corpus, budget, folder / name)
            record.write_text(json.dumps(row, indent=1))
        row |= _trained(spec, corpus, budget, folder / name, row["fitted"])
    except (ValueError, OSError) as error:
        row |= {"status": "failed", "note": " ".join(str(error).split())}
    record.write_text(json.dumps(row, indent=1))
    return row


def _planned(spec: str, corpus: Corpus, budget: Budget, folder: Path) -> dict[str, int]:
    """How the budget is spent; one of seconds after a few steps that are timed."""
    cfg = configs.load(spec)
    for key, value in corpus.overrides(cfg).items():
        configs.override(cfg, key, value)
    found = fitted(cfg, budget)
    if not budget.seconds:
        return found
    pilot = folder.with_name(f"{folder.name}.pilot")
    _launch(spec, dataclasses.replace(corpus, eval_examples=1), pilot, found)
    timed = json.loads((pilot / "summary.json").read_text())
    return fitted(cfg, budget, timed["train_seconds"] / timed["final_step"])


def _trained(
    spec: str, corpus: Corpus, budget: Budget, folder: Path, found: dict[str, int]
) -> dict[str, Any]:
    """What the finished run says of itself."""
    limit = PATIENCE * budget.seconds + GRACE if budget.seconds else None
    if not _launch(spec, corpus, folder, found, limit):
        return {
            "status": "cut off",
            "note": f"stopped after {limit:.0f} s; the same command goes on",
        }
    summary = json.loads((folder / "summary.json").read_text())
    shown = (
        "num_params",
        "train_seconds",
        "tokens_seen",
        "tokens_per_second",
        "train_flops",
        "device",
    )
    row: dict[str, Any] = {"status": "finished", "note": ""}
    row |= {key: summary[key] for key in shown}
    row["bits_per_byte"] = summary.get("val_bits_per_byte")
    row["bits_per_byte_stderr"] = summary.get("val_bits_per_byte_stderr")
    row["signature"] = summary.get("signatures", {}).get("bits_per_byte", "")
    samples = folder / "samples.txt"
    text = samples.read_text(encoding="utf-8") if samples.is_file() else ""
    row["sample"] = re.split(r"^=== step \d+ ===$", text, flags=re.MULTILINE)[-1].strip()
    if row["bits_per_byte"] is None:
        row["note"] = "gives no probability of text"
        cfg = configs.load(spec)
        if of_words(cfg):
            row["note"] += f"; its tokens are words: {corpus.words(cfg.data.tokenizer)}"
    return row


def _launch(
    spec: str, corpus: Corpus, folder: Path, found: dict[str, int], limit: float | None = None
) -> bool:
    """Whether the launcher came to the run's end within `limit` seconds.

    Raises:
      ValueError: it failed; the last thing that it said.
    """
    cfg = configs.load(spec)
    steps = found["num_steps"]
    every = {"log_every": max(1, steps // 50), "checkpoint_every": max(1, steps // 4)}
    changes = corpus.overrides(cfg) | {key: str(value) for key, value in (found | every).items()}
    command = [sys.executable, "-m", "jaxlm.launch", "--config", spec, "--workdir", str(folder)]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    output = folder.with_name(f"{folder.name}.log")
    with output.open("a", encoding="utf-8") as file, signals.sigterm_raises():
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it saves, and leaves
            process.wait()
            return False
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        lines = [line for line in output.read_text(encoding="utf-8").splitlines() if line.strip()]
        raise ValueError(f"exit code {code}: {lines[-1] if lines else 'it said nothing'}")
    return True
