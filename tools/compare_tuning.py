"""Fine-tuning a whole BERT, and LoRA beside its kernels: accuracy over seeds, share that trains, time and peak memory.

    python tools/compare_tuning.py --workdir runs/tuning --init_from BERT --data FOLDER --seconds 1700

FOLDER has train.tsv, dev.tsv and test.tsv (text TAB label). For each way a learning rate is chosen by the accuracy on dev with seed 0,
then --seeds runs with it are scored on test, each by its best epoch on dev. Runs are experiments/finetune_classify.py and its
:lora, each in a folder of its own: what is finished is not run again, what was stopped goes on. After --seconds the run in
progress is saved and left (exit code 143); the same command goes on. Memory is the peak of a process of its own that trains
--memory_steps steps and does nothing else: on a CPU what it held at most, on a GPU what its arrays did. Ends with a Markdown table, and
the difference of LoRA and the whole with two 95 % intervals: of other examples, by paired bootstrap over each one's mean over
seeds, and of other seeds, by Student's t.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import comparing
import numpy as np

from jaxlm import cli, config

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "finetune_classify.py"
WAYS = {"full": "", "LoRA": "lora"}
"""Name -> variant of the experiment."""
RATES = {"full": (5e-5, 1e-4, 2e-4), "LoRA": (5e-4, 1e-3, 2e-3)}
SETTINGS = {"data.tokenizer": "init_from", "data.min_count": "1", "data.seq_len": "48", "batch_size": "32",
            "micro_batch_size": "32", "sample_every": "0", "sample_tokens": "0"}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.compare_tuning", "LoRA against fine-tuning the whole model.")
    parser.add_argument("--workdir", required=True, help="a folder for all runs")
    parser.add_argument("--init_from", required=True, metavar="BERT")
    parser.add_argument("--data", required=True, help="a folder of train.tsv, dev.tsv, test.tsv")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0, help="of this call; 0: all")
    parser.add_argument("--memory_steps", type=int, default=8)
    parser.add_argument("--measure", choices=tuple(WAYS), help="internal: one way's memory")
    options = parser.parse_args(arguments)
    if options.measure:
        return cli.guarded(lambda: print(json.dumps(measured(options, overrides))))
    return cli.guarded(lambda: print(compare(options, overrides)))


def compare(options: Any, overrides: dict[str, str]) -> str:
    """The table, after all runs are finished."""
    for name in ("seeds", "epochs", "memory_steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: at least 1")
    found, rates = {}, {}
    with comparing.at_most(options.seconds):
        for way in WAYS:
            tried = {rate: run(options, overrides, way, rate, 0) for rate in RATES[way]}
            dev = {rate: best_on_dev(path) for rate, path in tried.items()}
            rates[way] = max(dev, key=lambda rate: dev[rate])
            print(f"{way:<5} dev by rate: {dev}")
            seeds = range(options.seeds)
            found[way] = [run(options, overrides, way, rates[way], seed) for seed in seeds]
    memory = {way: peak_memory(way) for way in WAYS}
    return table(found, rates, memory)


def configured(options: Any, overrides: dict[str, str], way: str, rate: float, seed: int) -> Any:
    """A run's config."""
    files = {name: Path(options.data) / f"{name}.tsv" for name in ("train", "dev", "test")}
    paths = {
        "data.path": files["train"],
        "data.val_path": files["dev"],
        "data.test_path": files["test"],
    }
    with files["train"].open(encoding="utf-8") as file:
        steps = sum(1 for _ in file) // int(SETTINGS["batch_size"])
    settings = SETTINGS | {key: str(path) for key, path in paths.items()} | overrides
    cfg = config.load(f"{EXPERIMENT}:{WAYS[way]}".removesuffix(":"), settings)
    cfg.seed, cfg.init_from, cfg.optim.learning_rate = seed, options.init_from, rate
    cfg.num_steps = options.epochs * steps
    cfg.eval_every = cfg.checkpoint_every = steps
    cfg.optim.warmup_steps = max(1, round(0.06 * cfg.num_steps))
    return cfg


def run(options: Any, overrides: dict[str, str], way: str, rate: float, seed: int) -> Path:
    """The folder of a finished run."""
    workdir = Path(options.workdir) / f"{way.lower()}_{rate:g}_{seed}"
    return comparing.finish(workdir, lambda: configured(options, overrides, way, rate, seed))


def best_on_dev(workdir: Path) -> float:
    """The accuracy of the epoch that was kept."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return max(row["val_accuracy"] for row in rows if "val_accuracy" in row)


def peak_memory(way: str) -> float:
    """GB that a process of its own held at most; the second of two, which compiles nothing."""
    line = [sys.executable, *sys.argv, "--measure", way]
    for _ in range(2):
        said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])["peak_gb"]


def measured(options: Any, overrides: dict[str, str]) -> dict[str, float]:
    """The peak of this process, which trains a few steps."""
    import jax

    import jaxlm

    way = options.measure
    cfg = configured(options, overrides, way, RATES[way][0], 0)
    cfg.num_steps, cfg.evaluators, cfg.eval_every, cfg.checkpoint_every = (
        options.memory_steps,
        (),
        0,
        0,
    )
    with tempfile.TemporaryDirectory() as folder:
        jaxlm.run(cfg, folder)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"peak_gb": stats.get("peak_bytes_in_use", resident_peak()) / 1e9}


def resident_peak() -> float:
    """Bytes that this process held at most, as Linux says; `ru_maxrss` would count those of who started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return float(line.split()[1]) * 1024


def table(found: dict[str, list[Path]], rates: dict[str, float], memory: dict[str, float]) -> str:
    """What was found, as lines of Markdown."""
    right_SN = {way: np.stack([comparing.hits(path) for path in found[way]]) for way in found}
    lines = [
        "| what trains | parameters | share | rate | dev | test (mean; each seed) | steps/s | peak GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, scores in right_SN.items():
        summaries = [comparing.summary(path) for path in found[way]]
        trained, count = (summaries[0][key] for key in ("num_trained", "num_params"))
        dev = statistics.mean(best_on_dev(path) for path in found[way])
        speed = statistics.mean(one["final_step"] / one["train_seconds"] for one in summaries)
        lines.append(
            f"| {way} | {trained:,} | {trained / count:.2%} | {rates[way]:g} | {dev:.4f} | "
            f"{scores.mean():.4f}; {comparing.each(scores)} | {speed:.2f} | {memory[way]:.2f} |"
        )
    said = comparing.difference(("LoRA", "full"), right_SN["LoRA"], right_SN["full"])
    return "\n".join([*lines, "", said])


if __name__ == "__main__":
    sys.exit(main())
