"""Reading a config.json key by key, so that each that we can't represent is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.registry import nearest

_NEEDED = object()
_EXPECTED = {
    "a whole number": (
        "vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
        "head_dim", "intermediate_size", "max_position_embeddings", "sliding_window", "max_window_layers",
        "original_max_position_embeddings", "n_layer", "n_embd", "n_head", "n_inner", "n_positions",
        "num_layers", "num_decoder_layers", "d_model", "num_heads", "d_kv", "d_ff", "type_vocab_size",
        "relative_attention_num_buckets", "relative_attention_max_distance", "decoder_start_token_id",
        "pad_token_id",
    ),
    "a number above 0": (
        "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "factor",
        "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor",
    ),
    "true or false": (
        "tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "scale_decoder_outputs",
    ),
    "a list of names": ("architectures", "layer_types"),
    "an object": ("id2label", "rope_scaling", "rope_parameters"),
}  # fmt: skip
_KIND = {key: kind for kind, keys in _EXPECTED.items() for key in keys}


class Reader:
    """`read(key)` gives a value of config.json; a key that is missing and needed is named."""

    def __init__(self, hf: Mapping[str, Any], where: str = ""):
        self.hf, self.where = hf, where  # where: "rope_scaling." for the keys in it

    def __call__(self, key: str, default: Any = _NEEDED) -> Any:
        value = self.hf.get(key)
        if value is None and default is _NEEDED:
            raise ValueError(f"config.json has no {self.where}{key}{nearest(key, self.hf)}")
        if value is not None and key in _KIND and not _is(_KIND[key], value):
            raise ValueError(f"config.json: {self.where}{key}={value!r} must be {_KIND[key]}")
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
        if not isinstance(found, str) or found not in accepted:
            raise ValueError(
                f"config.json: {self.where}{key}={found!r} can't be represented; accepted are {', '.join(accepted)}"
            )
        return accepted[found]


def _is(kind: str, value: Any) -> bool:
    if kind == "a list of names":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind == "an object":
        return isinstance(value, Mapping)
    if kind == "true or false" or isinstance(value, bool):
        return kind == "true or false" and isinstance(value, bool)
    if kind == "a whole number":
        return isinstance(value, int)
    return isinstance(value, int | float) and 0 < value < float("inf")


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
