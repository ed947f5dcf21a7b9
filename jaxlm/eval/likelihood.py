"""What a model gives a continuation of a context, and a whole text in windows: log-probabilities of given tokens.

Token lists in, numbers out: no texts and no tokenizer (language_model.py), no tasks (suites). The conventions are those
of lm_eval's Hugging Face backend (EleutherAI, Language Model Evaluation Harness, 0.4), so that scores compare.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.core.types import Array, PyTree
from jaxlm.decode import buckets

Pair = tuple[Sequence[int], Sequence[int]]


class Likelihood(NamedTuple):
    """How likely a model finds given tokens."""

    total: float  # nats, never above 0: the sum of per_token
    greedy: bool  # each was the likeliest token at its place (of equals the first)
    per_token: list[float]  # nats


class _Request(NamedTuple):
    """What a model reads for one pair; equal `read`s share a forward pass."""

    read: tuple[tuple[int, ...], tuple[int, ...], int]  # tokens, source, prefix length
    first: int  # where the first target is predicted
    targets: Sequence[int]


def loglikelihoods(
    model: Any,
    params: PyTree,
    pairs: Sequence[Pair],
    *,
    max_len: int,
    batch_size: int = 8,
    prefix: bool = False,
    on_result: Callable[[int, Likelihood], None] | None = None,
) -> list[Likelihood]:
    """The log-probability of each continuation after its context.

    Of both together the last `max_len + 1` tokens are used: the model reads all of these but the last. An
    encoder-decoder reads the context's last `max_len` as its source, and the continuation from its start symbol; what ends
    a source or a target is the caller's to put there. Neither the order of the pairs nor the batch moves a result, but
    for float32 rounding in the last digits; pairs that are read alike (one-token choices) are read once. What is read and
    what is scored are padded to powers of two, so a batch size compiles at most (1 + log2(max_len / 16)) ** 2 programs
    (once more the first factor for sources, and more rows of targets where many pairs are read alike).

    Args:
      model, params: one that reads from left to right, or an encoder-decoder.
      pairs: (context, continuation) ids, at least one each.
      max_len: positions that the model can hold.
      batch_size: how many different inputs are read at once.
      prefix: a context is read in both directions, as a prefix language model was trained to.
      on_result: called with a pair's number and its result as soon as there is one.

    Returns:
      One result a pair, in their order; float32 log-softmax, summed in float64.

    Raises:
      ValueError: an empty part, an id that is none, or a continuation of more than `max_len`; the pair is named.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if getattr(model, "direction", "") == "bidirectional":
        raise ValueError(f"{type(model).__name__} reads both ways: it has no next-token likelihood")
    check_probabilities(model, "likelihoods")
    requests = [_request(model, one, pair, max_len, prefix) for one, pair in enumerate(pairs)]
    sharing: dict[Any, list[int]] = {}
    for number, request in enumerate(requests):
        sharing.setdefault(request.read, []).append(number)
    reads = sorted(sharing, key=lambda read: len(read[0]) + len(read[1]), reverse=True)
    found: list[Any] = [None] * len(requests)
    for start in range(0, len(reads), batch_size):
        batch = reads[start : start + batch_size]
        for number, result in _scored(model, params, batch, sharing, requests, max_len, batch_size):
            found[number] = result
            if on_result is not None:
                on_result(number, result)
    return found


def check_probabilities(model: Any, what: str) -> None:
    """That a model's scores sum to one, which `what` needs.

    Raises:
      ValueError: they are scores of another kind (of stupid back-off, of pairs of words).
    """
    config = getattr(model, "config", None)
    if not getattr(config, "gives_probabilities", True):
        others = (
            'take another model.smoothing, or evaluators that compare answers, such as "accuracy"'
        )
        raise ValueError(
            f"{what}: the scores of this {type(model).__name__} are no probabilities, so they have no perplexity: "
            f"{getattr(config, 'instead', others)}"
        )


def rolling(
    model: Any,
    params: PyTree,
    texts: Sequence[Sequence[int]],
    *,
    max_len: int,
    prefix_id: int,
    context: int = 1,
    end: Sequence[int] = (),
    batch_size: int = 8,
    on_result: Callable[[int, Likelihood], None] | None = None,
) -> list[Likelihood]:
    """The log-probability of whole texts, every token scored once, in `windows` of the positions that the model can hold.

    Args:
      model, params, max_len, batch_size: as in `loglikelihoods`; the windows of all texts are its pairs.
      texts: ids; an empty text has likelihood 1.
      prefix_id: what stands before the first token.
      context: tokens that each is given at least, once a text is that long: the stride is max_len - context + 1.
      end: ids that end what is given, of an encoder-decoder, for which that is a source.
      on_result: called with a text's number and its result once its last window is scored.

    Returns:
      One result a text; `per_token` has an entry for each of its tokens.

    Raises:
      ValueError: context is not in 1..max_len, or an id that is none.
    """
    cut = [list(windows(text, prefix_id, max_len, context)) for text in texts]
    owners = [number for number, parts in enumerate(cut) for _ in parts]
    firsts = list(itertools.accumulate(map(len, cut), initial=0))
    missing = [len(parts) for parts in cut]
    scored: list[Any] = [None] * len(owners)
    found: list[Any] = [None] * len(cut)

    def finish(text: int) -> None:
        parts = scored[firsts[text] : firsts[text + 1]]
        per_token = [value for part in parts for value in part.per_token]
        total = float(np.sum(np.array(per_token, np.float64)))
        found[text] = Likelihood(total, all(part.greedy for part in parts), per_token)
        if on_result is not None:
            on_result(text, found[text])

    def add(number: int, result: Likelihood) -> None:
        scored[number] = result
        missing[owners[number]] -= 1
        if not missing[owners[number]]:
            finish(owners[number])

    for number, parts in enumerate(cut):
        if not parts:
            finish(number)
    pairs = [([*given, *end], part) for parts in cut for given, part in parts]
    loglikelihoods(model, params, pairs, max_len=max_len, batch_size=batch_size, on_result=add)
    return found


def windows(
    tokens: Sequence[int], prefix_id: int, max_len: int, context: int = 1
) -> Iterator[Pair]:
    """A text as (context, continuation) pairs whose continuations, joined, are the text.

    The first is max_len tokens after the prefix; then at most max_len - context + 1 each, after all that fits before
    them: the last one has a full context too (lm_eval, `get_rolling_token_windows` and `make_disjoint_window`).

    Raises:
      ValueError: context is not in 1..max_len.
    """
    if not 1 <= context <= max_len:
        raise ValueError(f"context={context} must be in 1..{max_len}, the positions of the model")
    tokens = [int(token) for token in tokens]
    done = min(max_len, len(tokens))
    if tokens:
        yield [prefix_id], tokens[:done]
    while done < len(tokens):
        end = min(done + max_len - context + 1, len(tokens))
        yield tokens[end - max_len - 1 : done], tokens[done:end]
        done = end


def _request(model: Any, number: int, pair: Pair, max_len: int, prefix: bool) -> _Request:
    context, targets = (tuple(int(token) for token in part) for part in pair)
    for name, part in (("context", context), ("continuation", targets)):
        if not part:
            raise ValueError(f"pairs[{number}]: the {name} is empty; it needs at least one token")
        if min(part) < 0 or max(part) >= model.config.vocab_size:
            limit = model.config.vocab_size - 1
            raise ValueError(f"pairs[{number}]: the {name} has ids outside 0..{limit}")
    if len(targets) > max_len:
        raise ValueError(
            f"pairs[{number}]: its continuation has {len(targets)} tokens, and the model holds {max_len}: "
            "score long texts with `rolling`"
        )
    if "source" in model.inputs:
        tokens = (model.config.decoder_start_id, *targets[:-1])
        return _Request((tokens, context[-max_len:], 0), 0, targets)
    tokens = (context + targets)[-(max_len + 1) :][:-1]
    first = len(tokens) - len(targets)
    return _Request((tokens, (), first + 1 if prefix else 0), first, targets)


def _scored(model, params, reads, sharing, requests, max_len, batch_size) -> list:
    """Number and result of every request of a batch of reads."""
    numbers = [number for read in reads for number in sharing[read]]
    rows = [row for row, read in enumerate(reads) for _ in sharing[read]]
    chosen = [requests[number] for number in numbers]
    tokens_BT = _table([read[0] for read in reads], batch_size, max_len)
    inputs = {"tokens": tokens_BT}
    if "source" in model.inputs:
        sources = [read[1] for read in reads]
        inputs["source"] = _table(sources, batch_size, max_len)
        inputs["source_segment_ids"] = _table(
            [(1,) * len(one) for one in sources], batch_size, max_len
        )
    if any(read[2] for read in reads):
        lengths = [read[2] for read in reads]
        inputs["prefix_lengths"] = np.resize(np.array(lengths, np.int32), batch_size)
    size = max(batch_size, buckets.rows(len(numbers)))
    targets_RC = _table([one.targets for one in chosen], size, max_len)
    firsts_R = np.resize(np.array([one.first for one in chosen], np.int32), size)
    places_RC = firsts_R[:, None] + np.arange(targets_RC.shape[1], dtype=np.int32)[None]
    places_RC = np.minimum(places_RC, tokens_BT.shape[1] - 1)
    rows_R = np.resize(np.array(rows, np.int32), size)
    logs_RC, best_RC = jax.device_get(_score(model, params, inputs, rows_R, places_RC, targets_RC))
    results = []
    for row, (number, one) in enumerate(zip(numbers, chosen, strict=True)):
        count = len(one.targets)
        logs = logs_RC[row, :count]
        total = float(logs.astype(np.float64).sum())
        results.append((number, Likelihood(total, bool(best_RC[row, :count].all()), logs.tolist())))
    return results


def _table(rows: Sequence[Sequence[int]], size: int, limit: int) -> np.ndarray:
    """int32 [size, a width of few]: filled with zeros to the right, and below with the first rows again."""
    table = np.zeros((size, buckets.width(max(map(len, rows)), limit)), np.int32)
    for number in range(size):
        row = rows[number % len(rows)]
        table[number, : len(row)] = row
    return table


@functools.partial(jax.jit, static_argnums=0)
def _score(
    model: Any,
    params: PyTree,
    inputs: dict[str, Array],
    rows_R: Array,
    places_RC: Array,
    targets_RC: Array,
) -> tuple[Array, Array]:
    """Log-probability of each target, and whether it is the likeliest; logits are made at these places only."""
    output = model.apply({"params": params}, **inputs)
    stats = output.at(rows_R, places_RC).token_stats(targets_RC)
    return -stats.nll, stats.correct > 0
