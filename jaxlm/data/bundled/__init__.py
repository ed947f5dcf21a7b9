"""The small real corpora that every experiment can start from offline; NOTICE says whose they are.

Built by `tools/build_bundled.py`. What the bytes mean is for `sources` and the tasks to say, not
for this file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jaxlm.registry import nearest

FEWEST = {"packages": {"section": 50}, "poetry": {"author": 50}}
"""Lines that a label needs in these columns, which have many rare ones."""


@functools.cache
def index() -> Mapping[str, Mapping[str, Any]]:
    """Name -> file, format, bytes, sha256, description and licence of every bundled corpus."""
    text = resources.files(__name__).joinpath("index.json").read_text(encoding="utf-8")
    return json.loads(text)


def entry(name: str) -> Mapping[str, Any]:
    """One line of the index.

    Raises:
      ValueError: no corpus has this name; the nearest one is given.
    """
    if name not in index():
        known = ", ".join(index())
        raise ValueError(
            f'"bundled:{name}" is not bundled{nearest(name, index())}; accepted: {known}'
        )
    return index()[name]


def read(name: str) -> bytes:
    """The whole corpus, uncompressed and checked against its digest.

    Raises:
      ValueError: no corpus has this name, or the installed file is damaged.
    """
    facts = entry(name)
    try:
        raw = lzma.decompress(resources.files(__name__).joinpath(facts["file"]).read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise ValueError(f"bundled:{name} can't be read ({error}): install jaxlm again") from error
    if hashlib.sha256(raw).hexdigest() != facts["sha256"]:
        raise ValueError(f"bundled:{name} is damaged (its digest differs): install jaxlm again")
    return raw
