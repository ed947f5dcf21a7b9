"""Forward-backward of hidden Markov models: ours against hmmlearn's, and position by position against blocks.

    python tools/bench_hmm.py                                64 states, 32 sequences of 1,024 symbols; `pip install hmmlearn`
    python tools/bench_hmm.py --states 8 --length 4096 --rows 1 --rounds 9
    python tools/bench_hmm.py --scans                        where blocks win on this device, over states, rows and lengths

Posteriors of the same sequences under the same random tables, hmmlearn with implementation="scaling" (float64, one core). Each
round times one after the other, ours compiled before; of the rounds' ratios the median is given, and the smallest and largest.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.models.hmm import HMM, HMMConfig

SYMBOLS = 65
SHAPES = [
    (states, rows, length)
    for states in (4, 16, 64)
    for rows in (1, 32)
    for length in (256, 1024, 8192)
]


def make(states: int, rows: int, length: int):
    """Tables and sequences."""
    rng = np.random.default_rng(0)
    tables = {
        "initial": rng.dirichlet(np.ones(states)),
        "transition": rng.dirichlet(np.ones(states), states),
        "emission": rng.dirichlet(np.ones(SYMBOLS), states),
    }
    return tables, rng.integers(0, SYMBOLS, (rows, length)).astype(np.int32)


def ours(tables, tokens: np.ndarray, scan: str) -> Callable[[], np.ndarray]:
    """A function that gives the posteriors, compiled."""
    states = len(tables["initial"])
    model = HMM(HMMConfig(vocab_size=SYMBOLS, num_states=states, scan=scan))
    params = {name: jnp.log(jnp.float32(table)) for name, table in tables.items()}
    run, placed = jax.jit(model.posteriors), jnp.asarray(tokens)

    def posteriors() -> np.ndarray:
        return np.asarray(jax.block_until_ready(run(params, placed))[0])

    posteriors()
    return posteriors


def theirs(tables, tokens: np.ndarray) -> Callable[[], np.ndarray]:
    """The same of hmmlearn."""
    from hmmlearn import hmm

    model = hmm.CategoricalHMM(len(tables["initial"]), implementation="scaling", n_features=SYMBOLS)
    model.startprob_, model.transmat_ = tables["initial"], tables["transition"]
    model.emissionprob_ = tables["emission"]
    symbols, lengths = tokens.reshape(-1, 1), [tokens.shape[1]] * len(tokens)

    def posteriors() -> np.ndarray:
        return model.score_samples(symbols, lengths)[1].reshape(*tokens.shape, -1)

    return posteriors


def alternate(runs: Sequence[Callable[[], np.ndarray]], rounds: int) -> np.ndarray:
    """Seconds, [rounds, runs]."""
    seconds = np.empty((rounds, len(runs)))
    for times in seconds:
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            times[index] = time.perf_counter() - start
    return seconds


def said(seconds: np.ndarray) -> str:
    """Medians, and how many times faster the second is."""
    ratios = seconds[:, 0] / seconds[:, 1]
    first, second = (f"{1e3 * x:9.2f} ms" for x in np.median(seconds, axis=0))
    return f"{first} {second}   {np.median(ratios):6.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, value in (("states", 64), ("rows", 32), ("length", 1024), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--scans", action="store_true")
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax {jax.__version__}")
    if options.scans:
        print("states  rows  length   parallel     sequential     times faster, sequential")
        for states, rows, length in SHAPES:
            if states**2 * rows * length > 64**2 * 32 * 1024:
                continue
            case = functools.partial(ours, *make(states, rows, length))
            seconds = alternate([case("parallel"), case("sequential")], options.rounds)
            print(f"{states:6} {rows:5} {length:7} {said(seconds)}", flush=True)
        return
    tables, tokens = make(options.states, options.rows, options.length)
    runs = [theirs(tables, tokens), ours(tables, tokens, "sequential")]
    apart = np.abs(runs[0]() - runs[1]()).max()
    print(
        f"{options.states} states, {options.rows} x {options.length}; posteriors differ by at most {apart:.2g}"
    )
    print(f"hmmlearn, ours, times faster: {said(alternate(runs, options.rounds))}")


if __name__ == "__main__":
    main()
