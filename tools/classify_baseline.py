"""What counting words reaches on an experiment's labelled texts, as one JSON line: the least that a model should beat.

    python tools/classify_baseline.py experiments/classify_lstm.py [--config.data.path=...]
    python tools/classify_baseline.py experiments/classify_lstm.py --run runs/lstm      the model of that run beside it
    python tools/classify_baseline.py experiments/classify_lstm.py --language chinese --words_only
    python tools/classify_baseline.py experiments/classify_lstm.py --every_word         stop words and endings tell something, too

scikit-learn's logistic regression over tf-idf (logarithmic counts) of words and of pairs of words that stand in two texts at
least. Words are those of jaxlm/data/cleaning.py: stop words dropped, stems, unless --every_word. Its C is the best of GRID on the last tenth of the
training lines, then it is fitted to all of them. The same lines are for training and for validation (for a test, where there
are lines for one) as in the experiment; whole texts are read, whatever a model has room for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tag_baseline

from jaxlm import cli, config, registry

GRID = (1.0, 4.0, 16.0, 64.0, 256.0)
Lines = tuple[list[list[str]], list[str]]  # what is counted of texts, and their labels


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.classify_baseline", "Scores of logistic regression over words.")
    parser.add_argument("experiment", metavar="FILE.py[:variant]")
    parser.add_argument("--run", help="a finished run of the experiment")
    parser.add_argument("--language", default="english", help="of the texts, as BM25's (docs)")
    parser.add_argument("--words_only", action="store_true", help="without pairs of words")
    parser.add_argument(
        "--every_word", action="store_true", help="words as they stand, stop words too"
    )
    options = parser.parse_args(arguments)
    cfg = config.load(options.experiment, overrides)

    def work() -> None:
        words = word_counter(options.language, not options.words_only, not options.every_word)
        print(json.dumps(baseline(cfg, words, options.run)))

    return cli.guarded(work, logs=sys.stderr)


def baseline(cfg: Any, words: Callable[[str], list[str]], run: str | None = None) -> dict[str, Any]:
    """Scores with their standard errors; a run's lead with its interval.

    Raises:
      ValueError: data without a label a line, or a run on other lines.
    """
    from jaxlm.data.tasks.labelled import LabelledTask
    from jaxlm.eval import classification

    if cfg.data.kind != "labelled":
        raise ValueError(f'data.kind="{cfg.data.kind}": expected "labelled"')
    with cfg.unlocked():
        cfg.data.tokenizer = "bytes"  # texts are whole, whatever a model makes of them
        cfg.data.seq_len = 1 << 20
    task = LabelledTask(config.build(cfg, "data"))
    split = "test" if "test" in task.splits else "val"
    train = lines(task, "train", words)
    texts, references = lines(task, split, words, task.chosen_ids(split))
    strength = best_strength(train)
    model = fit(*train, strength)
    predictions = model.predict(texts).tolist()
    rows = classification.rows(predictions, references)
    ahead: list[dict] = [{}] * len(rows)
    if run:
        theirs = predicted(Path(run), split, references)
        ahead = tag_baseline.leads(classification.rows(theirs, references), rows)
    return {
        "data": cfg.data.path,
        "split": split,
        "lines": len(texts),
        "train_lines": len(train[0]),
        "labels": len(task.info.labels),
        "features": len(model[0].vocabulary_),
        "C": strength,
    } | {
        row.name: {"value": row.value, "stderr": row.stderr, **lead}
        for row, lead in zip(rows, ahead, strict=True)
    }


def word_counter(language: str, pairs: bool, cleaned: bool) -> Callable[[str], list[str]]:
    """What is counted of a text: its words (stems of those that are no stop words), and each two that follow one another.

    Raises:
      ValueError: a language without a list of stop words.
    """
    from jaxlm.data.cleaning import Cleaning

    cleaning = Cleaning(language, stop_words=cleaned, stems=cleaned)

    def counted(text: str) -> list[str]:
        words = cleaning.words(text)
        follow = zip(words, words[1:], strict=False) if pairs else ()
        return words + [" ".join(pair) for pair in follow]

    return counted


def lines(
    task: Any, split: str, words: Callable[[str], list[str]], ids: Sequence[int] | None = None
) -> Lines:
    """Of a split's lines, in order; of those with these ids only."""
    table, rows = task.splits[split]
    wanted = set((rows if ids is None else rows[list(ids)]).tolist())
    found = [one for number, one in enumerate(table.source.records()) if number in wanted]
    return [words("\n".join(one.texts)) for one in found], [one.labels[0] for one in found]


def best_strength(train: Lines) -> float:
    """The C with most right answers on the last tenth of the lines; of equally good ones the smallest."""
    cut = len(train[0]) * 9 // 10
    (texts, labels), held = [part[:cut] for part in train], [part[cut:] for part in train]
    return max(GRID, key=lambda strength: fit(texts, labels, strength).score(*held))


def fit(texts: Sequence[list[str]], labels: Sequence[str], strength: float) -> Any:
    """scikit-learn's pipeline of tf-idf and logistic regression, fitted."""
    text = registry.need("sklearn.feature_extraction.text", "eval")
    linear = registry.need("sklearn.linear_model", "eval")
    pipeline = registry.need("sklearn.pipeline", "eval")
    made = pipeline.make_pipeline(
        text.TfidfVectorizer(analyzer=list, sublinear_tf=True, min_df=2),
        linear.LogisticRegression(C=strength, max_iter=1000, tol=1e-3),
    )
    return made.fit(texts, labels)


def predicted(run: Path, split: str, references: list[str]) -> list[str]:
    """The labels that a run gave to the same lines."""
    file = run / f"predictions_{split}.jsonl"
    if not file.exists():
        raise ValueError(f"--run {run} has no {file.name}: it is no finished run")
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found.sort(key=lambda line: line["id"])
    if [line["reference"] for line in found] != references:
        raise ValueError(
            f"--run {run} was scored on other lines: give the run's own --config.data.path, --config.data.val_fraction "
            "and --config.data.eval_examples"
        )
    return [line["prediction"] for line in found]


if __name__ == "__main__":
    sys.exit(main())
