"""What this hardware can do: dense matmul peaks, from a table or measured, and memory."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from jaxlm.data import cache

BF16_PEAK = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L4": 121e12,
    "Tesla T4": 65e12,  # float16
    "TPU v2": 45e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense (not 2:4-sparse) bfloat16 FLOP/s of one JAX device, from the vendors' data sheets."""


class Peak(NamedTuple):
    """FLOP/s of all devices together; 0 where nothing is known. `source` says where it is from."""

    flops: float
    source: str


def device_name() -> str:
    """The kind of device, and how many."""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind}" if jax.device_count() > 1 else kind


@functools.cache
def peak(dtype: str) -> Peak:
    """The matmul peak that MFU is stated against: a data sheet's on accelerators, measured on a CPU."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        best = _best_seen(dtype, _measured(dtype))
        return Peak(best, f"fastest {dtype} matmul measured on this machine, n=2048")
    if device.device_kind in BF16_PEAK and dtype in ("bfloat16", "float16"):
        return Peak(
            BF16_PEAK[device.device_kind] * jax.device_count(), "data sheet, dense bfloat16"
        )
    return Peak(0.0, f"unknown for {device.device_kind} in {dtype}")


def _measured(dtype: str, size: int = 2048, repeats: int = 3) -> float:
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _best_seen(dtype: str, flops: float) -> float:
    """The highest of this measurement and earlier ones: others may be using the machine just now, and MFU were too high."""
    folder = cache.root() / "peaks"
    named = [dtype, _processor(), jax.device_count(), os.cpu_count(), jax.__version__]
    path = folder / f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]}.json"
    try:
        flops = max(flops, float(json.loads(path.read_text())["flops"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the first measurement, or a torn file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(json.dumps({"flops": flops, "of": named}))
        draft.replace(path)
    except OSError:
        pass  # a folder that can't be written to remembers nothing
    return flops


def _processor() -> str:
    """The model of the CPU."""
    try:
        lines = epath.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def memory_bytes() -> float:
    """Memory of one device that a run may plan with; half of the machine's on a CPU."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        total = min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _container_limit())
        return total / 2 / jax.local_device_count()
    stats = device.memory_stats() or {}
    return float(stats.get("bytes_limit", 0))


def _container_limit() -> float:
    """Memory that a control group grants this process; without one, infinity."""
    path = "/sys/fs/cgroup/memory.max"
    text = epath.Path(path).read_text().strip() if os.path.exists(path) else "max"
    return float("inf") if text == "max" else float(text)
