"""Names to code: a registry is a dict you can read, and a dotted path "module:Name" names a user's own piece."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the closest known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""


def load_object(path: str) -> Any:
    """Import "package.module:Name".

    Raises:
      ValueError: the module or the name in it does not exist.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"\"{path}\" can't be imported: {error}. Is its folder the experiment's, the current one or on PYTHONPATH?"
        ) from error
    if not hasattr(module, name):
        raise ValueError(f'module {module_name} has no "{name}"{nearest(name, dir(module))}')
    return getattr(module, name)


def lookup(registry: Mapping[str, str], kind: str, what: str) -> Any:
    """The object that `kind` names: a key of the registry, or a dotted path of the user's own.

    Raises:
      ValueError: neither; the nearest key is named.
    """
    if kind in registry:
        return load_object(registry[kind])
    if ":" in kind:
        return load_object(kind)
    raise ValueError(
        f'{what}.kind="{kind}" is not known{nearest(kind, registry)}; accepted: '
        f'{", ".join(sorted(registry))}, or "your_module:YourClass"'
    )


def need(module: str, extra: str) -> Any:
    """Import a library that only some users need.

    Raises:
      ValueError: it is not installed; the extra that brings it is named.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ValueError(f"{error.name} is not installed: pip install 'jaxlm[{extra}]'") from error
