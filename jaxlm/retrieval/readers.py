"""Answers to questions from the passages that were found for them, with the places that they stand on.

Two readers: a chat model writes from numbered passages; a model of spans points at the characters of one.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.core import heads
from jaxlm.data.cleaning import ANY, Cleaning
from jaxlm.data.offsets import token_offsets
from jaxlm.eval.spans import Found, best_span
from jaxlm.retrieval.index import Hit

SYSTEM = (
    "You answer questions from numbered passages only. Answer in one short sentence and name the passage that says it, "
    "like this: [2]. If no passage says it, answer: It is not in the passages."
)
_NAMED = re.compile(r"\[(\d+)\]")
_log = logging.getLogger(__name__)


class Citation(NamedTuple):
    """A place in a document: characters `start` to `end` of it, which are `text`."""

    passage: str  # its id
    source: str
    title: str
    start: int
    end: int
    text: str


class Answer(NamedTuple):
    """What a reader says, and why.

    Attributes:
      text: "" where it found none.
      citations: the places; best first.
      cited_by: "span": the answer is the cited characters; "model": it named the passages; "words": it named none, and
        this is the passage with most of its words; "": nothing is cited.
    """

    question: str
    text: str
    citations: tuple[Citation, ...]
    cited_by: str


def read(lm: Any, question: str, hits: Sequence[Hit], max_tokens: int = 64) -> Answer:
    """The answer to a question from its passages, by whatever the model is.

    Args:
      lm: a chat model, or a run trained on data.kind="spans".
      question: one.
      hits: passages, best first.
      max_tokens: how long a written answer may get.

    Raises:
      ValueError: a model that is neither.
    """
    if lm.config.objective.kind == "span":
        return _point(lm, question, hits)
    if lm.chat_template is None:
        raise ValueError(
            f"--reader: {type(lm.model).__name__} is neither a chat model (it has no chat template) nor trained on spans "
            '(data.kind="spans")'
        )
    return _write(lm, question, hits, max_tokens)


def _whole(hit: Hit) -> Citation:
    one = hit.passage
    return Citation(one.id, one.source, one.title, one.start, one.end, one.text)


# --- a chat model ------------------------------------------------------------------------------------------------------


def messages(question: str, hits: Sequence[Hit]) -> list[dict[str, str]]:
    """What a chat model is asked."""
    passages = "\n\n".join(
        f"[{number}] {hit.passage.searched}" for number, hit in enumerate(hits, 1)
    )
    content = f"{passages}\n\nQuestion: {question}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def _write(lm: Any, question: str, hits: Sequence[Hit], max_tokens: int) -> Answer:
    kept = list(hits)
    while kept and len(lm.chat_ids(messages(question, kept))) + max_tokens > lm.max_len:
        kept.pop()
    if len(kept) < len(hits):
        _log.warning("%d of %d passages fit into the model: %s", len(kept), len(hits), question)
    if not kept:  # what it says without any stands nowhere
        return Answer(question, "", (), "")
    asked = lm.chat_ids(messages(question, kept))
    (text,) = lm.generate([asked], max_tokens=max_tokens, temperature=0.0)
    text = text.strip()
    numbers = dict.fromkeys(int(number) for number in _NAMED.findall(text))
    named = [kept[number - 1] for number in numbers if 1 <= number <= len(kept)]
    if named:
        return Answer(question, text, tuple(map(_whole, named)), "model")
    if best := _most_shared(text, kept):
        return Answer(question, text, (_whole(best),), "words")
    return Answer(question, text, (), "")


def _most_shared(text: str, hits: Sequence[Hit]) -> Hit | None:
    """The passage with most of an answer's words; of several the first; None where none has any."""
    words = set(Cleaning(ANY).words(text))
    shared = [len(words & set(Cleaning(ANY).words(hit.passage.searched))) for hit in hits]
    return hits[int(np.argmax(shared))] if any(shared) else None


# --- a model of spans --------------------------------------------------------------------------------------------------


def _point(lm: Any, question: str, hits: Sequence[Hit]) -> Answer:
    """The span that is likeliest against "no answer" in its own passage; none where that is likelier in all."""
    found: list[tuple[float, Citation]] = []
    for hit in hits:
        batch, offsets = _windows(lm, question, hit.passage.text)
        logits = np.asarray(_span_logits(lm.model, lm.params, batch), np.float64)
        spans = [best_span(*one) for one in zip(logits, batch["allowed"], offsets, strict=True)]
        best: Found = max(spans, key=lambda span: span.score)
        place = _whole(hit)._replace(
            start=hit.passage.start + best.start,
            end=hit.passage.start + best.end,
            text=hit.passage.text[best.start : best.end],
        )
        found.append((best.score - min(span.none for span in spans), place))
    found = sorted((one for one in found if one[0] >= 0), key=lambda one: -one[0])
    if not found:
        return Answer(question, "", (), "")
    best_place = found[0][1]
    return Answer(question, best_place.text, (best_place,), "span")


def _windows(lm: Any, question: str, text: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rows that a text is read in, as data/tasks/answer_spans.py makes them, and the characters of their tokens."""
    data, special = lm.config.data, lm.tokenizer.special_ids()
    asked = lm.tokenizer.encode(question)[: min(data.question_len, (data.seq_len - 3) // 2)]
    ids, spans = lm.tokenizer.encode(text), token_offsets(lm.tokenizer, text)
    begin = len(asked) + 2
    room = data.seq_len - begin - 1
    firsts = [*range(0, max(1, len(ids) - room), (room + 1) // 2), max(0, len(ids) - room)]
    firsts = sorted(set(firsts))
    shape = (len(firsts), data.seq_len)
    names = ("tokens", "segment_ids", "token_types", "allowed")
    batch = {name: np.zeros(shape, np.int32) for name in names}
    offsets = np.zeros((*shape, 2), np.int32)
    for row, first in enumerate(firsts):
        end = begin + len(ids[first : first + room])
        parts = [[special["[CLS]"]], asked, [special["[SEP]"]], ids[first : first + room]]
        batch["tokens"][row] = special["[PAD]"]
        batch["tokens"][row, : end + 1] = np.concatenate([*parts, [special["[SEP]"]]])
        batch["segment_ids"][row, : end + 1] = 1
        batch["token_types"][row, begin : end + 1] = 1
        batch["allowed"][row, begin:end] = batch["allowed"][row, 0] = 1
        offsets[row, begin:end] = spans[first : first + room]
    return batch, offsets


@functools.partial(jax.jit, static_argnums=0)
def _span_logits(model: Any, params: Any, batch: dict[str, Any]) -> Any:
    inputs = {name: value for name, value in batch.items() if name != "allowed"}
    return heads.span_logits(model.apply({"params": params}, **inputs), batch["allowed"])
