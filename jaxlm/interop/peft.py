"""LoRA adapters as the library peft keeps them, read: adapter_config.json and adapter_model.safetensors.

Layout: https://huggingface.co/docs/peft/main/en/developer_guides/checkpoint . Written by peft_outward.py; what a run of ours makes
of one is for train/adapters.py. Names are the families' (`mapping.Entry`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.interop import mapping, tensors
from jaxlm.interop.mapping import Entry, Family

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "Model": "FEATURE_EXTRACTION",
}
"""How a class of transformers ends -> peft's `task_type`."""
HEADS = {"SEQ_CLS": "sequence", "TOKEN_CLS": "token", "FEATURE_EXTRACTION": "none"}
"""`task_type` -> the head of a BERT of ours."""
READ = {
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern",
    "use_rslora", "bias", "init_lora_weights",
}  # fmt: skip
PLAIN = {
    "auto_mapping", "peft_version", "revision", "inference_mode", "target_modules", "exclude_modules", "modules_to_save",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "megatron_core", "runtime_config", "qalora_group_size",
}  # fmt: skip
"""Keys whose value changes nothing of what the tensors mean: these say it themselves, by their names."""
INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Of `init_lora_weights`, those that leave the model under the adapter as it was."""


class Adapter(NamedTuple):
    """An opened folder."""

    where: str
    base: str  # what it says of the model under it
    task: str
    dropout: float
    pairs: dict[str, tuple[np.ndarray, np.ndarray, float]]  # module -> A [r, in], B [out, r], scale
    whole: dict[str, np.ndarray]  # tensors that replace the model's


def is_folder(path: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (path / CONFIG).is_file()


def open_folder(path: Path) -> Adapter:
    """An adapter in memory.

    Raises:
      ValueError: it is no LoRA, is of a form that we have not, or its tensors are damaged or of other names.
    """
    try:
        config = json.loads((path / CONFIG).read_bytes())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path / CONFIG} is damaged: {error}") from error
    if kind != "LORA":
        raise ValueError(f"{path / CONFIG}: peft_type={kind!r} is not read; accepted is 'LORA'")
    _check_config(path, config)
    if not (path / WEIGHTS).is_file():
        raise ValueError(f"{path} has no {WEIGHTS} (a pickle, *.bin, is never opened)")
    held = tensors.SafeTensors(str(path), tensors.read_header(path / WEIGHTS))
    arrays = {name: np.asarray(held.read(name), np.float32) for name in held.shapes}
    return Adapter(
        str(path),
        str(config.get("base_model_name_or_path") or ""),
        config.get("task_type") or "",
        float(config.get("lora_dropout") or 0.0),
        *_sorted_out(path, config, arrays),
    )


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"{path / CONFIG}: bias={config['bias']!r} is not read; accepted is 'none'"
        )
    if (init := config.get("init_lora_weights", True)) not in INITS:
        raise ValueError(
            f"{path / CONFIG}: init_lora_weights={init!r} has changed the model under the adapter; let peft convert it "
            "(path_initial_model_for_weight_conversion)"
        )
    _check_numbers(path, config)
    other = {key for key, value in config.items() if value} - READ - PLAIN
    if other:
        key = sorted(other)[0]
        raise ValueError(f"{path / CONFIG}: {key}={config[key]!r} can't be represented")


def _check_numbers(path: Path, config: Mapping[str, Any]) -> None:
    """Of scales and dropout."""
    alphas = config.get("alpha_pattern") or {}
    try:
        for pattern in alphas:
            re.compile(pattern)
        own = {
            "lora_alpha": config.get("lora_alpha"),
            "lora_dropout": config.get("lora_dropout") or 0,
        }
        wrong = {k: v for k, v in (own | alphas).items() if type(v) not in (int, float)}
    except (TypeError, re.error) as error:
        raise ValueError(
            f"{path / CONFIG}: alpha_pattern={alphas!r} is damaged: {error}"
        ) from error
    for key, value in wrong.items():
        raise ValueError(f"{path / CONFIG}: {key}={value!r} must be a number")


def _sorted_out(path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
    """Pairs by module, and what is none."""
    low: dict[str, dict[str, np.ndarray]] = {}
    whole = {}
    for name, array in arrays.items():
        own = name.removeprefix(ROOT)
        module, _, part = own.rpartition(".lora_")
        if part in ("A.weight", "B.weight"):
            low.setdefault(module, {})[part[0]] = array
        elif "lora_" in own or own == name:
            raise ValueError(f"{path / WEIGHTS}: {name} can't be represented")
        else:
            whole[own] = array
    pairs = {}
    for module, both in low.items():
        if set(both) != {"A", "B"} or len(both["A"]) != both["B"].shape[-1]:
            raise ValueError(
                f"{path / WEIGHTS}: {module} has no matching pair of lora_A and lora_B"
            )
        rank = len(both["A"])
        alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        pairs[module] = (both["A"], both["B"], alpha / divisor)
    if not pairs:
        raise ValueError(f"{path / WEIGHTS} holds no adapter")
    return pairs, whole


def _of_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """As peft has it: the first pattern, a regular expression, that is a module's name or its end."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def load(
    adapter: Adapter, family: Family, config: Any
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray, float]], dict[str, np.ndarray]]:
    """An adapter under our names, layers one by one.

    Returns:
      Path of a linear layer -> A [in, r], B [r, out] and their scale; path of a parameter -> what it is instead.

    Raises:
      ValueError: it is of another model.
    """
    by_name: dict[str, list[Entry]] = {}
    for entry in family.entries(config):
        for name in mapping.spelled(family, entry.theirs):
            by_name.setdefault(name, []).append(entry)
    low, whole, unknown = {}, {}, []
    for module, (a, b, scale) in adapter.pairs.items():
        entries = by_name.get(f"{module}.weight", [])
        unknown += [] if entries else [module]
        for entry in entries:
            part = mapping.part_of(b.T, entry)
            low[entry.ours.removesuffix("/kernel")] = (a.T, part, scale)
    for name, array in adapter.whole.items():
        entries = by_name.get(name, [])
        unknown += [] if entries else [name]
        for entry in entries:
            part = mapping.part_of(array, entry)
            whole[entry.ours] = part.T if entry.transpose else part
    if unknown:
        raise ValueError(
            f"{adapter.where} is no adapter of this {family.NAME}: {', '.join(unknown[: mapping.SHOWN])}"
        )
    return low, whole
