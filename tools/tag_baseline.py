"""What the commonest tag of each word reaches on an experiment's tagged words, as one JSON line: the least that a model
should beat.

    python tools/tag_baseline.py experiments/finetune_tags.py [--config.data.path=...]
    python tools/tag_baseline.py experiments/finetune_tags.py:pos --config.data.path=pos.jsonl
    python tools/tag_baseline.py experiments/finetune_tags.py --run runs/tags      the model of that run beside it

A word gets the tag that it has most often in training; one that isn't there the commonest tag of training words with its last
three letters and its kind of first letter (upper case, digit, other), or else of all words that stand there once. The same lines are
for training and for validation as in the experiment, and the scores are those of its evaluators, over whole sentences.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxlm import cli, config

Sentence = tuple[Sequence[str], Sequence[str]]  # words and their tags


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.tag_baseline", "Scores of each word's commonest tag.")
    parser.add_argument("experiment", metavar="FILE.py[:variant]")
    parser.add_argument("--run", help="a finished run of the experiment")
    options = parser.parse_args(arguments)
    cfg = config.load(options.experiment, overrides)
    return cli.guarded(lambda: print(json.dumps(baseline(cfg, options.run))))


def baseline(cfg, run: str | None = None) -> dict:
    """Scores with their standard errors, by the evaluators that the experiment names; a run's lead with its interval."""
    from jaxlm.data.tasks.tagged import TaggedTask

    if cfg.data.kind != "tagged":
        raise ValueError(f'data.kind="{cfg.data.kind}": expected "tagged"')
    with cfg.unlocked():
        cfg.data.tokenizer = "bytes"  # words are whole, whatever a model makes of them
        cfg.data.seq_len = 1 << 20  # and sentences, too
    task = TaggedTask(config.build(cfg, "data"))
    train, val = (list(sentences(task, split)) for split in ("train", "val"))
    tag_of = conditional(train)
    predictions = [[tag_of(word) for word in words] for words, _ in val]
    references = [list(tags) for _, tags in val]
    model = predicted(Path(run), references) if run else None
    if model:
        predictions, references = (
            [tags[: len(given)] for tags, given in zip(side, model, strict=True)]
            for side in (predictions, references)
        )
    seen = {word for words, _ in train for word in words}
    found = {}
    for name in cfg.evaluators:
        rows = scored(name, predictions, references)
        ahead = leads(scored(name, model, references), rows) if model else [{}] * len(rows)
        for row, lead in zip(rows, ahead, strict=True):
            found[row.name] = {"value": row.value, "stderr": row.stderr, **lead}
    unknown = [word not in seen for words, _ in val for word in words]
    return {
        "data": cfg.data.path,
        "sentences": len(val),
        "unknown_words": np.mean(unknown),
        **found,
    }


def predicted(run: Path, references: list[list[str]]) -> list[list[str]]:
    """The tags that a run gave to the same sentences, to as many words as it read."""
    file = run / "predictions_val.jsonl"
    if not file.exists():
        raise ValueError(f"--run {run} has no {file.name}: it is no finished run")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda line: line["id"])
    true = [line["reference"].split() for line in lines]
    whole = [tags[: len(read)] for tags, read in zip(references, true, strict=False)]
    if len(true) != len(references) or true != whole:
        raise ValueError(
            f"--run {run} was scored on other sentences: give the run's own --config.data.path and --config.data.val_fraction"
        )
    return [line["prediction"].split() for line in lines]


def leads(model: list, rows: list) -> list[dict]:
    """How far each score of a model is ahead of the same score here."""
    from jaxlm.eval import bootstrap

    found = []
    for first, second in zip(model, rows, strict=True):
        result = bootstrap.paired(first.statistics, second.statistics, first.finish)
        interval = [result.low, result.high]
        found.append({"run": result.first, "run_ahead_by": result.difference, "interval": interval})
    return found


def sentences(task, split: str) -> Iterable[Sentence]:
    """The words and tags of a split's lines."""
    table, rows = task.splits[split]
    wanted = set(rows.tolist())
    for number, record in enumerate(table.source.records()):
        if number in wanted:
            yield [word.removeprefix(" ") for word in record.texts], record.labels


def conditional(train: Sequence[Sentence]) -> Callable[[str], str]:
    """The commonest tag of a word, or of words that look like it; of equally common ones the first in the alphabet."""
    tables = [collections.defaultdict(collections.Counter) for _ in range(3)]
    words = collections.Counter(word for words, _ in train for word in words)
    for line, tags in train:
        for word, tag in zip(line, tags, strict=True):
            tables[0][word][tag] += 1
            tables[1][_look(word)][tag] += 1
            if words[word] == 1:
                tables[2][""][tag] += 1
    commonest = [
        {key: min(counts, key=lambda tag: (-counts[tag], tag)) for key, counts in table.items()}  # noqa: B023
        for table in tables
    ]
    overall = collections.Counter(tag for _, tags in train for tag in tags).most_common(1)[0][0]

    def tag_of(word: str) -> str:
        for table, key in zip(commonest, (word, _look(word), ""), strict=True):
            if key in table:
                return table[key]
        return overall

    return tag_of


def _look(word: str) -> Hashable:
    first = "A" if word[:1].isupper() else "0" if word[:1].isdigit() else "a"
    return first, word[-3:].lower()


def scored(evaluator: str, predictions: list[list[str]], references: list[list[str]]) -> list:
    """The rows of an evaluator that scores tags."""
    from jaxlm.eval import classification, tagging

    if evaluator == "tagging":
        return tagging.rows(predictions, references)
    # Examples are sentences, as in an evaluation of a model.
    labels = sorted({tag for side in (predictions, references) for tags in side for tag in tags})
    shape = len(references), max(map(len, references))
    found, true, weights = np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape)
    for row, tags in enumerate(zip(predictions, references, strict=True)):
        for side, numbers in zip(tags, (found, true), strict=True):
            numbers[row, : len(side)] = [labels.index(tag) for tag in side]
        weights[row, : len(tags[1])] = 1
    return classification.score(classification.Answers(found, true, weights), labels)


if __name__ == "__main__":
    sys.exit(main())
