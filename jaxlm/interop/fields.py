"""Reading a config.json key by key, so that each that we can't represent is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.registry import nearest

_NEEDED = object()


class Reader:
    """`read(key)` gives a value of config.json; a key that is missing and needed is named."""

    def __init__(self, hf: Mapping[str, Any], where: str = ""):
        self.hf, self.where = hf, where  # where: "rope_scaling." for the keys in it

    def __call__(self, key: str, default: Any = _NEEDED) -> Any:
        value = self.hf.get(key)
        if value is None and default is _NEEDED:
            raise ValueError(f"config.json has no {self.where}{key}{nearest(key, self.hf)}")
        return default if value is None else value

    def only(self, key: str, value: Any) -> None:
        """Refuse another value than the one that we can represent."""
        if (found := self(key, value)) != value:
            raise ValueError(
                f"config.json: {self.where}{key}={found!r} can't be represented; accepted is {value!r}"
            )

    def choice(self, key: str, accepted: Mapping[str, str], default: Any = _NEEDED) -> str:
        """Our name for their value."""
        found = self(key, default)
        if found not in accepted:
            raise ValueError(
                f"config.json: {self.where}{key}={found!r} can't be represented; accepted are {', '.join(accepted)}"
            )
        return accepted[found]


def refuse_others(
    config: Any, fixed: Mapping[str, Any], family: str, bias_as: tuple[str, ...] = ()
) -> None:
    """Refuse to export a config whose fields differ from what a family has.

    Args:
      config: one of our Configs.
      fixed: field -> the one value that the family can have.
      family: its name, for the message.
      bias_as: fields that may also have the value of `bias`.

    Raises:
      ValueError: names the first such field.
    """
    for field, value in fixed.items():
        found = getattr(config, field)
        if found != value and not (field in bias_as and found == config.bias):
            raise ValueError(
                f"model.{field}={found!r}: {family} has {value!r}, so this model has no {family} form"
            )
