"""The only place that knows foreign formats: Hugging Face folders in and out, GGUF files in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxlm.interop import gguf, huggingface
from jaxlm.interop.huggingface import Source


def is_foreign(path: Any) -> bool:
    """Whether `open_source` is the one to ask: a .gguf file, or a folder whose config.json is not a run's."""
    return str(path).endswith(".gguf") or huggingface.is_folder(Path(path))


def open_source(path: Any) -> Source:
    """A model in another layout; nothing is read but its description.

    Raises:
      ValueError: it is not one that we can represent; what is wrong is named.
    """
    path = Path(path)
    return gguf.open_file(path) if path.suffix == ".gguf" else huggingface.open_folder(path)
