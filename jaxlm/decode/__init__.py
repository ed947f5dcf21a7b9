"""Ways of writing on: from a model's `init_cache` and `extend` to tokens, and from those to texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxlm import registry

if TYPE_CHECKING:
    from jaxlm.decode.types import Method

METHODS = {
    "sample": "jaxlm.decode.sampling:Sampling",
    "beam": "jaxlm.decode.beam:Beam",
    "contrastive": "jaxlm.decode.contrastive:Contrastive",
}
SPECULATIVE = "jaxlm.decode.speculative:Speculative"
"""What "sample" becomes with a draft model."""


def settings(method: str, given: Mapping[str, Any], draft: bool = False) -> Method:
    """The settings of a way of writing.

    Args:
      method: a name of METHODS, or "module:Class" of your own.
      given: those that are not the default.
      draft: whether a second model writes ahead.

    Raises:
      ValueError: no such method or setting, the nearest name is named; or a value that is out of range.
    """
    if method not in METHODS and ":" not in method:
        raise ValueError(
            f'method="{method}" is not known{registry.nearest(method, METHODS)}; accepted: {", ".join(METHODS)}'
        )
    if draft and method != "sample":
        raise ValueError(f'draft: a draft model writes ahead for method="sample", not "{method}"')
    kind = registry.load_object(SPECULATIVE if draft else METHODS.get(method, method))
    known = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            raise ValueError(
                f'{name} is no setting of method="{method}"{registry.nearest(name, known)}; '
                f"it has {', '.join(known)}"
            )
    return kind(**given)
