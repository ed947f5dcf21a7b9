"""Process-wide settings that every run profits from: a persistent compile cache, and memory that a CPU keeps."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

import jax

from jaxlm.data import cache

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # <malloc.h>
ACCELERATORS = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0")


KEPT_BYTES = 2**30


@functools.cache
def configure() -> None:
    """Set up this process once, before its first array; what the user has set stays."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.root() / "compiled"))
    # Other arenas than the first can't hold large buffers. It must be said before JAX starts its
    # threads, so the device files tell whether this will be a CPU run.
    if not any(map(os.path.exists, ACCELERATORS)):
        _mallopt(M_ARENA_MAX, 1)


def keep_freed_memory(predicted_bytes: float) -> None:
    """Stop glibc from giving buffers back to the kernel after every step and faulting them in again.

    XLA allocates a CPU step's temporaries anew each time: with quickstart's 126 MB that is 31 thousand
    page faults and a fifth of the step. A run of more than KEPT_BYTES is left alone: its buffers would
    leave holes in the heap that the next ones do not fit. Elsewhere than on glibc nothing is changed.
    """
    if jax.default_backend() == "cpu" and predicted_bytes < KEPT_BYTES:
        _mallopt(M_MMAP_MAX, 0)
        _mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _mallopt(parameter: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None).mallopt(parameter, value)
    except AttributeError:  # not glibc
        return
