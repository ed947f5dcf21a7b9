"""From prompts to texts: batches of similar lengths, stop strings, constraints, streams. The tokens are a method's (METHODS)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm.core.types import PyTree, Tokenizer
from jaxlm.decode import buckets, constrained, timing
from jaxlm.decode.stopping import StopStrings, TextStream, text_of
from jaxlm.decode.types import Method, Request, Written

MAX_TOKENS = 200
"""Of a text, where nobody says how many and the model has room for them."""


class Text(NamedTuple):
    """One continuation of one prompt."""

    text: str  # without the prompt, special tokens, and the stop string
    tokens: list[int]  # as they were written, without the end token
    finish: (
        str  # "end": an end token, or all that a constraint asks; "stop": a stop string; "length"
    )
    score: (
        float  # nats: the model's log-probability of the tokens, end included; of a beam, its score
    )


@dataclasses.dataclass(frozen=True)
class Writer:
    """A model that writes texts.

    Attributes:
      max_len: positions that it can hold.
      end_ids: tokens that end a text.
      prefix: it reads prompts in both directions.
    """

    model: Any
    params: PyTree
    tokenizer: Tokenizer
    max_len: int
    end_ids: tuple[int, ...] = ()
    prefix: bool = False

    def write(
        self,
        method: Method,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        sources: Sequence[Sequence[int]] | None = None,
        images: np.ndarray | None = None,
        begins: Sequence[bool] | None = None,
        seed: int | Sequence[int] = 0,
        stop: str | Sequence[str] = (),
        constraint: Mapping[str, Any] | None = None,
        draft: tuple[Any, PyTree] | None = None,
        batch_size: int = 8,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[list[Text]]:
        """The continuations of each prompt, best first.

        Args:
          method: settings, as `decode.settings` makes them.
          prompts: token ids, at least one each.
          max_tokens: how many to write after each, at most.
          sources: token ids, one row a prompt, of an encoder-decoder.
          images: float [prompts, height, width, channels], of a model that reads them.
          begins: of each prompt, whether a text begins where writing does, or goes on behind it (stopping.text_of);
            None: they all go on.
          seed: prompt number n draws by seed + n, or by the n-th of several, whatever stands beside it.
          stop: strings that end a text and don't belong to it.
          constraint: what `decode.constrained.build` takes: choices, a regular expression, a JSON schema.
          draft: a smaller model and its weights that write ahead.
          batch_size: prompts side by side; those of similar lengths share a batch.
          on_text: called with a prompt's number and a piece of its text, as it comes.

        Raises:
          ValueError: something that the caller can change; the message says what.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        begins = [False] * len(prompts) if begins is None else begins
        seeds = seed if isinstance(seed, Sequence) else [seed + n for n in range(len(prompts))]
        limit = getattr(self.model, "position_limit", None)
        if sources is not None and limit is not None and max_tokens > limit:
            raise ValueError(f"max_tokens={max_tokens} is more than the model can write, {limit}")
        builds, stops = {}, {one: StopStrings(self.tokenizer, stop, one) for one in set(begins)}
        if constraint is not None:
            builds = {
                one: constrained.build(constraint, self.tokenizer, self.end_ids, begins=one)
                for one in stops
            }
        more = {} if draft is None else {"draft": draft}
        texts: list[list[Text]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda n: _length(prompts, sources, n))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            streams = [TextStream(self.tokenizer, stop, begins[n]) for n in chosen]
            watches = [stops[begins[n]].watch for n in chosen]
            inputs = {} if sources is None else padded([sources[n] for n in chosen], limit)
            if images is not None:
                inputs["image"] = images[chosen]
            request = Request(
                prompts=[prompts[n] for n in chosen],
                max_tokens=max_tokens,
                max_len=self.max_len,
                end_ids=self.end_ids,
                seeds=[seeds[n] for n in chosen],
                inputs=inputs,
                prefix=self.prefix,
                allowed=[builds[begins[n]]() for n in chosen] if builds else None,
                watch=functools.partial(_watch, watches) if stop else None,
                on_tokens=on_text and functools.partial(_push, streams, chosen, on_text),
            )
            with timing.batch() as counts:
                found = method.write(self.model, self.params, request, **more)
                counts.extend(len(one.tokens) for many in found for one in many)
            for n, stream, many in zip(chosen, streams, found, strict=True):
                texts[n] = [self._text(one, begins[n], stops[begins[n]]) for one in many]
                if on_text is not None and (rest := stream.finish()):
                    on_text(n, rest)
        return texts

    def _text(self, one: Written, begins: bool, stops: StopStrings) -> Text:
        text = text_of(self.tokenizer, one.tokens, begins)
        return Text(stops.cut(text), one.tokens, one.finish, one.score)


def padded(rows: Sequence[Sequence[int]], limit: int | None = None) -> dict[str, np.ndarray]:
    """Sources of an encoder-decoder as `init_cache` takes them, their width rounded up.

    Args:
      rows: token ids.
      limit: tokens that the model can read; None: any number.

    Raises:
      ValueError: a source is longer.
    """
    longest = max(1, *map(len, rows))
    if limit is not None and longest > limit:
        raise ValueError(f"a source of {longest} tokens is more than the model can read, {limit}")
    width = buckets.up(longest, buckets.MIN_WIDTH)
    width = width if limit is None else min(width, limit)
    batch = {
        name: np.zeros((len(rows), width), np.int32) for name in ("source", "source_segment_ids")
    }
    for number, row in enumerate(rows):
        batch["source"][number, : len(row)] = row
        batch["source_segment_ids"][number, : len(row)] = 1
    return batch


def num_tokens(asked: int | None, model: Any, method: str, max_len: int) -> int:
    """How many tokens to write at most: what is asked, or None: the same for every prompt, whatever stands beside it.

    Args:
      method: a name of METHODS; "sample" goes on where a context is full, the others do not.
      max_len: positions that the model can hold, of a prompt and what follows it.
    """
    if asked is not None:
        return asked
    if "source" in model.inputs:
        return min(MAX_TOKENS, getattr(model, "position_limit", None) or MAX_TOKENS)
    return MAX_TOKENS if method == "sample" else max(1, min(MAX_TOKENS, max_len // 2))


def _length(prompts: Sequence[Sequence[int]], sources: Any, number: int) -> int:
    return len(prompts[number]) + (0 if sources is None else len(sources[number]))


def _watch(watches: list[Callable[[int, list[int]], bool]], row: int, tokens: list[int]) -> bool:
    return watches[row](row, tokens)


def _push(
    streams: list[TextStream],
    numbers: list[int],
    on_text: Callable[[int, str], None],
    row: int,
    tokens: list[int],
) -> None:
    if piece := streams[row].push(tokens):
        on_text(numbers[row], piece)
