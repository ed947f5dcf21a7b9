"""Recurrent training steps on this machine: our LSTM beside torch's, linear recurrences at once beside one by one, and beside
the loops of GRU and LSTM.

    python tools/bench_recurrent.py [--threads 2] [--rounds 12]                       all
    taskset -c 0 python tools/bench_recurrent.py --threads 1 --only torch             on one core
    taskset -c 0 python tools/bench_recurrent.py --threads 1 --processor_time         on one core that others use, too

Beside torch: 2 layers, 256 wide, tied to a vocabulary of 128; forward, backward and Adam of 32 x 128 tokens in float32. Slices of
both alternate in one process, and what is shown is the median of the slices' ratios: a busy machine slows both, if not alike;
with --processor_time seconds are the process's own. Needs torch for that part.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from jaxlm.train import runtime

runtime.configure()  # before jax starts its threads

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxlm.models.rnn import RNN, RNNConfig  # noqa: E402
from jaxlm.objectives.causal_lm import CausalLM  # noqa: E402
from jaxlm.objectives.causal_lm import Config as LossConfig  # noqa: E402
from jaxlm.train import optim  # noqa: E402
from jaxlm.train.steps.gradient import Config, Gradient  # noqa: E402

VOCAB, WIDTH, LAYERS, BATCH, LENGTH = 128, 256, 2, 32, 128
SCANS = {"mingru": (1024, 128), "minlstm": (1024, 128), "mamba": (1024, 64)}
"""Cell -> tokens a batch (of one row at least) and width, one layer."""
LOOPS = {"mingru": "gru", "minlstm": "lstm", "mamba": "lstm"}
"""Cell -> the one whose state goes through a product at each step; one layer of LOOP_WIDTH, MLPs as wide, one row."""
LOOP_WIDTH = 256
clock = time.perf_counter

Run = Callable[[int], float]
"""Seconds a step, of so many steps."""


def ours(config: RNNConfig, batch: int, length: int) -> Run:
    """Steps of the run that the loop would make of this model."""
    model = RNN(config)
    adam = optim.Config(schedule="constant", weight_decay=0.0, clip_norm=0.0)
    tx, schedule = optim.build(adam, 10**6, {})
    objective = CausalLM(LossConfig(), model)
    builder = Gradient(Config(), model, objective, tx, schedule, num_micro_batches=1)
    data = rows(batch, length) | {"weights": np.ones((batch, length), np.float32)}
    state = nn.unbox(jax.jit(builder.init)(jax.random.key(0), data))
    step = jax.jit(builder.step, donate_argnums=0)
    held = [state]

    def run(steps: int) -> float:
        start = clock()
        for _ in range(steps):
            held[0], metrics = step(held[0], data)
        jax.block_until_ready((held[0].params, metrics))
        return (clock() - start) / steps

    run(1)
    return run


def rows(batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, VOCAB, (batch, length + 1)).astype(np.int32)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:]}


def theirs(threads: int) -> Run:
    """Steps of torch.nn.LSTM between an embedding and a head that share their table, with fused Adam."""
    import torch

    torch.set_num_threads(threads)
    embed = torch.nn.Embedding(VOCAB, WIDTH)
    lstm = torch.nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True)
    adam = torch.optim.Adam([*embed.parameters(), *lstm.parameters()], lr=1e-3, fused=True)
    tokens, targets = (torch.tensor(ids, dtype=torch.long) for ids in rows(BATCH, LENGTH).values())

    def run(steps: int) -> float:
        start = clock()
        for _ in range(steps):
            adam.zero_grad(set_to_none=True)
            scores = lstm(embed(tokens))[0] @ embed.weight.T
            loss = torch.nn.functional.cross_entropy(scores.view(-1, VOCAB), targets.view(-1))
            loss.backward()
            adam.step()
        return (clock() - start) / steps

    run(1)
    return run


def alternate(first: Run, second: Run, rounds: int, steps: int) -> tuple[float, float, float]:
    """Median seconds a step of both, and the median of second / first."""
    slices = [(first(steps), second(steps)) for _ in range(rounds)]
    ratios = [other / one for one, other in slices]
    return *(statistics.median(part) for part in zip(*slices, strict=True)), statistics.median(
        ratios
    )


def beside_torch(threads: int, rounds: int) -> None:
    config = RNNConfig(vocab_size=VOCAB, num_layers=LAYERS, d_model=WIDTH, dtype="float32")
    one, other, ratio = alternate(ours(config, BATCH, LENGTH), theirs(threads), rounds, 2)
    tokens = BATCH * LENGTH
    print(f"LSTM: {tokens / one:,.0f} tokens/s, torch's {tokens / other:,.0f}, ratio {ratio:.2f}")


def beside_each_other(lengths: list[int], rounds: int) -> None:
    print("| cell | T | rows | parallel, ms | sequential, ms | sequential / parallel |")
    print("|---|---|---|---|---|---|")
    for cell, (tokens, width) in SCANS.items():
        for length in lengths:
            batch = max(1, tokens // length)
            runs = []
            for scan in ("parallel", "sequential"):
                config = RNNConfig(
                    cell=cell, vocab_size=VOCAB, num_layers=1, d_model=width, scan=scan
                )
                runs.append(ours(config, batch, length))
            one, other, ratio = alternate(*runs, rounds, 1)
            print(
                f"| {cell} | {length} | {batch} | {1e3 * one:.1f} | {1e3 * other:.1f} | {ratio:.2f} |",
                flush=True,
            )


def beside_loops(lengths: list[int], rounds: int) -> None:
    print("| cell | T | ms | beside | ms | ratio |")
    print("|---|---|---|---|---|---|")
    for cell, loop in LOOPS.items():
        wide = {} if cell == "mamba" else {"d_ff": LOOP_WIDTH}
        for length in lengths:
            runs = [
                ours(
                    RNNConfig(cell=c, vocab_size=VOCAB, num_layers=1, d_model=LOOP_WIDTH, **more),
                    1,
                    length,
                )
                for c, more in ((cell, wide), (loop, {}))
            ]
            one, other, ratio = alternate(*runs, rounds, 1)
            print(
                f"| {cell} | {length} | {1e3 * one:.1f} | {loop} | {1e3 * other:.1f} | {ratio:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="torch's")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--only", choices=["torch", "scans", "loops"])
    parser.add_argument("--processor_time", action="store_true")
    options = parser.parse_args()
    runtime.keep_freed_memory(0)
    if options.processor_time:
        global clock
        clock = time.process_time
    if options.only in (None, "torch"):
        beside_torch(options.threads, options.rounds)
    if options.only in (None, "scans"):
        beside_each_other(options.lengths, options.rounds)
    if options.only in (None, "loops"):
        beside_loops(options.lengths, options.rounds)


if __name__ == "__main__":
    main()
