"""LoRA adapters as the library peft keeps them, written; read by peft.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.interop import mapping, tensors
from jaxlm.interop.mapping import Entry, Family
from jaxlm.interop.peft import CONFIG, ROOT, TASKS, WEIGHTS
from jaxlm.interop.tensors import Outgoing


class Low(NamedTuple):
    """What LoRA's config says."""

    rank: int
    alpha: float
    dropout: float


def save(
    folder: Path,
    family: Family,
    config: Any,
    trained: Mapping[str, np.ndarray],
    low: Low,
    base: str,
) -> list[str]:
    """Write an adapter.

    Args:
      folder: where to.
      family: whose names the model has.
      config: of our model.
      trained: by path, layers one by one: "lora_a" and "lora_b" beside a kernel, and parameters that train as they are.
      low: rank, alpha and dropout.
      base: the model under it, for people and for peft.

    Returns:
      The modules that have an adapter, as `target_modules` names them.

    Raises:
      ValueError: something that trains has no place in an adapter.
    """
    (architecture,) = family.hf_config(config)["architectures"]
    task = next((task for end, task in TASKS.items() if architecture.endswith(end)), None)
    bare = family.PREFIX if task == TASKS["Model"] else ""
    entries = {entry.ours: entry for entry in family.entries(config)}
    names = {ours: entry.theirs.removeprefix(bare) for ours, entry in entries.items()}
    modules = {name.rpartition(".")[0] for name in names.values() if name.endswith(".weight")}
    pairs, flipped = _pairs(entries, names, trained)
    whole = _whole(family, entries, names, trained, set(pairs))
    facts = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        **_ranks({module: a.shape[1] for module, (a, _) in pairs.items()}, low, modules),
        "lora_dropout": low.dropout,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in whole}) or None,
        "fan_in_fan_out": flipped,
        "bias": "none",
        "inference_mode": True,
        "use_rslora": False,
    }
    (folder / CONFIG).write_text(json.dumps(facts, indent=2) + "\n")
    _write(folder / WEIGHTS, pairs, whole)
    return facts["target_modules"]


def _write(
    path: Path,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    whole: Mapping[str, np.ndarray],
) -> None:
    arrays = {f"{ROOT}{name}": array for name, array in whole.items()}
    for module, (a, b) in pairs.items():
        arrays[f"{ROOT}{module}.lora_A.weight"], arrays[f"{ROOT}{module}.lora_B.weight"] = a.T, b.T
    outgoing = {
        name: Outgoing("F32", array.shape, lambda array=array: np.ascontiguousarray(array))
        for name, array in arrays.items()
    }
    tensors.save_file(path, outgoing)


def _ranks(ranks: Mapping[str, int], low: Low, modules: set[str]) -> dict[str, Any]:
    """The keys that say which modules have an adapter, and of what rank and scale."""
    odd = {
        name: rank
        for rank in sorted(set(ranks.values()) - {low.rank})
        for name in shortest({one for one in ranks if ranks[one] == rank}, modules)
    }
    return {
        "target_modules": shortest(set(ranks), modules),
        "r": low.rank,
        "lora_alpha": low.alpha,
        "rank_pattern": odd,
        "alpha_pattern": {name: low.alpha * rank / low.rank for name, rank in odd.items()},
    }


def _pairs(
    entries: Mapping[str, Entry], names: Mapping[str, str], trained: Mapping[str, np.ndarray]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], bool]:
    """Module -> A [in, r] and B [r, out]; and whether their kernels are [in, out], as GPT-2 has them."""
    fused: dict[str, list[tuple[Entry, np.ndarray, np.ndarray]]] = {}
    for path in trained:
        layer, _, last = path.rpartition("/")
        if last == "lora_a":
            entry = entries[f"{layer}/kernel"]
            module = names[entry.ours].removesuffix(".weight")
            fused.setdefault(module, []).append((entry, trained[path], trained[f"{layer}/lora_b"]))
    flipped = not all(entry.transpose for parts in fused.values() for entry, _, _ in parts)
    return {module: _joined(parts) for module, parts in fused.items()}, flipped


def _joined(parts: list[tuple[Entry, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One pair [in, r], [r, out] of those of a module; of q, k and v in one, side by side, of as many times the rank."""
    if len(parts) == 1 and parts[0][0].part is None:
        return parts[0][1:]
    count, width = parts[0][0].part[1], parts[0][2].shape[1]
    rank = parts[0][1].shape[1]
    b = np.zeros((rank * len(parts), count * width), np.float32)
    for number, (entry, _, own) in enumerate(parts):
        start = entry.part[0] * width
        b[number * rank : (number + 1) * rank, start : start + width] = own
    return np.concatenate([a for _, a, _ in parts], axis=1), b


def _whole(family, entries, names, trained, adapted: set[str]) -> dict[str, np.ndarray]:
    """Tensors of the modules that train as they are; each must be there whole, and be nobody's copy."""
    paths = [path for path in trained if path.rpartition("/")[2] not in ("lora_a", "lora_b")]
    if unknown := [path for path in paths if path not in entries]:
        raise ValueError(f"{family.NAME} has no place for {', '.join(unknown)}")
    found = {names[path]: path for path in paths}
    modules = {name.rpartition(".")[0] for name in found}
    parted = {name for name in names.values() if name.rpartition(".")[0] in modules} - set(found)
    if parted or modules & adapted or set(family.COPIES.values()) & set(paths):
        raise ValueError(
            f"an adapter holds whole modules beside its pairs, and no tied tables: {', '.join(paths)} can't be in one. "
            "Export the whole model, without --adapter"
        )
    return {
        name: np.asarray(trained[path]).T if entries[path].transpose else np.asarray(trained[path])
        for name, path in found.items()
    }


def shortest(wanted: set[str], modules: Iterable[str]) -> list[str]:
    """The shortest ends of names that select these modules and no others, as peft reads `target_modules`."""
    modules = set(modules)
    for length in range(1, 1 + max(name.count(".") + 1 for name in wanted)):
        ends = {".".join(name.split(".")[-length:]) for name in wanted}
        if {one for one in modules if any(mapping.ends_with(one, end) for end in ends)} == wanted:
            return sorted(ends)
    return sorted(wanted)
