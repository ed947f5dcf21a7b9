"""A folder in the Hugging Face layout: config.json, safetensors, tokenizer.json; opened, recorded, written.

What stands in a config.json is for the families (gpt2.py, llama.py, bert.py, t5.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.core.types import PyTree
from jaxlm.interop import bert, gpt2, llama, mapping, outward, t5, tensors
from jaxlm.interop.fields import Reader
from jaxlm.interop.mapping import Family, Tensors
from jaxlm.interop.tensors import Outgoing
from jaxlm.registry import nearest

FAMILIES: tuple[Family, ...] = (gpt2, llama, bert, t5)
CONFIG, RECORD, KEPT = "config.json", "interop.json", "kept.safetensors"
GENERATION, FORMAT = "generation_config.json", 1
BESIDE = (
    "config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt",
    "chat_template.jinja", "generation_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip
"""Files that an import keeps and an export gives back as they were."""


class Source(NamedTuple):
    """A model in somebody else's layout, opened; no tensor has been read."""

    path: Path
    family: Family
    hf: dict[str, Any]  # config.json
    fields: dict[str, Any]  # of our Config
    tensors: Tensors
    tokenizer: Mapping[str, bytes | Path]  # files that jaxlm.data.tokenizers can load; {}: none


def is_folder(path: Path) -> bool:
    """Whether a folder is in this layout; a run of our own has another config.json."""
    try:
        hf = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(hf, dict) and bool({"model_type", "architectures"} & hf.keys())


def open_folder(path: Path) -> Source:
    """Open a folder.

    Raises:
      ValueError: it is another architecture, has something that we can't represent, or no readable weights.
    """
    hf = json.loads((path / CONFIG).read_bytes())
    family = family_of(hf, str(path))
    try:
        fields = family.config(hf)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = {name: path / name for name in ("tokenizer.json", "tokenizer_config.json")}
    if not found["tokenizer.json"].is_file():
        models = [path / name for name in ("tokenizer.model", "spiece.model")]
        model = next((one for one in models if one.is_file()), None)
        beside = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
        found = {name: path / name for name in beside} | {"tokenizer.model": model}
        found = found if model else {}
    tokenizer = {name: file for name, file in found.items() if file.is_file()}
    return Source(path, family, hf, fields, tensors.open_folder(path), tokenizer)


def family_of(hf: Mapping[str, Any], where: str) -> Family:
    """The family that a config.json belongs to.

    Raises:
      ValueError: to none; the accepted ones are listed.
    """
    known = {name: family for family in FAMILIES for name in family.MODEL_TYPES}
    model_type = hf.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise ValueError(
            f"{where}/{CONFIG}: model_type={model_type!r} is not known{nearest(str(model_type), known)}; "
            f"accepted are {', '.join(known)}"
        )
    family = known[model_type]
    for architecture in Reader(hf)("architectures", ()):
        if architecture not in family.ARCHITECTURES:
            raise ValueError(
                f"{where}/{CONFIG}: architectures={architecture!r} is not known"
                f"{nearest(architecture, family.ARCHITECTURES)}; accepted are {', '.join(family.ARCHITECTURES)}"
            )
    if hf.get("quantization_config"):
        raise ValueError(f"{where}/{CONFIG}: quantization_config: quantised weights are not read")
    return family


def family_for(kind: str, config: Any) -> tuple[Family, dict[str, Any]]:
    """The family that a model of ours can be exported to, and its config.json.

    Raises:
      ValueError: none can represent it; the model's key is named.
    """
    families = [family for family in FAMILIES if kind == family.KIND]
    if not families:
        raise ValueError(
            f'model.kind="{kind}" has no form in the Hugging Face layout; these have: '
            f"{', '.join(sorted({family.KIND for family in FAMILIES}))}"
        )
    family = families[0]
    if kind == gpt2.KIND and config.positions != "learned":
        family = llama
    return family, family.hf_config(config)


class Recorded(NamedTuple):
    """What an import remembers of the tensors, as `mapping.match` reads it."""

    where: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    files: dict[str, str]


def record(source: Source, unused: tuple[str, ...], folder: Path) -> None:
    """Write what an export needs to give the same files back: names, types, shards, tensors without a place here."""
    keep_beside(source, folder)
    if source.path.is_file():  # a .gguf says in itself what these files say
        ends = {"eos_token_id": source.hf.get("eos_token_id")}
        (folder / GENERATION).write_text(json.dumps(ends) + "\n")
        facts = source.tokenizer.get("tokenizer_config.json", b"{}")
        (folder / "tokenizer_config.json").write_bytes(facts)
    held = source.tensors
    if unused:
        tensors.save_file(folder / KEPT, {name: _as_stored(held, name) for name in unused})
    files = getattr(held, "stored", {})
    facts = {
        "format": FORMAT,
        "tensors": {
            name: [held.dtypes[name], list(held.shapes[name]), stored.file.name]
            for name, stored in files.items()
        },
    }
    (folder / RECORD).write_text(json.dumps(facts, indent=1) + "\n")


def keep_beside(source: Source, folder: Path) -> None:
    """Copy the files that say how a model is used: its tokenizer, its templates, where its texts end."""
    folder.mkdir(parents=True, exist_ok=True)
    _copy_beside(source.path, folder)


def _copy_beside(source: Path, folder: Path) -> None:
    for name in BESIDE:
        if (source / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def recorded(folder: Path) -> tuple[dict[str, Any], Recorded] | None:
    """The config.json and the tensors of an import; None where there is nothing to give back."""
    if not (folder / RECORD).is_file():
        return None
    facts = json.loads((folder / RECORD).read_bytes())
    if facts.get("format") != FORMAT:
        raise ValueError(f"{folder / RECORD} has format {facts.get('format')!r}; this is {FORMAT}")
    if not (stored := facts["tensors"]):  # a .gguf: quantised, and in another order
        return None
    return json.loads((folder / CONFIG).read_bytes()), Recorded(
        str(folder),
        {name: tuple(shape) for name, (_, shape, _) in stored.items()},
        {name: dtype for name, (dtype, _, _) in stored.items()},
        {name: file for name, (_, _, file) in stored.items()},
    )


def save_again(folder: Path, config: Any, params: PyTree, imported: Path) -> list[str]:
    """Export an import: the original tensors, byte for byte, in the original files.

    Returns:
      The names of the files with tensors.
    """
    hf, stored = recorded(imported)
    family = family_of(hf, str(imported))
    matched = mapping.match(family, config, stored)
    ours = outward.export(family, config, params, matched.names)
    outgoing = {
        name: Outgoing(stored.dtypes[name], shape, make) for name, (shape, make) in ours.items()
    }
    if (imported / KEPT).is_file():
        kept = tensors.SafeTensors(str(imported), tensors.read_header(imported / KEPT))
        outgoing |= {name: _as_stored(kept, name) for name in kept.shapes}
    shards: dict[str, dict[str, Outgoing]] = {}
    for name, one in outgoing.items():
        shards.setdefault(stored.files[name], {})[name] = one
    for file, shard in shards.items():
        tensors.save_file(folder / file, shard)
    if list(shards) != [tensors.SINGLE]:
        tensors.save_index(folder, shards)
    _copy_beside(imported, folder)
    return sorted(shards)


def _as_stored(held: Tensors, name: str) -> Outgoing:
    return Outgoing(held.dtypes[name], held.shapes[name], lambda: held.read(name))


def save_folder(
    folder: Path,
    family: Family,
    hf: Mapping[str, Any],
    config: Any,
    params: PyTree,
    max_shard_bytes: int = tensors.MAX_SHARD_BYTES,
) -> list[str]:
    """Export a model of our own, in float32.

    Returns:
      The names of the files with tensors.
    """
    outgoing = {
        name: Outgoing("F32", shape, make)
        for name, (shape, make) in outward.export(family, config, params).items()
    }
    (folder / CONFIG).write_text(json.dumps({**hf, "dtype": "float32"}, indent=2) + "\n")
    return tensors.save_folder(folder, outgoing, max_shard_bytes)


def labels(hf: Mapping[str, Any], num_labels: int) -> tuple[str, ...]:
    """The names of a classifier's classes, in id order; () where config.json does not name them all."""
    names = hf.get("id2label") or {}
    numbers = [str(number) for number in range(num_labels)]
    return tuple(str(names[number]) for number in numbers) if set(names) == set(numbers) else ()


def end_ids(folder: Path, hf: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """The tokens that end a text, as generation_config.json says, else config.json (`hf` where there is no folder).

    Raises:
      ValueError: what it says is no token id.
    """
    files = [folder / name for name in (GENERATION, CONFIG) if (folder / name).is_file()]
    path = files[0] if files else folder
    try:
        said = json.loads(path.read_bytes()) if files else hf or {}
        found = said.get("eos_token_id")
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    ids = [] if found is None else found if isinstance(found, list) else [found]
    if not all(type(one) is int and one >= 0 for one in ids):
        raise ValueError(f"{path}: eos_token_id={found!r} must be a token id, or a list of them")
    return tuple(ids)


def label_entries(names: Sequence[str]) -> dict[str, Any]:
    """What `labels` reads, for config.json."""
    numbered = {str(number): name for number, name in enumerate(names)}
    return {"id2label": numbered, "label2id": {n: i for i, n in enumerate(names)}}


SPECIAL = {
    "[PAD]": "pad_token", "[UNK]": "unk_token", "[CLS]": "cls_token", "[SEP]": "sep_token",
    "[MASK]": "mask_token", "<pad>": "pad_token", "<unk>": "unk_token", "<mask>": "mask_token",
}  # fmt: skip
"""What transformers calls the tokens that have these names."""


def save_tokenizer(
    folder: Path,
    tokenizer_json: bytes,
    eos: str | None,
    max_len: int,
    special: Iterable[str] = (),
    token_types: bool = False,
) -> None:
    """tokenizer.json and the tokenizer_config.json with which `AutoTokenizer` loads it.

    Args:
      folder: where to.
      tokenizer_json: the content.
      eos: the token that ends a text.
      max_len: tokens that the model reads.
      special: the vocabulary's special tokens: padding and masking go by name there.
      token_types: whether the model takes them: older versions give them to every model.
    """
    (folder / "tokenizer.json").write_bytes(tokenizer_json)
    inputs = ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"]
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_len,
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
    } | {SPECIAL[name]: name for name in special if name in SPECIAL}
    if eos is not None:
        facts |= {"eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=2) + "\n")
