"""Rotary positions in a config.json: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.interop.fields import Reader

KINDS = {"default": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
READ = {
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings",
    "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor",
    "truncate", "partial_rotary_factor",
}  # fmt: skip


def fields(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The rope_* fields of GPTConfig.

    Raises:
      ValueError: a scaling that we haven't, named.
    """
    whole = Reader(hf)
    key = (
        "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
    )  # as transformers 5 has it
    scaling = whole(key, {})
    if other := sorted(name for name in set(scaling) - READ if scaling[name] is not None):
        raise ValueError(
            f"config.json: {key}.{other[0]}={scaling[other[0]]!r} can't be represented"
        )
    read = Reader(scaling, f"{key}.")
    whole.only("partial_rotary_factor", 1.0)
    read.only("partial_rotary_factor", 1.0)
    read.only("truncate", True)
    kind = read.choice("rope_type" if scaling.get("rope_type") else "type", KINDS, "default")
    found = {
        "rope_base": float(read("rope_theta", whole("rope_theta", 10_000.0))),
        "rope_scaling": kind,
        "rope_factor": 1.0,
        "rope_original_len": 0,
        "rope_low_freq": 1.0,
        "rope_high_freq": None,
        "rope_attention_factor": None,
    }
    if kind == "none":
        return found
    found |= {"rope_factor": float(read("factor"))}
    if kind in ("llama3", "yarn"):
        name = "original_max_position_embeddings"
        found |= {"rope_original_len": read(name, whole(name, whole("max_position_embeddings")))}
    if kind == "llama3":
        found |= {"rope_low_freq": float(read("low_freq_factor"))}
        found |= {"rope_high_freq": float(read("high_freq_factor"))}
    if kind == "yarn":
        found |= {"rope_low_freq": float(read("beta_slow", 1))}
        found |= {"rope_high_freq": float(read("beta_fast", 32))}
        found |= {"rope_attention_factor": read("attention_factor", None)}
    return found


def hf_keys(config: Any) -> dict[str, Any]:
    """The keys of config.json, spelt as every version of transformers reads them."""
    scaling = config.rope
    found: dict[str, Any] = {"rope_theta": config.rope_base}
    if scaling.kind == "none":
        return found
    values = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        values |= {"original_max_position_embeddings": scaling.original_len}
    if scaling.kind == "llama3":
        values |= {"low_freq_factor": scaling.low_freq, "high_freq_factor": scaling.high_freq}
    if scaling.kind == "yarn":
        values |= {"beta_slow": scaling.low_freq, "beta_fast": scaling.high_freq}
        values |= {"attention_factor": scaling.attention_factor}
    return found | {"rope_scaling": values}
