"""What a fine-tuned run answers for lines that nobody has answered yet: labels, tags, choices, spans, scores."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from ml_collections import FrozenConfigDict

from jaxlm import config as configs
from jaxlm.data import libraries, reading, tables
from jaxlm.train import parallel
from jaxlm.train.evaluation import make_scorers, with_texts

NEVER_READ = {
    "val_path": "",
    "test_path": "",
    "val_fraction": 0.0,
    "eval_examples": 0,
    "min_count": 1,
}
"""Fields of a data section that are about training."""

Lines = str | Iterable[str | Mapping[str, Any]]


def predict(lm: Any, lines: Lines, tokenizer: str) -> list[dict[str, Any]]:
    """What the model says of each line, in order: see `eval.Scores.examples`.

    Args:
      lm: a run of ours.
      lines: a file or another data.path, rows by column, or texts. What is to be predicted may be missing in them; where
        it is there, a line also has `reference` and `score`.
      tokenizer: the folder of the run's.

    Raises:
      ValueError: a run that answers no lines, or lines that it can't read.
    """
    kind = lm.config.data.kind
    blank = _BLANKS.get(kind)
    if lm.template or blank is None or len(lm.config.evaluators) != 1:
        raise ValueError(
            f"predictions are made by runs with one evaluator over data.kind={', '.join(_BLANKS)}, and this one has "
            f'"{kind}" and {len(lm.config.evaluators)}'
        )
    data = configs.build(lm.config, "data")
    given, completed, places = [], [], []
    for where, row in _rows(lines, data):
        blanks = blank(data, lm.labels, row, where)
        answered = {name: row[name] for name in blanks if row.get(name) not in (None, "")}
        for name, option in data.named_columns().items():
            if name not in blanks:
                reading.record_column(row, name, where, option)
        given.append(next(iter(blanks)) in answered)
        completed.append({**row, **blanks, **answered})
        places.append(where)
    if not completed:
        raise ValueError(f"{lines if isinstance(lines, str) else 'lines'}: no line to predict")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in completed), encoding="utf-8")
        changed = NEVER_READ | {"path": str(path), "tokenizer": tokenizer, "labels": lm.labels}
        names = {field.name for field in dataclasses.fields(data)}
        own = dataclasses.replace(data, **{n: v for n, v in changed.items() if n in names})
        with _no_word_on_labels(), _named_as_given(str(path), places):
            task = configs.implementation(lm.config, "data")(own)
        examples = _scored(lm, task)
    found = []
    for example in examples:
        number = example.pop("id")
        hidden = () if given[number] else ("reference", "score")
        found.append({"id": number} | {n: v for n, v in example.items() if n not in hidden})
    return found


@contextlib.contextmanager
def _no_word_on_labels() -> Iterator[None]:
    """Which of the model's labels stand in these lines is not worth saying."""
    log = logging.getLogger("jaxlm.data.tasks.classes")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def _named_as_given(path: str, places: Sequence[str]) -> Iterator[None]:
    """Messages name the lines that were given, not our copy of them."""
    try:
        yield
    except ValueError as error:
        name = re.compile(rf"\S+={re.escape(path)}(?: line (\d+))?")
        said = name.sub(lambda m: places[int(m[1]) - 1] if m[1] else "the lines", str(error))
        raise ValueError(said) from error


def _scored(lm: Any, task: Any) -> list[dict[str, Any]]:
    cfg = FrozenConfigDict(lm.config)
    mesh = parallel.make_mesh(parallel.Config())
    shards = parallel.batch_shards(mesh)
    rows = -(-cfg.micro_batch_size // shards) * shards
    params = jax.device_put(lm.params, parallel.replicated(mesh))
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
        (scorer,) = make_scorers(lm, cfg, task, next(iter(task.eval("train", rows))), mesh)
        examples = scorer(params, task.eval("train", rows)).examples
    return with_texts(examples, task, "train")


def _rows(lines: Lines, data: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows by column, each with what messages call it; texts, such as the lines of a TSV file without a header, in the column of the text."""
    names = [field.name for field in dataclasses.fields(data)]
    column = getattr(data, next(n for n in names if n.endswith("_column"))).split("+")[0]
    if not isinstance(lines, str):
        rows = ((f"line {number}", row) for number, row in enumerate(lines, 1))
    elif lines.partition(":")[0] in libraries.SCHEMES:
        rows = libraries.open_rows("--data", lines, "test")
    else:
        rows = tables.Files("--data", lines, {column: "--data"})
    for where, row in rows:
        if isinstance(row, Mapping):
            yield where, row
            continue
        texts = [row] if isinstance(row, str) else row
        if len(texts) > 1 or "text_column" not in names or data.pair_column:
            raise ValueError(
                f"{where} has no named columns: expected those that the model was trained on, {column} and others"
            )
        yield where, {name: "" for name in data.text_column.split("+")} | {column: texts[0]}


_BLANKS = {
    "labelled": lambda data, labels, row, where: {data.label_column: labels[0]},
    "multi_labelled": lambda data, labels, row, where: {data.labels_column: []},
    "scored": lambda data, labels, row, where: {data.score_column: data.mean},
    "choices": lambda data, labels, row, where: {data.answer_column: 0},
    "spans": lambda data, labels, row, where: {data.answers_column: [], data.starts_column: []},
    "tagged": lambda data, labels, row, where: {
        data.tags_column: [labels[0]]
        * len(tables.entries(row, data.tokens_column, where, "data.tokens_column"))
    },
}
"""Kind of data -> what stands for the columns that are to be predicted."""
