"""Process-wide settings that every run profits from: a persistent compile cache, and memory that a CPU keeps."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

import jax
from etils import epath

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # <malloc.h>
ACCELERATORS = ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0")


@functools.cache
def configure() -> None:
    """Set up this process once, before its first array; what the user has set stays."""
    if jax.config.jax_compilation_cache_dir is None:
        root = epath.Path(os.environ.get("JAXLM_CACHE", "~/.cache/jaxlm")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))


@functools.cache
def keep_freed_memory() -> None:
    """Stop glibc from giving large buffers back to the kernel after every step and faulting them in again.

    XLA allocates a CPU step's temporaries anew each time: with quickstart's 126 MB that is 31 thousand
    page faults and a fifth of the step. One arena, for other arenas can't hold large buffers; it must
    be set before JAX starts its threads, so the device files tell whether this will be a CPU run.
    Elsewhere than on glibc nothing is changed.
    """
    if not sys.platform.startswith("linux") or any(map(os.path.exists, ACCELERATORS)):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
