"""From Python: train with `run`; take a trained run back with `load`, or anybody's weights."""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm import interop
from jaxlm.core.types import PyTree
from jaxlm.data import cache, images
from jaxlm.decode.timing import measured
from jaxlm.eval import results, suites
from jaxlm.interop import huggingface, mapping, sentence
from jaxlm.language_model import LanguageModel
from jaxlm.train import assembly, initial, loop, origin, prediction, runtime, weights
from jaxlm.train import workdir as folders
from jaxlm.train.checkpoint import Checkpointer

__all__ = [
    "Encoder",
    "LanguageModel",
    "encoder",
    "evaluate",
    "load",
    "measured",
    "predict",
    "read_images",
    "run",
]

IMPORTED = "imported"
"""A run's folder of this name holds what `jaxlm.convert import` remembers of its source."""
_log = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: Any) -> dict[str, Any]:
    """Train what `config` says in `workdir`, or resume it; the content of summary.json.

    Raises:
      ValueError: something that the user can change; the message says what.
    """
    return loop.run(config, workdir)


def load(path: Any, *, best: bool = False) -> LanguageModel:
    """A trained run, a folder in the Hugging Face layout or a .gguf file.

    A run is loaded from its newest checkpoint (or its best one), with EMA weights where it had them.

    Raises:
      ValueError: there is no model that can be loaded; the message says why.
    """
    runtime.configure()
    if interop.is_foreign(path):
        if best:
            raise ValueError(f"best=True: {path} is no run of ours and has one set of weights")
        return load_foreign(origin.Foreign(str(path)))[0]
    workdir = folders.existing(path)
    cfg = configs.read(workdir / folders.CONFIG)
    tokenizer = folders.load_tokenizer(workdir)
    checkpoints = Checkpointer(workdir / folders.CHECKPOINTS, configs.build(cfg, "checkpoint"))
    try:
        restored = weights.load(cfg, checkpoints, best=best)
    finally:
        checkpoints.close()
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint yet: train first")
    params, step = restored
    imported = Path(workdir) / IMPORTED
    return LanguageModel(
        assembly.make_model(cfg),
        params,
        tokenizer,
        cfg,
        step,
        template=imported.is_dir(),
        sentence=sentence.read(imported),
        labels=folders.read_labels(workdir),
        end_ids=huggingface.end_ids(imported),
    )


class Encoder(NamedTuple):
    """A sentence encoder as an index of passages takes it (jaxlm.retrieval)."""

    path: str
    digest: str  # of weights, tokenizer and pooling
    embed: Callable[[Sequence[str]], np.ndarray]


def encoder(path: Any, *, best: bool = False) -> Encoder:
    """`load`, for its `embed`.

    Raises:
      ValueError: as `load`, or no sentence encoder.
    """
    lm = load(path, best=best)
    lm.embed("")  # what is none says so now
    parts = [results.weights_digest(lm.params), lm.tokenizer.digest, lm.sentence]
    return Encoder(_whole_path(path), cache.digest(parts), lm.embed)


def read_images(path: Any, lm: LanguageModel) -> np.ndarray:
    """The images of a file as `lm.write` takes them, float32 [N, height, width, channels], 0..1.

    Args:
      path: *.jsonl, lines as those that the model was trained on; or *.npy, one image or several, as whole numbers
        0..data.pixel_max or floats 0..1.
      lm: a run trained on images.

    Raises:
      ValueError: images of another size than the run's, or a run without any; file and line are named.
    """
    data = lm.config.data
    if "image_column" not in data:
        raise ValueError(f'{path}: the model was trained on no images (data.kind="{data.kind}")')
    form = images.Form(data.image_size, data.num_channels, data.pixel_max)
    return images.read(str(path), form, data.image_column)


def predict(
    path: Any, lines: str | Iterable[str | Mapping[str, Any]], *, best: bool = False
) -> list[dict[str, Any]]:
    """What a fine-tuned run answers for lines: labels, tags, choices, spans, scores.

    Args:
      path: a run of ours.
      lines: a file (*.csv, *.jsonl, *.json, *.tsv) or another data.path; or rows by column, as those that it was trained on, or texts.
        What is to be predicted may be missing in them; where it is there, a line also has `reference` and `score`.
      best: the best checkpoint instead of the newest.

    Returns:
      {"id", "input", "prediction", ...} of every line, in order.

    Raises:
      ValueError: no run that answers lines, or lines that it can't read.
    """
    lm = load(path, best=best)
    return prediction.predict(lm, lines, str(folders.existing(path) / folders.TOKENIZER))


def evaluate(
    path: Any,
    asked: Mapping[str, Mapping[str, Any]],
    *,
    best: bool = False,
    command: Sequence[str] = (),
) -> Iterator[results.Result]:
    """Ask a model what suites ask, one result each, as they come.

    Args:
      path: as in `load`.
      asked: name of a suite (eval/suites, or "module:Name") -> those of its options that are not the default.
      best: the best checkpoint instead of the newest.
      command: what was typed, for the record.

    Raises:
      ValueError: no such model, suite or option, before anything is scored; or one that doesn't fit the model.
    """
    made = {name: suites.make(name, options) for name, options in asked.items()}
    lm = load(path, best=best)
    model = _described(lm, path, best)
    for name, suite in made.items():
        _log.info("scoring    %s", name)
        started = time.perf_counter()
        found = suite.run(lm)
        yield results.Result(
            command=list(command),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=time.perf_counter() - started,
            versions=results.versions(),
            device=results.device(),
            model=model,
            suite={"name": name, "options": results.plain(suites.options_of(suite))},
            data=dict(found.data),
            scores=found.scores,
        )


def name_of(path: Any) -> str:
    """What results call the model in this folder or file."""
    return Path(os.path.abspath(path)).name


def _whole_path(path: Any) -> str:
    return str(path) if "://" in str(path) else os.path.abspath(path)


def _described(lm: LanguageModel, path: Any, best: bool) -> dict[str, Any]:
    """What a result says of its model."""
    averaged = not lm.template and "ema_decay" in lm.config.step and lm.config.step.ema_decay
    tokenizer = lm.tokenizer
    return {
        "name": name_of(path),
        "path": _whole_path(path),
        "best": best,
        "kind": lm.config.model.kind,
        "step": lm.step,
        "weights": "ema" if averaged else "raw",
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(lm.params)),
        "sha256": results.weights_digest(lm.params),
        "tokenizer": tokenizer and {"name": tokenizer.name, "sha256": tokenizer.digest},
        "config": configs.to_dict(lm.config),
    }


def load_foreign(source: origin.Foreign) -> tuple[LanguageModel, mapping.Matched]:
    """A model in another layout, with fresh heads where it has none, and what was found in it.

    Raises:
      ValueError: its tensors or its tokenizer are not those that its config describes.
    """
    cfg = foreign_config(source)
    config = configs.build(cfg, "model")
    model = assembly.make_model(cfg)
    tokenizer = initial.load_tokenizer(source, config.vocab_size)
    abstract = assembly.model_shapes(cfg, model)
    leaves, matched = source.weights(config, abstract)
    if matched.fresh:
        leaves |= _drawn(model, matched.fresh)
    for line in initial.report(source.path, matched)[1:]:
        _log.warning(line)
    params = jax.tree.unflatten(
        jax.tree.structure(abstract), [leaves[name] for name in mapping.flatten(abstract)]
    )
    lm = LanguageModel(
        model,
        params,
        tokenizer,
        cfg,
        step=0,
        template=True,
        sentence=sentence.read(source.source.path),
        labels=huggingface.labels(source.source.hf, getattr(config, "num_labels", 0)),
        end_ids=huggingface.end_ids(source.source.path, source.source.hf),
    )
    return lm, matched


def foreign_config(source: origin.Foreign) -> ConfigDict:
    """A config whose model is the source's."""
    cfg = configs.base()
    cfg.init_from = source.path
    cfg.model = configs.section("model", source.kind, **source.fields)
    cfg.model.dtype = configs.build(cfg, "model").compute_dtype
    cfg.data = configs.section(
        "data", "text", seq_len=cfg.model.max_len, tokenizer=initial.TOKENIZER
    )
    return cfg


def _drawn(model: Any, paths: tuple[str, ...]) -> PyTree:
    """Fresh parameters of these paths; the compiler leaves out the rest."""

    def make() -> PyTree:
        inputs = {name: jnp.zeros((1, 1), jnp.int32) for name in model.inputs}
        leaves = mapping.flatten(nn.unbox(model.init(jax.random.key(0), **inputs)["params"]))
        return {path: leaves[path] for path in paths}

    return jax.jit(make)()
