"""What reading both sides of a gap is worth: GLM beside a left-to-right GPT of the same size, on the same held-out blanks.

    python tools/compare_infilling.py DIR [--steps 8000] [--seeds 3] [--tune 0.01,0.02,0.04]

Both have the same layers, width, rotary positions, optimizer and schedule, and train on the same windows of text in the same
order, GLM with blanks in them, the GPT as they are. Both are asked for the text in the blanks of held-out windows, in bits
per byte; less is better. GLM knows the text around all blanks, and from left to right what was in those before. The GPT knows
all text to the left, that of the blanks before, too, and the token before the window: of the left all that GLM knows.
GLM also has to say where a blank ends, which the GPT is not asked. "lengths given" is for blanks of known lengths (GLM's
probabilities are those of its tokens, given that it goes on); "with ends" counts in GLM's disfavour that it goes on, and ends.

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

SHAPE = dict(positions="rotary", mlp="relu2")
HEAD_WIDTH = 16
ASKED = ("lengths given", "with ends")
TUNING_SEED = 1000
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval, by degrees of freedom from 1."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.compare_infilling", "GLM beside a left-to-right GPT, on blanks.")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="0 to N - 1")
    parser.add_argument(
        "--tune", default="0.02", metavar="RATE,RATE", help="one: nothing to choose"
    )
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_layers", type=int, default=3)
    parser.add_argument("--d_model", type=int, default=64)
    parser.add_argument("--data", default="bundled:speeches", metavar="PATH")
    parser.add_argument("--tokenizer", default="chars")
    parser.add_argument("--source_len", type=int, default=48, help="tokens that GLM reads")
    parser.add_argument("--noise_density", type=float, default=0.3)
    parser.add_argument("--mean_span", type=float, default=3.0)
    options = parser.parse_args(argv)
    return cli.guarded(lambda: compare(options), logs=sys.stderr)


def compare(options: argparse.Namespace) -> None:
    """Train what is missing, score it, print and write what was found."""
    if options.seeds < 1 or options.steps < 1:
        raise ValueError(f"--seeds={options.seeds} --steps={options.steps}: both from 1")
    from jaxlm.train import assembly

    task = assembly.make_task(_config("glm", options, 0.0, 0))  # the blanks
    numbers = np.arange(task.info.splits["val"].num_examples)
    tuning, tested = numbers[::4], numbers[numbers % 4 > 0]
    rates = [float(rate) for rate in options.tune.split(",")]
    chosen, found = {}, {}
    for kind in SCORES:
        chosen[kind] = rates[0]
        if len(rates) > 1:
            tried = {r: _score(kind, options, r, TUNING_SEED, task, tuning)[0] for r in rates}
            chosen[kind] = min(rates, key=lambda rate, tried=tried: _bits(tried[rate])[1])
        found[kind] = [
            _score(kind, options, chosen[kind], seed, task, tested) for seed in range(options.seeds)
        ]
    sizes = {kind: runs[0][1]["num_params"] for kind, runs in found.items()}
    assert max(sizes.values()) < 1.02 * min(sizes.values()), f"models of different sizes: {sizes}"
    sums = {kind: [one for one, _ in runs] for kind, runs in found.items()}
    result = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "blanks": task.lengths._asdict(),
        "rates": chosen,
        "num_params": sizes,
        "train_seconds": {kind: [one["train_seconds"] for _, one in found[kind]] for kind in found},
        "bits_per_byte": {kind: [_bits(one).tolist() for one in sums[kind]] for kind in found},
        "glm less gpt": {name: _difference(sums, column) for column, name in enumerate(ASKED)},
        "windows": len(tested),
    }
    (options.folder / "infilling.json").write_text(json.dumps(result, indent=1) + "\n")
    print(_table(result))


def _config(kind: str, options: argparse.Namespace, rate: float, seed: int) -> Any:
    """A run's config."""
    from jaxlm import config
    from jaxlm.data import corruption

    span = dict(noise_density=options.noise_density, mean_span=options.mean_span)
    window = corruption.span_lengths(options.source_len, *span.values()).window
    cfg = config.base()
    cfg.model = config.section(
        "model", "glm" if kind == "glm" else "gpt", num_layers=options.num_layers,
        d_model=options.d_model, num_heads=options.d_model // HEAD_WIDTH,
        max_len=max(window, options.source_len), **SHAPE,
    )  # fmt: skip
    data = dict(path=options.data, tokenizer=options.tokenizer, eval_examples=64)
    if kind == "glm":
        cfg.objective = config.section("objective", "blank_infilling")
        cfg.data = config.section("data", "blank_text", seq_len=options.source_len, **span, **data)
    else:
        cfg.data = config.section("data", "text", seq_len=window, **data)
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
) -> tuple[np.ndarray, dict[str, Any]]:
    """Of each window's blanks nats for each of ASKED and bytes of text, float64 [N, 3]; and the run's summary."""
    import jaxlm

    workdir = options.folder / f"{kind}-{rate:g}-{seed}"
    summary = workdir / "summary.json"
    done = json.loads(summary.read_text()) if summary.is_file() else {}
    if done.get("final_step") != options.steps:
        done = jaxlm.run(_config(kind, options, rate, seed), workdir)
    return SCORES[kind](jaxlm.load(workdir), task, numbers.tolist()), done


def _blanks(task: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A window with the token before it, int [N + 1], and bool [N]: its blanks, as the task cuts them for GLM."""
    from jaxlm.data import blanks, shuffle
    from jaxlm.data.tasks import text

    ids, num_seen = task.full_window("val", number)
    hidden = blanks.blank_mask(task.lengths, shuffle.make_key(text.EVAL, number))
    return ids, hidden & (np.arange(len(hidden)) >= num_seen)


def _glm(lm: Any, task: Any, numbers: list[int]) -> np.ndarray:
    import jax
    import jax.numpy as jnp

    from jaxlm.data.tasks import batches

    names = (*lm.model.inputs, *lm.model.optional_inputs)

    @jax.jit
    def nll(params: Any, batch: dict[str, Any]) -> Any:
        """Of the targets, and of ending instead."""
        inputs = {name: batch[name] for name in names if name in batch}
        output = lm.model.apply({"params": params}, **inputs)
        ends = jnp.full_like(batch["targets"], task.tokenizer.eos_id)
        return output.token_nll(batch["targets"]), output.token_nll(ends)

    sizes, rows = task.tokenizer.token_bytes(), []
    for batch in batches.evaluation(lambda n: task.eval_example("val", n), numbers, 32):
        real = batch.pop("id") >= 0
        nats, ending = (np.asarray(part, np.float64) for part in nll(lm.params, batch))
        going_on = np.where(batch["targets"] == task.tokenizer.eos_id, 0.0, nats + _log_not(ending))
        parts = (going_on, nats, sizes[batch["targets"]])
        rows.append(np.stack([(part * batch["weights"]).sum(1) for part in parts], 1)[real])
    return np.concatenate(rows)


def _log_not(nats: np.ndarray) -> np.ndarray:
    """log(1 - p) of p = exp(-nats)."""
    return np.log(-np.expm1(-np.maximum(nats, 1e-12)))


def _gpt(lm: Any, task: Any, numbers: list[int]) -> np.ndarray:
    windows = [_blanks(task, number) for number in numbers]
    found = lm.loglikelihoods([(ids[:1], ids[1:]) for ids, _ in windows], batch_size=32)
    sizes = task.tokenizer.token_bytes()
    nats = [
        -np.array(one.per_token) @ hidden for one, (_, hidden) in zip(found, windows, strict=True)
    ]
    return np.stack([nats, nats, [sizes[ids[1:]] @ hidden for ids, hidden in windows]], 1)


SCORES: dict[str, Callable[..., np.ndarray]] = {"glm": _glm, "gpt": _gpt}


def _bits(sums: np.ndarray) -> np.ndarray:
    """Bits per byte, one for each of ASKED."""
    *nats, num_bytes = sums.sum(0)
    return np.array(nats) / math.log(2) / num_bytes


def _difference(sums: dict[str, list[np.ndarray]], column: int) -> dict[str, Any]:
    """GLM's bits per byte less the GPT's: of each seed, and over windows, each with all seeds."""
    from jaxlm.eval import bootstrap

    of_seeds = np.array(
        [(_bits(a) - _bits(b))[column] for a, b in zip(*sums.values(), strict=True)]
    )
    count, half = len(of_seeds), math.inf
    if count > 1:
        half = T_975[min(count, 10) - 2] * of_seeds.std(ddof=1) / math.sqrt(count)
    both = (np.sum(parts, 0)[:, [column, 2]] / (math.log(2), 1) for parts in sums.values())
    windows = bootstrap.paired(*both, "ratio", higher_is_better=False, names=("glm", "gpt"))
    return {
        "of each seed": of_seeds.tolist(),
        "mean": float(of_seeds.mean()),
        "95 % over seeds": [float(of_seeds.mean() - half), float(of_seeds.mean() + half)],
        "95 % over windows": [windows.low, windows.high],
        "verdict": windows.verdict,
    }


def _table(result: dict[str, Any]) -> str:
    """Markdown."""
    options, blanks = result["options"], result["blanks"]
    lines = [
        f"{blanks['num_spans']} blanks with {blanks['num_noise']} tokens in windows of {blanks['window']} "
        f"({options['tokenizer']} of {options['data']}), {options['steps']} steps of {options['batch_size']} windows; "
        f"bits per byte on {result['windows']} held-out windows, of each seed.",
        "",
        f"| model | parameters | rate | training | {' | '.join(ASKED)} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind, bits in result["bits_per_byte"].items():
        seconds = np.mean(result["train_seconds"][kind])
        given, ended = (f"**{np.mean(row):.3f}** ({_each(row)})" for row in zip(*bits, strict=True))
        lines.append(
            f"| {kind} | {result['num_params'][kind]:,} | {result['rates'][kind]:g} | {seconds:.0f} s "
            f"| {given} | {ended if kind == 'glm' else 'the same'} |"
        )
    lines.append("")
    for name, one in result["glm less gpt"].items():
        intervals = (
            f"{part} [{one[part][0]:+.3f}, {one[part][1]:+.3f}]"
            for part in ("95 % over seeds", "95 % over windows")
        )
        lines.append(
            f"- GLM less GPT, {name}: **{one['mean']:+.3f}** ({_each(one['of each seed'])}), "
            f"{', '.join(intervals)}: {one['verdict']}"
        )
    return "\n".join(lines)


def _each(values: Any) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
