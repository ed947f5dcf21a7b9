"""Process-wide settings that every run profits from: a persistent compile cache, and memory that a CPU keeps."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

import jax
from etils import epath

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>


@functools.cache
def configure() -> None:
    """Set up this process once; what the user has set in the environment stays."""
    if jax.config.jax_compilation_cache_dir is None:
        root = epath.Path(os.environ.get("JAXLM_CACHE", "~/.cache/jaxlm")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
    if jax.default_backend() == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Stop glibc from giving large buffers back to the kernel after every step and faulting them in again.

    A CPU step's temporaries are allocated anew by XLA each time. Elsewhere than on glibc nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # not glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
