"""Entities of tagged words: precision, recall and F1 of whole ones (seqeval's), and how many tags are right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm import registry
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.metric import collect, input_text, make_row, version

SCHEMES = {"IOB2": set("BIO"), "IOBES": set("BIOES")}
"""Of strict scores, with the letters that tags begin with; the first that has all of the data's is taken."""

Tags = Sequence[Sequence[str]]


class Tagging:
    """Every sentence's tags as one sequence, at each word's first piece; of sentences cut by data.seq_len, what is left.

    Two ways of counting, both of Nakayama's seqeval: `entity_` ones by its default mode, which is conlleval's
    and takes an I- without B- as the start of an entity; `strict_` ones by mode="strict" in the scheme of the data's tags.
    Where nothing is predicted or true a score is 0 (zero_division=0).
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are no such tags, or seqeval is missing."""
        if not info.labels:
            raise ValueError(
                'evaluators: "tagging" scores tagged words, and the targets of this data are none: data.kind="tagged" '
                "does"
            )
        registry.need("seqeval.metrics", "eval")
        self.labels, self.scheme = info.labels, scheme_of(info.labels)
        self.tokenizer = info.tokenizer
        self.signature = f"objective={objective}"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """predictions_BT."""
        return {"predictions": jnp.argmax(output.logits(), axis=-1).astype(jnp.int32)}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows of `rows`; table `types`; of each example the share of right tags.

        Raises:
          ValueError: the data holds no weighed target.
        """
        arrays = collect(predict, data, ("tokens", "segment_ids"))
        used = arrays["weights"] > 0
        predicted, true = (
            [
                [self.labels[number] for number in line[places]]
                for line, places in zip(arrays[name], used, strict=True)
            ]
            for name in ("predictions", "targets")
        )
        found = [
            dataclasses.replace(row, signature=f"{row.signature}|{self.signature}")
            for row in rows(predicted, true, self.scheme)
        ]
        examples = [
            {
                "id": int(arrays["id"][row]),
                "input": input_text(self.tokenizer, arrays, row),
                "prediction": " ".join(predicted[row]),
                "reference": " ".join(true[row]),
                "score": float(np.mean([a == b for a, b in zip(*pair, strict=True)])),
            }
            for row, pair in enumerate(zip(predicted, true, strict=True))
        ]
        return Scores(found, examples, tables(predicted, true, self.scheme))


def scheme_of(tags: Iterable[str]) -> str:
    """The scheme that all these tags are of.

    Raises:
      ValueError: none that is known.
    """
    tags = set(tags)
    for name, letters in SCHEMES.items():
        if all(tag == "O" or (tag[:1] in letters - {"O"} and tag[1:2] == "-") for tag in tags):
            return name
    raise ValueError(
        f"tags {', '.join(sorted(tags)[:8])}: entities are scored of tags such as B-PER, I-PER and O "
        f"(schemes {', '.join(SCHEMES)}); tags without entities are scored by classification"
    )


def rows(predictions: Tags, references: Tags, scheme: str = "") -> list[Row]:
    """Scores of tagged sentences.

    Args:
      predictions, references: a list of tags for each sentence.
      scheme: of SCHEMES, for strict scores; "": the tags' own.

    Returns:
      Rows `entity_f1`, `entity_precision`, `entity_recall`, `entity_macro_f1` (the mean over types) of seqeval's default
      mode, `strict_f1`, `strict_precision`, `strict_recall`, and `token_accuracy`.

    Raises:
      ValueError: no sentence, other lengths, or tags of no known scheme.
    """
    metrics = registry.need("seqeval.metrics", "eval")
    predictions, references = _checked(predictions, references)
    scheme = scheme or scheme_of(
        tag for side in (predictions, references) for t in side for tag in t
    )
    found: list[Row] = []
    for prefix, how in (
        ("entity_", {}),
        ("strict_", {"mode": "strict", "scheme": _tokens(scheme)}),
    ):
        mode = f"mode=strict|scheme={scheme}" if how else "mode=default (conlleval)|scheme=any"
        signature = f"{version('seqeval')}|{mode}|zero_division=0|sentences={len(references)}"
        counts, _ = _counts(predictions, references, scheme if how else "")
        hits, predicted, true = np.moveaxis(counts.sum(2), 1, 0)
        given = [
            ("f1", "f1", np.stack([hits, predicted, true], 1), metrics.f1_score),
            ("precision", "rate", np.stack([hits, predicted], 1), metrics.precision_score),
            ("recall", "rate", np.stack([hits, true], 1), metrics.recall_score),
        ]
        for name, finish, statistics, score in given:
            value = score(references, predictions, zero_division=0, **how)
            found.append(_row(prefix + name, finish, statistics, signature + "|micro", value))
        if not how and counts.shape[2]:
            value = metrics.f1_score(references, predictions, average="macro", zero_division=0)
            flat = counts.reshape(len(counts), -1)
            found.append(_row("entity_macro_f1", "macro_f1", flat, signature + "|macro", value))
    right = [
        [sum(a == b for a, b in zip(*pair, strict=True)), len(pair[0])]
        for pair in zip(predictions, references, strict=True)
    ]
    value = metrics.accuracy_score(references, predictions)
    about = f"{version('seqeval')}|sentences={len(references)}|tags={sum(map(len, references))}"
    return [*found, _row("token_accuracy", "ratio", np.array(right), about, value)]


def tables(
    predictions: Tags, references: Tags, scheme: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """`types`: a line for each type of entity, counted by seqeval's default mode."""
    predictions, references = _checked(predictions, references)
    counts, types = _counts(predictions, references, "")
    lines = []
    for name, (hits, predicted, true) in zip(types, counts.sum(0).T.tolist(), strict=True):
        lines.append(
            {
                "type": name,
                "precision": hits / predicted if predicted else None,
                "recall": hits / true if true else None,
                "f1": 2 * hits / (predicted + true),
                "predicted": predicted,
                "true": true,
            }
        )
    return {"types": lines}


def _checked(predictions: Tags, references: Tags) -> tuple[list[list[str]], list[list[str]]]:
    """As lists, which seqeval insists on."""
    if not references or list(map(len, predictions)) != list(map(len, references)):
        raise ValueError(
            f"{len(predictions)} and {len(references)} sentences: every one needs as many predicted as true tags, and "
            "there must be at least one"
        )
    return [list(tags) for tags in predictions], [list(tags) for tags in references]


def _counts(predictions: Tags, references: Tags, scheme: str) -> tuple[np.ndarray, list[str]]:
    """Of every sentence its entities hit, predicted and true of each type, [N, 3, types]; and the types."""
    sides = [[_entities(tags, scheme) for tags in side] for side in (predictions, references)]
    types = sorted({entity[0] for side in sides for entities in side for entity in entities})
    counts = np.zeros((len(references), 3, len(types)))
    for number, (predicted, true) in enumerate(zip(*sides, strict=True)):
        for place, entities in enumerate((predicted & true, predicted, true)):
            for entity in entities:
                counts[number, place, types.index(entity[0])] += 1
    return counts, types


def _entities(tags: Sequence[str], scheme: str) -> set[tuple[str, int, int]]:
    """Type, start and end of a sentence's entities, strictly of a scheme, or by seqeval's default for ""."""
    if not scheme:
        from seqeval.metrics.sequence_labeling import get_entities

        return set(get_entities(list(tags)))
    from seqeval.scheme import Tokens

    found = Tokens(list(tags), scheme=_tokens(scheme)).entities
    return {(entity.tag, entity.start, entity.end) for entity in found}


def _tokens(scheme: str) -> Any:
    return getattr(registry.need("seqeval.scheme", "eval"), scheme)


def _row(name: str, finish: str, statistics: np.ndarray, signature: str, value: float) -> Row:
    return make_row(
        name,
        statistics,
        unit="fraction",
        finish=finish,
        signature=signature,
        higher_is_better=True,
        value=value,
    )
