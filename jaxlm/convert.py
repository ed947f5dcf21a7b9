"""Take a model over from another layout, or give one away in it.

python -m jaxlm.convert import DIR_OR_GGUF RUN      a run's folder, for load, generate and --config.init_from
python -m jaxlm.convert export RUN DIR              config.json, model.safetensors, tokenizer.json; adapters merged
python -m jaxlm.convert export RUN DIR --adapter    a LoRA run's adapter as peft keeps it
python -m jaxlm.convert import ADAPTER RUN          a run of a peft folder, and of the model under it: --init_from=MODEL
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm import cli


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("jaxlm.convert", "Models in and out of the Hugging Face layout.")
    parser.add_argument("direction", choices=("import", "export"))
    parser.add_argument("source", metavar="SRC", help="a Hugging Face folder or .gguf; a run")
    parser.add_argument("target", metavar="DST", help="a new folder")
    parser.add_argument(
        "--best", action="store_true", help="export the best checkpoint instead of the newest"
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="export what a LoRA run has trained, without its model",
    )
    parser.add_argument(
        "--init_from",
        default="",
        help="import an adapter: its model, where the adapter names none that is here",
    )
    options = parser.parse_args(argv)
    target = Path(options.target)
    if options.direction == "export":
        if options.init_from:
            parser.error("--init_from is for import")
        write = export_adapter if options.adapter else export_model
        return cli.guarded(lambda: write(options.source, target, best=options.best))
    if options.best or options.adapter:
        parser.error("--best and --adapter are for export")
    return cli.guarded(lambda: import_any(options.source, target, options.init_from))


def import_any(path: str, target: Path, base: str = "") -> None:
    """Import a model, or an adapter with the model under it.

    Raises:
      ValueError: as `import_model` and `import_adapter`.
    """
    from jaxlm.interop import peft

    if peft.is_folder(Path(path)):
        import_adapter(path, target, base)
    elif base:
        raise ValueError(f"--init_from is for an adapter, and {path} has no {peft.CONFIG}")
    else:
        import_model(path, target)


def import_adapter(path: str, target: Path, base: str = "") -> None:
    """Make a LoRA run's folder of a peft folder; its model stays where it is.

    Raises:
      ValueError: no such model, an adapter that we can't represent or of another model, or the target is in use.
    """
    from jaxlm import api
    from jaxlm.interop import huggingface, peft
    from jaxlm.train import adapters, initial, origin
    from jaxlm.train import workdir as folders
    from jaxlm.train.checkpoint import Checkpointer

    _check_new(target)
    adapter = peft.open_folder(Path(path))
    base = base or adapter.base
    if not base or not Path(base).exists():
        raise ValueError(
            f"{path} is an adapter of {base or 'an unnamed model'}, which is not here: name it with --init_from"
        )
    source = origin.open_source(base)
    cfg = adapters.configure(api.foreign_config(source), adapter)
    trained, digest = adapters.fill(cfg, adapter)
    with _made_whole(target) as folder:
        workdir = folders.open_workdir(folder)
        tokenizer = initial.load_tokenizer(source, cfg.model.vocab_size)
        folders.claim(workdir, cfg, tokenizer)
        if isinstance(source, origin.Foreign):
            huggingface.keep_beside(source.source, Path(workdir) / api.IMPORTED)
        checkpoints = Checkpointer(workdir / folders.CHECKPOINTS)
        try:
            checkpoints.save({"params": trained}, {"base": digest}, 0, blocking=True)
        finally:
            checkpoints.close()
    print(f"{path} -> {target}: an adapter of {base}, rank {cfg.tuning.rank}")


def export_adapter(path: str, target: Path, best: bool = False) -> None:
    """Write what a LoRA run has trained as a folder that peft reads.

    Raises:
      ValueError: no such run, no LoRA, a model that no family can represent, or the target is in use.
    """
    from jaxlm.train import adapters

    _check_new(target)
    with _made_whole(target) as folder:
        modules = adapters.export(path, folder, best=best)
    print(f"{path} -> {target}: an adapter for {', '.join(modules)}")


def import_model(path: str, target: Path) -> None:
    """Make a run's folder of a model in another layout.

    Raises:
      ValueError: it is none that we can represent, or the target is in use.
    """
    from jaxlm import api  # after the arguments: their mistakes show at once
    from jaxlm.interop import huggingface
    from jaxlm.train import origin
    from jaxlm.train import workdir as folders
    from jaxlm.train.checkpoint import Checkpointer

    _check_new(target)
    source = origin.open_source(path)
    if isinstance(source, origin.Run):
        raise ValueError(f"{path} is a run already: export is the other direction")
    lm, matched = api.load_foreign(source)
    with _made_whole(target) as folder:
        workdir = folders.open_workdir(folder)
        folders.claim(workdir, lm.config, lm.tokenizer, lm.labels)
        huggingface.record(source.source, matched.unused, Path(workdir) / api.IMPORTED)
        checkpoints = Checkpointer(workdir / folders.CHECKPOINTS)
        try:
            checkpoints.save({"params": lm.params}, {}, 0, blocking=True)
        finally:
            checkpoints.close()
    print(f"{path} -> {target}: {source.source.family.NAME}, {_num_params(lm):,} parameters")


def export_model(path: str, target: Path, best: bool = False) -> None:
    """Write a run's model in the Hugging Face layout.

    An import is written as it was, in its types and files; a model of our own in float32.

    Raises:
      ValueError: no such run, a model that no family can represent, or the target is in use.
    """
    from jaxlm import api
    from jaxlm import config as configs
    from jaxlm.data import chat_templates
    from jaxlm.interop import huggingface

    _check_new(target)
    if api.interop.is_foreign(path):
        raise ValueError(f"{path} is no run of ours: import it first")
    lm = api.load(path, best=best)
    config = configs.build(lm.config, "model")
    imported = Path(path) / api.IMPORTED
    if huggingface.recorded(imported) is not None:
        with _made_whole(target) as folder:
            files = huggingface.save_again(folder, config, lm.params, imported)
        said = "as it was imported"
    else:
        family, hf = huggingface.family_for(lm.config.model.kind, config)
        hf |= _special_ids(lm) | (huggingface.label_entries(lm.labels) if lm.labels else {})
        with _made_whole(target) as folder:
            files = huggingface.save_folder(folder, family, hf, config, lm.params)
            files += _save_tokenizer(lm, Path(path), folder)
            if lm.chat_template is not None:
                chat_templates.save(lm.chat_template, folder)
        said = hf["model_type"]
    print(f"{path} -> {target}: {said}, {_num_params(lm):,} parameters in {', '.join(files)}")


def _check_new(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is in use: name a new folder")


@contextlib.contextmanager
def _made_whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name once all is in it: no half of a model is ever left under it."""
    target = target.resolve()
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{target} can't be written ({error}): name another folder") from error
    try:
        yield part
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _num_params(lm: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(lm.params))


def _special_ids(lm: Any) -> dict[str, Any]:
    """Where a text ends, for `generate` of other tools."""
    eos = None if lm.tokenizer is None else lm.tokenizer.eos_id
    if eos is None:
        return {}
    ends = list(lm.ends)
    return {"eos_token_id": eos if len(ends) == 1 else ends} | (
        {"bos_token_id": eos} if lm.config.model.kind == "gpt" else {}
    )


def _save_tokenizer(lm: Any, run: Path, target: Path) -> list[str]:
    """The names of the files written."""
    from jaxlm.data import tokenizer_json
    from jaxlm.interop import huggingface
    from jaxlm.train import workdir as folders

    if lm.tokenizer is None:
        return []
    data = tokenizer_json.to_json(lm.tokenizer)
    if data is None:  # SentencePiece: its own file is what others read
        (target / "tokenizer.model").write_bytes(
            (run / folders.TOKENIZER / "tokenizer.model").read_bytes()
        )
        return ["tokenizer.model"]
    names = {token_id: name for name, token_id in lm.tokenizer.special_ids().items()}
    huggingface.save_tokenizer(
        target,
        data,
        names.get(lm.tokenizer.eos_id),
        lm.max_len,
        special=names.values(),
        token_types=lm.config.model.kind == "bert",
    )
    return ["tokenizer.json"]


if __name__ == "__main__":
    sys.exit(main())
