"""Configs: one section per dataclass, a command line that overrides any key, and the record of what ran.

Order: dataclass default in the code's file < `base()` < the experiment's file < the command line. Below
`train/loop.py` nobody sees a ConfigDict: `build` turns a section into its dataclass, which checks itself.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxlm import registry

SECTIONS = {
    "model": "jaxlm.models:MODELS",
    "objective": "jaxlm.objectives:OBJECTIVES",
    "data": "jaxlm.data.tasks:TASKS",
    "tuning": "jaxlm.train.tuning:TUNINGS",
    "step": "jaxlm.train.steps:STEPS",
    "optim": "jaxlm.train.optim:Config",
    "mesh": "jaxlm.train.parallel:Config",
    "checkpoint": "jaxlm.train.checkpoint:Config",
}
"""Section -> the registry of its kinds, or its one dataclass."""


def section(name: str, kind: str = "", **overrides: Any) -> ConfigDict:
    """One section of a config: the fields of the dataclass that `kind` names, with some overridden.

    Args:
      name: a key of SECTIONS.
      kind: a key of that section's registry, or "your_module:YourClass" whose `Config` is a dataclass.
      **overrides: field values that differ from the dataclass's defaults.

    Raises:
      ValueError: an unknown section, kind or field; the nearest name is given.
    """
    fields = {field.name: field for field in dataclasses.fields(_config_class(name, kind))}
    values: dict[str, Any] = {"kind": kind} if kind else {}
    hints = typing.get_type_hints(_config_class(name, kind))
    for key, field in fields.items():
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING and key not in overrides:
            raise ValueError(f"{name}.{key} has no default: give it in the experiment")
        if default is None:
            default = config_dict.placeholder(_optional_type(hints[key]))
        values[key] = kind if key == "kind" and kind else default
    for key in overrides:
        if key not in fields:
            raise ValueError(
                f'{name}.{key} is not a key of "{kind}"{registry.nearest(key, fields)}'
            )
    result = ConfigDict(values)
    with result.ignore_type():
        result.update(overrides)
    return result


def _optional_type(hint: Any) -> type:
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if kinds else str


def _config_class(name: str, kind: str) -> type:
    if name not in SECTIONS:
        raise ValueError(f'no section "{name}"{registry.nearest(name, SECTIONS)}')
    target = registry.load_object(SECTIONS[name])
    if not isinstance(target, dict):
        return target
    return getattr(registry.lookup(target, kind, name), "Config", None) or _no_config(name, kind)


def _no_config(name: str, kind: str) -> type:
    raise ValueError(f'{name}.kind="{kind}" has no `Config` dataclass')


def implementation(cfg: ConfigDict, name: str) -> Any:
    """The class or function that section `name` names by its kind."""
    return registry.lookup(registry.load_object(SECTIONS[name]), cfg[name].kind, name)


def build(cfg: ConfigDict, name: str) -> Any:
    """Section `name` as its checked, frozen dataclass; a map of sections (optim) as a dict of them.

    Raises:
      ValueError: the section's keys are not those of its kind, or a value is not accepted.
    """
    if name == "optim" and "kind" not in cfg[name]:
        return {
            pattern: build(ConfigDict({name: part}), name) for pattern, part in cfg[name].items()
        }
    values = dict(cfg[name].items())
    kind = values.pop("kind", "")
    cls = _config_class(name, kind)
    known = {field.name for field in dataclasses.fields(cls)}
    if "kind" in known:
        values["kind"] = kind
    if set(values) != known:
        differing = ", ".join(sorted(set(values) ^ known))
        raise ValueError(
            f'{name}.kind="{kind}" has other keys than this section ({differing}): a kind is changed '
            f'in the experiment\'s file, by config.section("{name}", "{kind}", ...)'
        )
    return cls(**{key: _plain(value) for key, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def base() -> ConfigDict:
    """The config that every experiment starts from, with the default of every loop-level key. Locked."""
    cfg = ConfigDict()
    cfg.seed = 0
    cfg.num_steps = 1000
    cfg.batch_size = 32  # sequences a step, over all devices and micro-batches
    cfg.micro_batch_size = (
        0  # sequences at once, over all devices; 0: what the device's memory holds
    )
    cfg.log_every = 50
    cfg.eval_every = 500  # 0: only at the end
    cfg.checkpoint_every = 500  # 0: only at the end
    cfg.sample_every = 500  # 0: only at the end
    cfg.sample_tokens = 200
    cfg.sample_prompt = ""
    cfg.init_from = ""  # a Hugging Face folder, a .gguf file or a run: its architecture and weights
    cfg.init_layers = ()  # those of its layers that this model begins with, counted from 0; (): all
    cfg.evaluators = ("perplexity",)
    cfg.model = section("model", "gpt")
    cfg.objective = section("objective", "causal_lm")
    cfg.data = section("data", "text")
    cfg.tuning = section("tuning", "full")  # which parameters train
    cfg.step = section("step", "gradient")
    cfg.optim = section("optim", "adamw")
    cfg.mesh = section("mesh")
    cfg.checkpoint = section("checkpoint")
    cfg.lock()
    return cfg


def load(spec: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """Read an experiment `FILE.py[:variant]` and apply overrides such as {"model.num_layers": "4"}.

    Raises:
      ValueError: the file is missing or broken, has no such variant, or a key or value does not fit.
    """
    path, _, variant = spec.partition(".py:")
    path = path if path.endswith(".py") else path + ".py"
    cfg = _run_file(path, variant)
    for key, text in (overrides or {}).items():
        override(cfg, key, text)
    return cfg


def check_variant(variant: str, known: Iterable[str]) -> None:
    """For an experiment's `get_config(variant)`.

    Raises:
      ValueError: the experiment has no such variant; the nearest one is named.
    """
    names = [name for name in known if name]
    if variant and variant not in names:
        raise ValueError(f'no variant "{variant}"{registry.nearest(variant, names)}: {names}')


def experiment_name(spec: str) -> str:
    """`experiments/gpt_small.py:fineweb` as `gpt_small-fineweb`."""
    path, _, variant = spec.partition(".py:")
    return Path(path).stem + (f"-{variant}" if variant else "")


def _run_file(path: str, variant: str) -> ConfigDict:
    if not Path(path).is_file():
        raise ValueError(f"--config: no file {path}")
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # an experiment may name models that stand beside it
    spec = importlib.util.spec_from_file_location(f"_experiment_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("it defines no get_config()")
        cfg = module.get_config(variant) if variant else module.get_config()
    except Exception as error:  # a user's file can fail in any way; the line says where
        line = _line_in(error, path)
        raise ValueError(f"--config {path}{line}: {type(error).__name__}: {error}") from error
    if not isinstance(cfg, ConfigDict):
        raise ValueError(f"--config {path}: get_config() must return config.base() or a ConfigDict")
    return cfg


def _line_in(error: BaseException, path: str) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    line, trace = "", error.__traceback__
    while trace:
        if os.path.abspath(trace.tb_frame.f_code.co_filename) == os.path.abspath(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def override(cfg: ConfigDict, key: str, text: str) -> None:
    """Set one key, "model.num_layers", from a command line's text, keeping the key's type.

    Raises:
      ValueError: no such key (the nearest one is named), or text of another type.
    """
    *parents, leaf = key.split(".")
    node: Any = cfg
    for depth, name in enumerate([*parents, leaf]):
        where = ".".join(key.split(".")[:depth])
        if not isinstance(node, ConfigDict) or name not in node:
            known = all_keys(cfg)
            raise ValueError(
                f"--config.{key}: no such key{' in ' + where if where else ''}{registry.nearest(key, known)}"
            )
        if depth < len(parents):
            node = node[name]
    current = node[leaf]
    if isinstance(current, ConfigDict):
        if current:
            raise ValueError(
                f"--config.{key} is a section: override one of {', '.join(current.keys())}"
            )
        node[leaf] = ConfigDict(_parse(text, dict, key))
        return
    if text.lower() == "none" and _is_optional(cfg, key):
        with cfg.ignore_type():
            node[leaf] = None
        return
    kind = node.get_type(leaf) if current is None else type(current)
    node[leaf] = _parse(text, kind, key)


def _is_optional(cfg: ConfigDict, key: str) -> bool:
    """Whether the dataclass's default of a section's key is None."""
    name, _, leaf = key.partition(".")
    if name not in SECTIONS or not leaf or "." in leaf:
        return False
    fields = dataclasses.fields(_config_class(name, cfg[name].kind if "kind" in cfg[name] else ""))
    return any(field.name == leaf and field.default is None for field in fields)


def _parse(text: str, kind: type, key: str) -> Any:
    if kind is str:
        return text
    if kind is bool:
        lowered = text.lower()
        if lowered not in ("true", "false", "1", "0"):
            raise ValueError(f"--config.{key}={text}: expected true or false")
        return lowered in ("true", "1")
    try:
        value = ast.literal_eval(text.replace("_", "") if kind in (int, float) else text)
    except (ValueError, SyntaxError):
        value = text
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)  # 1e4 steps
    if kind is tuple and isinstance(value, (str, int, float)):
        value = (value,)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not kind:
        raise ValueError(
            f"--config.{key}={text}: expected {kind.__name__}, got {type(value).__name__}"
        )
    return value


def all_keys(cfg: ConfigDict, prefix: str = "") -> list[str]:
    """Every leaf's dotted path."""
    keys = []
    for name, value in cfg.items():
        path = f"{prefix}{name}"
        keys += all_keys(value, path + ".") if isinstance(value, ConfigDict) else [path]
    return keys


def to_dict(cfg: ConfigDict) -> dict[str, Any]:
    """As plain nested dicts, references resolved."""
    return json.loads(json.dumps(cfg.to_dict()))


def save(cfg: ConfigDict, path: Any) -> None:
    """Write as JSON that `read` gives back."""
    draft = path.parent / f".{path.name}.new"
    draft.write_text(json.dumps(to_dict(cfg), indent=2, sort_keys=True) + "\n")
    draft.replace(
        path
    )  # whole or not at all; of a run that never came to a checkpoint, over the old one


def read(path: Any) -> ConfigDict:
    """A config that `save` wrote.

    Raises:
      ValueError: the file is missing or is no config.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no saved config ({error}): is this a run's directory?"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise ValueError(f"{path} is no saved config (no model in it): is this a run's directory?")
    return ConfigDict(values)


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """`key: theirs -> ours` for every leaf that differs, as lines to show."""
    left, right = _flat(to_dict(theirs)), _flat(to_dict(ours))
    absent = "(absent)"
    return [
        f"{key}: {left.get(key, absent)!r} -> {right.get(key, absent)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key, absent) != right.get(key, absent)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
