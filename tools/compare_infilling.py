"""What reading both sides of a gap is worth: GLM beside left-to-right GPTs of the same size, on the same held-out blanks.

    python tools/compare_infilling.py DIR [--steps 600] [--seeds 3] [--tune 0.01,0.02,0.04] [--models glm,gpt,fim]

All models have the same layers, width, norms, rotary positions, optimizer and schedule, and train on the same windows of
text in the same order, which GLM reads with blanks, the GPT as they are, and `fim` moved about (data.kind="fim_text").
Asked is the text of the blanks of windows that were held out, in bits per byte, less is better:

- glm        given the text with all blanks, and from left to right what was in those before; "with ends" adds what it
             costs to say where each blank ends, which the GPT is not asked
- gpt        given all text to the left, from the window's start on; also that of the blanks before, and the token before
             the window: it knows all that GLM knows of the left
- fim        asked for one blank at a time with all other text in the clear, ends as above; on every 8th window only

The rate of learning is chosen for each model from those of --tune, by one more seed, on every 4th held-out window; scores are
on the other ones. Runs that are done are not run again, and stopped ones go on. Prints Markdown, writes DIR/infilling.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import cli

SHAPE = dict(positions="rotary", norm="rmsnorm", mlp="relu2", bias=False, init="zero_out")
TUNING_SEED = 1000
FIM_EVERY = 8
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval, by degrees of freedom from 1."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.compare_infilling", "GLM beside left-to-right GPTs, on blanks.")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--models", default="glm,gpt", help=f"of {','.join(SCORES)}")
    parser.add_argument("--seeds", type=int, default=3, help="0 to N - 1")
    parser.add_argument(
        "--tune", default="0.02", metavar="RATE,RATE", help="one: nothing to choose"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_layers", type=int, default=4)
    parser.add_argument("--d_model", type=int, default=128)
    parser.add_argument("--data", default="bundled:shakespeare", metavar="PATH")
    parser.add_argument("--tokenizer", default="chars")
    parser.add_argument("--source_len", type=int, default=96, help="tokens that GLM reads")
    parser.add_argument("--noise_density", type=float, default=0.3)
    parser.add_argument("--mean_span", type=float, default=3.0)
    options = parser.parse_args(argv)
    return cli.guarded(lambda: compare(options), logs=sys.stderr)


def compare(options: argparse.Namespace) -> None:
    """Train what is missing, score it, print and write what was found."""
    kinds = options.models.split(",")
    if not {"glm"} < set(kinds) <= set(SCORES) or options.seeds < 1:
        raise ValueError(
            f"--models={options.models}: glm and others of {', '.join(SCORES)}; --seeds from 1"
        )
    from jaxlm.train import assembly

    task = assembly.make_task(_config("glm", options, 0.0, 0))  # the blanks
    numbers = np.arange(task.info.splits["val"].num_examples)
    tuning, tested = numbers[::4], numbers[numbers % 4 > 0]
    rates = [float(rate) for rate in options.tune.split(",")]
    chosen, found = {}, {}
    for kind in kinds:
        chosen[kind] = rates[0]
        if len(rates) > 1:
            tried = {r: _score(kind, options, r, TUNING_SEED, task, tuning) for r in rates}
            chosen[kind] = min(rates, key=lambda rate: _bits(tried[rate]["sums"])[1])
        found[kind] = [
            _score(kind, options, chosen[kind], seed, task, tested) for seed in range(options.seeds)
        ]
    sizes = [found[kind][0]["num_params"] for kind in kinds]
    assert max(sizes) < 1.02 * min(sizes), f"models of different sizes: {sizes}"
    result = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "rates": chosen,
        "num_params": dict(zip(kinds, sizes, strict=True)),
        "bits_per_byte": {kind: [_bits(one["sums"]) for one in found[kind]] for kind in kinds},
        "differences": [_difference(found["glm"], found[kind], kind) for kind in kinds[1:]],
    }
    (options.folder / "infilling.json").write_text(json.dumps(result, indent=1) + "\n")
    print(_table(result, found, task))


def _config(kind: str, options: argparse.Namespace, rate: float, seed: int) -> Any:
    """A run's config."""
    from jaxlm import config
    from jaxlm.data import corruption

    span = dict(noise_density=options.noise_density, mean_span=options.mean_span)
    window = corruption.span_lengths(options.source_len, *span.values()).window
    cfg = config.base()
    cfg.model = config.section(
        "model", "glm" if kind == "glm" else "gpt", num_layers=options.num_layers,
        d_model=options.d_model, num_heads=options.d_model // 32, max_len=window, **SHAPE,
    )  # fmt: skip
    data = dict(path=options.data, tokenizer=options.tokenizer, eval_examples=64)
    if kind == "glm":
        cfg.objective = config.section("objective", "blank_infilling")
        cfg.data = config.section("data", "blank_text", seq_len=options.source_len, **span, **data)
    elif kind == "gpt":
        cfg.data = config.section("data", "text", seq_len=window, **data)
    else:
        cfg.data = config.section("data", "fim_text", seq_len=window, fim_rate=0.9, **data)
    cfg.optim = config.section(
        "optim", "muon", learning_rate=rate, adam_learning_rate=rate / 2, schedule="linear",
        warmup_steps=20, min_lr_ratio=0.0, weight_decay=0.05,
    )  # fmt: skip
    cfg.step = config.section("step", "gradient", ema_decay=0.99)
    cfg.batch_size, cfg.num_steps, cfg.seed = options.batch_size, options.steps, seed
    cfg.log_every = cfg.checkpoint_every = max(1, options.steps // 4)
    cfg.eval_every = cfg.sample_every = 0
    return cfg


def _score(
    kind: str, options: argparse.Namespace, rate: float, seed: int, task: Any, numbers: np.ndarray
) -> dict[str, Any]:
    """What a run reached; `sums` float64 [N, 3]: nats of the blanks' text, nats of their ends, bytes, of each window."""
    import jaxlm

    workdir = options.folder / f"{kind}-{rate:g}-{seed}"
    summary = workdir / "summary.json"
    done = json.loads(summary.read_text()) if summary.is_file() else {}
    if done.get("final_step") != options.steps:
        done = jaxlm.run(_config(kind, options, rate, seed), workdir)
    scored = numbers[::FIM_EVERY] if kind == "fim" else numbers
    sums = SCORES[kind](jaxlm.load(workdir), task, scored.tolist())
    used = {name: done[name] for name in ("num_params", "train_seconds", "tokens_seen")}
    return {**used, "numbers": scored, "sums": sums}


def _blanks(task: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A window with the token before it, int [N + 1], and bool [N]: its blanks, as the task cuts them for GLM."""
    from jaxlm.data import blanks, shuffle
    from jaxlm.data.tasks import text

    ids, num_seen = task.full_window("val", number)
    hidden = blanks.blank_mask(task.lengths, shuffle.make_key(text.EVAL, number))
    return ids, hidden & (np.arange(len(hidden)) >= num_seen)


def _glm(lm: Any, task: Any, numbers: list[int]) -> np.ndarray:
    import jax

    from jaxlm.data.tasks import batches

    names = (*lm.model.inputs, *lm.model.optional_inputs)

    @jax.jit
    def nll(params: Any, batch: dict[str, Any]) -> Any:
        inputs = {name: batch[name] for name in names if name in batch}
        return lm.model.apply({"params": params}, **inputs).token_nll(batch["targets"])

    sizes, rows = task.tokenizer.token_bytes(), []
    for batch in batches.evaluation(lambda n: task.eval_example("val", n), numbers, 32):
        real = batch.pop("id") >= 0
        nats, scored = np.asarray(nll(lm.params, batch), np.float64), batch["weights"]
        ends = batch["targets"] == task.tokenizer.eos_id
        parts = (nats * ~ends, nats * ends, sizes[batch["targets"]])
        rows.append(np.stack([(part * scored).sum(1) for part in parts], 1)[real])
    return np.concatenate(rows)


def _gpt(lm: Any, task: Any, numbers: list[int]) -> np.ndarray:
    windows = [_blanks(task, number) for number in numbers]
    found = lm.loglikelihoods([(ids[:1], ids[1:]) for ids, _ in windows], batch_size=32)
    sizes = task.tokenizer.token_bytes()
    return np.array([
        (-np.array(one.per_token) @ hidden, 0.0, sizes[ids[1:]] @ hidden)
        for one, (ids, hidden) in zip(found, windows, strict=True)
    ])  # fmt: skip


def _fim(lm: Any, task: Any, numbers: list[int]) -> np.ndarray:
    from jaxlm.data.infilling import gaps_of

    gaps, tokenizer = gaps_of(lm.model, lm.tokenizer, lm.max_len), task.tokenizer
    pairs, owners = [], []
    for place, number in enumerate(numbers):
        ids, hidden = _blanks(task, number)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden, [0]]).astype(int)))
        for start, stop in edges.reshape(-1, 2) + 1:  # behind the token before the window
            around = [tokenizer.decode(ids[1:start]), tokenizer.decode(ids[stop:])]
            filling = [*ids[start:stop].tolist(), tokenizer.eos_id]
            pairs.append((gaps.read(around, len(filling)), filling))
            owners.append(place)
    sums, sizes = np.zeros((len(numbers), 3)), tokenizer.token_bytes()
    found = lm.loglikelihoods(pairs, batch_size=32)
    for place, (_, filling), one in zip(owners, pairs, found, strict=True):
        *text, end = one.per_token
        sums[place] -= sum(text), end, -sizes[filling].sum()
    return sums


SCORES: dict[str, Callable[..., np.ndarray]] = {"glm": _glm, "gpt": _gpt, "fim": _fim}


def _bits(sums: np.ndarray) -> tuple[float, float]:
    """Bits per byte of the blanks' text, and with their ends."""
    text, ends, num_bytes = sums.sum(0)
    return text / math.log(2) / num_bytes, (text + ends) / math.log(2) / num_bytes


def _difference(glm: list[Any], other: list[Any], kind: str) -> dict[str, Any]:
    """GLM with the cost of ends less another model with its own: over seeds, and over windows."""
    from jaxlm.eval import bootstrap

    same = np.isin(glm[0]["numbers"], other[0]["numbers"])
    pairs = [(a["sums"][same], b["sums"]) for a, b in zip(glm, other, strict=True)]
    over_seeds = np.array([_bits(a)[1] - _bits(b)[1] for a, b in pairs])
    count = len(over_seeds)
    half = math.inf
    if count > 1:
        half = T_975[min(count, 10) - 2] * over_seeds.std(ddof=1) / math.sqrt(count)
    both = [
        np.stack([sums[:, :2].sum(1) / math.log(2), sums[:, 2]], 1)
        for sums in (np.sum([a for a, _ in pairs], 0), np.sum([b for _, b in pairs], 0))
    ]
    windows = bootstrap.paired(*both, "ratio", higher_is_better=False, names=("glm", kind))
    return {
        "glm less": kind,
        "of each seed": over_seeds.tolist(),
        "mean": float(over_seeds.mean()),
        "interval over seeds": [float(over_seeds.mean() + sign * half) for sign in (-1, 1)],
        "interval over windows": [windows.low, windows.high],
        "windows": int(same.sum()),
        "verdict": windows.verdict,
    }


def _table(result: dict[str, Any], found: dict[str, list[Any]], task: Any) -> str:
    """Markdown."""
    lengths = task.lengths
    lines = [
        f"{lengths.num_spans} blanks with {lengths.num_noise} tokens in windows of {lengths.window}, "
        f"{task.tokenizer.name}, {result['options']['steps']} steps of {result['options']['batch_size']} windows.",
        "",
        "| model | parameters | rate | training | bits per byte of blanks | with ends |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind, runs in found.items():
        text, ended = np.array(result["bits_per_byte"][kind]).T
        seconds = np.mean([one["train_seconds"] for one in runs])
        ends = "not asked" if kind == "gpt" else f"{ended.mean():.3f} ({_each(ended)})"
        lines.append(
            f"| {kind} | {result['num_params'][kind]:,} | {result['rates'][kind]:g} | {seconds:.0f} s "
            f"| {text.mean():.3f} ({_each(text)}) | {ends} |"
        )
    for one in result["differences"]:
        low, high = one["interval over seeds"]
        lines += [
            "",
            f"glm with ends less {one['glm less']}, of each seed: {_each(one['of each seed'])}; mean {one['mean']:+.3f}, "
            f"95 % over seeds [{low:+.3f}, {high:+.3f}], over {one['windows']} windows "
            f"[{one['interval over windows'][0]:+.3f}, {one['interval over windows'][1]:+.3f}]: {one['verdict']}.",
        ]
    return "\n".join(lines)


def _each(values: Any) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
