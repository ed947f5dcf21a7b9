"""jaxlm: train, sample and judge language models in JAX, from one command.

Public surface: `run(config, workdir)`, `load(workdir)`, `config`, and the registries MODELS, OBJECTIVES, TASKS.
Importing this package imports none of jax, grain or orbax; they come with the first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "run": "jaxlm.api",
    "load": "jaxlm.api",
    "LanguageModel": "jaxlm.api",
    "MODELS": "jaxlm.models",
    "OBJECTIVES": "jaxlm.objectives",
    "TASKS": "jaxlm.data.tasks",
}

__all__ = ["__version__", "config", *_LAZY]


def __getattr__(name: str) -> Any:
    if name == "config":
        return importlib.import_module("jaxlm.config")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'jaxlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
