"""Time and peak memory of attention's backends, causal, forward and backward, as a Markdown table.

    python tools/bench_attention.py [--lengths 256 1024] [--backends xla blockwise] [--batch 1] [--heads 2] [--width 64]

The backends run in turn; a time is the median. Memory is what XLA plans beside inputs and outputs
(`memory_analysis().temp_size_in_bytes`).
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from jaxlm.layers import attention_backends
from jaxlm.layers.attention_backends import Spec


def compiled(backend: str, shape: tuple[int, ...], dtype: str):
    """The program from q, k, v and the output's gradient to the gradients of q, k and v."""

    def step(q, k, v, grad):
        def attend(*arrays):
            return attention_backends.attend(*arrays, Spec(), backend)

        return jax.vjp(attend, q, k, v)[1](grad)

    return jax.jit(step).lower(*[jax.ShapeDtypeStruct(shape, dtype)] * 4).compile()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lengths = [256, 512, 1024, 2048, 4096, 8192]
    parser.add_argument("--lengths", type=int, nargs="+", default=lengths)
    parser.add_argument("--backends", nargs="+", default=["xla", "blockwise"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=15, help="fewer above T=1024")
    options = parser.parse_args()
    columns = [f"{name}, {unit}" for unit in ("ms", "MiB") for name in options.backends]
    print(f"| T | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for length in options.lengths:
        shape = (options.batch, options.heads, length, options.width)
        keys = jax.random.split(jax.random.key(0), 4)
        arrays = [jax.random.normal(key, shape, jnp.dtype(options.dtype)) for key in keys]
        steps = {name: compiled(name, shape, options.dtype) for name in options.backends}
        times: dict[str, list[float]] = {name: [] for name in steps}
        rounds = max(3, options.rounds * 1024 // max(length, 1024))
        for number in range(rounds + 1):
            for name, step in steps.items():
                start = time.perf_counter()
                jax.block_until_ready(step(*arrays))
                if number:  # the first warms up
                    times[name].append(1e3 * (time.perf_counter() - start))
        bytes_used = [step.memory_analysis().temp_size_in_bytes for step in steps.values()]
        cells = [f"{statistics.median(values):,.1f}" for values in times.values()]
        cells += [f"{count / 2**20:,.1f}" for count in bytes_used]
        print(f"| {length} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
