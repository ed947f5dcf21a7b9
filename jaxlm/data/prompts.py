"""Prompts as token ids, with the special tokens of the tokenizer's template where a model was trained with them.

What is read where a gap is to be filled is in infilling.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm.core.types import Tokenizer


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a model is given texts.

    Attributes:
      vocab_size: ids that it knows.
      template: it was trained elsewhere: texts get the special tokens of its tokenizer's file.
      is_source: it writes from a source, which `eos_id` ends.
    """

    tokenizer: Tokenizer
    vocab_size: int
    template: bool
    is_source: bool

    def encode(
        self, texts: list[str], *, limit: int | None = None, whole: bool = False
    ) -> list[Sequence[int]]:
        """Ids of texts, with those of the template that begin them; `whole`: also with those that end them."""
        if not (whole or self.template):
            return [self.tokenizer.encode(text)[:limit] for text in texts]
        return encoded(self.tokenizer, texts, limit=limit, whole=whole)

    def sentences(self, texts: list[str], limit: int) -> list[Sequence[int]]:
        """Ids of whole texts, cut to `limit`, in the special tokens that an encoder was trained with.

        Those are its template's; of a run of ours [CLS] and [SEP], where its tokenizer has them.
        """
        special = self.tokenizer.special_ids()
        if self.template or not {"[CLS]", "[SEP]"} <= special.keys():
            return self.encode(texts, limit=limit, whole=True)
        first, last = special["[CLS]"], special["[SEP]"]
        found = self.tokenizer.encode_batch(texts)
        return [[first, *ids[: limit - 2].tolist(), last] for ids in found]

    def ids(self, prompts: Sequence[Any]) -> list[list[int]]:
        """What is read of each prompt; see `token_ids`."""
        encode = self.tokenizer.encode_batch if self.is_source else self.encode
        return token_ids(prompts, encode, self.vocab_size, self.begin, self.end)

    @property
    def end(self) -> tuple[int, ...]:
        """What ends a source."""
        eos_id = self.tokenizer.eos_id
        return (eos_id,) if self.is_source and eos_id is not None else ()

    def starts_text(self, prompt: Any) -> bool:
        """Whether a text begins where writing does, or goes on behind the prompt."""
        if isinstance(prompt, Begun):
            return False
        return self.is_source or not (isinstance(prompt, str) and prompt)

    def pair(self, context: str, continuation: str) -> tuple[Sequence[int], Sequence[int]]:
        """A text and what follows it; see `encode_pair`."""
        if not context.strip():
            return [self.begin()], self.tokenizer.encode(context + continuation)
        if self.is_source:
            (source,) = self.ids([context])
            return source, self.tokenizer.encode(continuation)
        return encode_pair(lambda text: self.encode([text])[0], context, continuation)

    @property
    def begin_id(self) -> int | None:
        """The token that stands before a text: the template's, else the one between documents; None: there is none."""
        begins = self.encode([""])[0]
        return int(begins[0]) if len(begins) else self.tokenizer.eos_id

    def begin(self) -> int:
        """`begin_id`, or a ValueError."""
        if (found := self.begin_id) is None:
            raise ValueError("no token begins a text: give a context")
        return found


class Begun(list):
    """Token ids of a prompt whose text goes on where writing begins: a space before the first word is kept."""


def encoded(
    tokenizer: Tokenizer, texts: list[str], *, limit: int | None = None, whole: bool = False
) -> list[Sequence[int]]:
    """Ids, with the special tokens that tokenizer.json's post-processor puts around a text; without where it has none.

    Args:
      limit: tokens of each, special ones included.
      whole: also those that end a text; a prompt goes on.
    """
    data = getattr(tokenizer, "data", None)
    if data is None:
        return [tokenizer.encode(text)[:limit] for text in texts]
    from tokenizers import Tokenizer as Library

    library = Library.from_str(data.decode("utf-8"))
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = True  # text is only ever text
    if limit is not None:
        library.enable_truncation(limit)
    encodings = library.encode_batch(texts)
    return [one.ids if whole else one.ids[: _without_end(one)] for one in encodings]


def token_ids(
    prompts: Sequence[Any],
    encode: Callable[[list[str]], Sequence[Sequence[int]]],
    vocab_size: int,
    begin: Callable[[], int],
    end: tuple[int, ...] = (),
) -> list[list[int]]:
    """Prompts, each a text or token ids, as ids; an empty one is the token that begins a text.

    Args:
      encode: texts to ids.
      end: ids that are put behind each text.

    Raises:
      ValueError: a prompt is neither, or has ids outside the vocabulary.
    """
    encoded = iter(encode([one for one in prompts if isinstance(one, str)]))
    found = []
    for number, prompt in enumerate(prompts):
        ids = np.asarray(next(encoded) if isinstance(prompt, str) else prompt).tolist()
        accepted = isinstance(ids, list) and all(
            type(i) is int and 0 <= i < vocab_size for i in ids
        )
        if not accepted:
            raise ValueError(
                f"prompts[{number}]={prompt!r} must be a text, or token ids in 0..{vocab_size - 1}"
            )
        if isinstance(prompt, str):
            # A template's tokens around an empty text are not known to stand before it.
            ids = [*(ids if prompt else []), *end]
        found.append(ids or [begin()])
    return found


def encode_pair(
    encode: Callable[[str], Sequence[int]], context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """A pair of texts as tokens: those of both together, cut where the context's own end.

    Spaces at the end of the context go to the continuation, as words are encoded with the space before them (lm_eval,
    `TemplateLM._encode_pair`).

    Args:
      encode: text to ids, with the special tokens that begin a text and without those that end one.
      context: not empty.
      continuation: what follows, its own leading space included.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before = list(encode(bare))
    return before, list(encode(bare + continuation))[len(before) :]


def id_rows(ids: Any, name: str, vocab_size: int, limit: int) -> np.ndarray:
    """Token ids that a model reads, int32 [B, T].

    Args:
      ids: what was given.
      name: what messages call it.
      limit: positions that the model holds.

    Raises:
      ValueError: not two-dimensional, ids outside the vocabulary, or too many positions.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        shape = "[B, S]" if name == "source" else "[B, T]"
        raise ValueError(f"{name} must be integers {shape}, not {ids.dtype} {ids.shape}")
    if not 1 <= ids.shape[1] <= limit:
        raise ValueError(f"{name} has {ids.shape[1]} positions; accepted are 1 to {limit}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"{name}: ids must be in 0..{vocab_size - 1}")
    return ids.astype(np.int32)


def _without_end(encoding: Any) -> int:
    """How many ids come before the special tokens that end a text."""
    added = encoding.special_tokens_mask
    return max((place + 1 for place, one in enumerate(added) if not one), default=len(added))
