"""Speed of greedy writing, and the share of the memory's bandwidth that it reaches, as JSON lines.

    python tools/bench_decode.py MODEL [--against transformers] [--batch 1,8] [--dtype float32,bfloat16] [--threads 2]

MODEL is what `jaxlm.load` takes, of a decoder. A step reads every weight of its products once, so no program writes more
steps a second than bandwidth / weight bytes (that times the batch in tokens; caches take little beside it). The other
library is given the same weights, exported, the same type, threads and prompts; the sides take turns, and figures are
medians, the ratio that of pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm import cli

TEXT = """The capital of France is a city that has stood on both banks of its river for more than two thousand years,
and those who write about it seldom agree on which of its streets, markets, bridges and churches is worth the longest walk."""
DTYPES = ("float32", "bfloat16")


class Written(NamedTuple):
    """What one side did: seconds until its first tokens, tokens a second of all rows after them, the tokens."""

    first_token_seconds: float
    tokens_per_second: float
    tokens: list[list[int]]


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.bench_decode", "Time greedy writing.")
    parser.add_argument("model", metavar="MODEL", help="a run, a Hugging Face folder or a .gguf")
    parser.add_argument("--against", choices=("transformers",), help="run it too (torch)")
    parser.add_argument("--batch", type=_numbers, default=[1, 8], metavar="N,N")
    parser.add_argument("--dtype", type=_dtypes, default=["float32"], metavar=",".join(DTYPES))
    parser.add_argument("--prompt_tokens", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="to write after each prompt")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    options = parser.parse_args(argv)
    return cli.guarded(lambda: bench(options))


def bench(options: argparse.Namespace) -> None:
    """Print a line for the machine and one for each type and batch."""
    for name, least in (("repeats", 1), ("prompt_tokens", 1), ("tokens", 2)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}={getattr(options, name)} must be at least {least}")
    cores = sorted(os.sched_getaffinity(0))
    if not 0 <= options.threads <= len(cores):
        raise ValueError(f"--threads={options.threads}: there are {len(cores)} cores")
    os.sched_setaffinity(0, cores[: options.threads or len(cores)])  # before jax counts them
    import jax

    import jaxlm
    from jaxlm.train import devices

    lm = jaxlm.load(options.model)
    if getattr(lm.model, "direction", "") != "causal" or lm.tokenizer is None:
        raise ValueError(f"{options.model} is no decoder with a tokenizer")
    ids = lm.tokenizer.encode(TEXT)
    machine = {
        "model": str(options.model),
        "device": devices.device_name(),
        "threads": len(os.sched_getaffinity(0)),
        "bandwidth_gb_s": _bandwidth() / 1e9,
        "versions": {"python": sys.version.split()[0], "jax": jax.__version__},
    }
    with tempfile.TemporaryDirectory() as folder:
        for dtype in options.dtype:
            sides = {"jaxlm": Ours(lm, dtype)}
            if options.against is not None:
                sides[options.against] = Theirs(lm, dtype, Path(folder))
                machine["versions"] |= sides[options.against].versions
            if dtype == options.dtype[0]:
                print(json.dumps(machine), flush=True)
            for batch in options.batch:
                prompts = [_turned(ids, row, options.prompt_tokens) for row in range(batch)]
                figures = compare(sides, prompts, options.tokens, options.repeats)
                print(json.dumps({"dtype": dtype, "batch": batch} | figures), flush=True)


def compare(sides: dict[str, Any], prompts: list[list[int]], tokens: int, repeats: int) -> dict:
    """Figures of each side; the first one's rates over those of the other."""
    figures, runs = {}, {name: [] for name in sides}
    for name, side in sides.items():
        begin = time.perf_counter()
        side.write(prompts, tokens)
        figures[name] = {"first_call_seconds": time.perf_counter() - begin} | side.facts()
    bandwidth = 0.0
    for _ in range(repeats):
        bandwidth = max(bandwidth, _bandwidth())
        for name, side in sides.items():
            runs[name].append(side.write(prompts, tokens))
    for name, written in runs.items():
        for field in ("first_token_seconds", "tokens_per_second"):
            figures[name][field] = statistics.median(getattr(one, field) for one in written)
        steps = figures[name]["tokens_per_second"] / len(prompts)
        figures[name]["bandwidth_share"] = steps * sides["jaxlm"].weight_bytes / bandwidth
    figures |= {"weight_bytes": sides["jaxlm"].weight_bytes, "bandwidth_gb_s": bandwidth / 1e9}
    if len(sides) == 2:
        ours, theirs = runs.values()
        pairs = list(zip(ours, theirs, strict=True))
        rates = [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
        same = [one == other for one, other in zip(*(pairs[0][side].tokens for side in (0, 1)))]
        figures |= {"ratio": statistics.median(rates), "same_texts": f"{sum(same)}/{len(same)}"}
    return figures


class Ours:
    """This library, its weights stored in the type that they are used in."""

    def __init__(self, lm: Any, dtype: str):
        import jax
        import numpy as np

        self.max_len, self.compiling = lm.max_len, {}
        self.model = type(lm.model)(dataclasses.replace(lm.model.config, dtype=dtype))
        self.params = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, dtype), lm.params)
        weights = self.model.flops_per_token(self.params, 0) / 6  # those in products
        self.weight_bytes = int(weights) * np.dtype(jax.numpy.dtype(dtype)).itemsize

    def write(self, prompts: list[list[int]], tokens: int) -> Written:
        from jaxlm import decode
        from jaxlm.decode import timing
        from jaxlm.decode.types import Request

        request = Request(prompts, max_tokens=tokens, max_len=self.max_len)
        greedy = decode.settings("sample", {"temperature": 0.0})
        with timing.measured() as measured, timing.batch() as counts:
            found = greedy.write(self.model, self.params, request)
            counts.extend(len(one.tokens) for many in found for one in many)
        self.timing = measured
        rows = [one.tokens for many in found for one in many]
        return Written(measured.first_token_seconds, measured.tokens_per_second, rows)

    def facts(self) -> dict[str, float]:
        return {
            "compile_seconds": self.timing.compile_seconds,
            "programs": self.timing.compiles,
        }


class Theirs:
    """`transformers`, with our weights."""

    def __init__(self, lm: Any, dtype: str, folder: Path):
        import torch
        import transformers

        from jaxlm import config as configs
        from jaxlm.interop import huggingface

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        config = configs.build(lm.config, "model")
        family, hf = huggingface.family_for(lm.config.model.kind, config)
        if not any(folder.iterdir()):
            huggingface.save_folder(folder, family, hf, config, lm.params)
        self.torch, kind = torch, transformers.AutoModelForCausalLM
        self.model = kind.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.model.generation_config.eos_token_id = None  # all write as many tokens
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}

    def write(self, prompts: list[list[int]], tokens: int) -> Written:
        times: list[float] = []
        ids = self.torch.tensor(prompts)
        begin = time.perf_counter()
        with self.torch.inference_mode():
            found = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=0,
                streamer=_Clock(times),
            )
        rows = found[:, ids.shape[1] :].tolist()
        first, last = times[1], times[-1]  # the first is of the prompt
        return Written(first - begin, len(prompts) * (tokens - 1) / (last - first), rows)

    def facts(self) -> dict[str, float]:
        return {}


class _Clock:
    """Takes the time of each token instead of printing it."""

    def __init__(self, times: list[float]):
        self.times = times

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def _bandwidth() -> float:
    """Bytes a second that a product reads, of a matrix that no cache holds: the best of ten."""
    matrix, product = _matrix()
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return matrix.nbytes / min(seconds)


@functools.cache
def _matrix() -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda matrix: matrix @ jnp.ones(matrix.shape[1]))
    matrix = jnp.ones((2**15, 2**12), jnp.float32)
    product(matrix).block_until_ready()
    return matrix, product


def _turned(ids: list[int], start: int, count: int) -> list[int]:
    return [ids[(start + place) % len(ids)] for place in range(count)]


def _numbers(text: str) -> list[int]:
    if not all(part.isdigit() and int(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers above 0, such as 1,8")
    return [int(part) for part in text.split(",")]


def _dtypes(text: str) -> list[str]:
    if wrong := set(text.split(",")) - set(DTYPES):
        raise argparse.ArgumentTypeError(f"{wrong.pop()}: accepted are {', '.join(DTYPES)}")
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
