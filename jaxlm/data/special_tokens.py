"""Special tokens that a task needs and a tokenizer lacks: [MASK], [CLS], T5's sentinels, those of
fill-in-the-middle.

They get ids behind the tokenizer's own; encodings stay as they were, so no text ever becomes one.
What a task does with them is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxlm.data import chat_templates
from jaxlm.data.subword_tokenizers import checked, saved_meta, sha256, write

BERT = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))
"""In the order of T5's ids, where <extra_id_0> is the last one of the vocabulary."""
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
"""What fill-in-the-middle puts before the text in front of a gap, behind it, and in it."""


def token_id(tokenizer: Any, name: str) -> int | None:
    """The id of a special token, or None where the tokenizer has none of this name."""
    return tokenizer.special_ids().get(name)


def special_table(tokenizer: Any) -> np.ndarray:
    """Bool [V], true for special tokens."""
    table = np.zeros(tokenizer.vocab_size, bool)
    table[list(tokenizer.special_ids().values())] = True
    return table


def with_special_tokens(tokenizer: Any, names: Sequence[str]) -> Any:
    """The tokenizer itself where it has all of these special tokens, else one that has them.

    Args:
      tokenizer: a `core.types.Tokenizer`.
      names: special tokens; those that it lacks are appended in this order.
    """
    missing = [name for name in names if token_id(tokenizer, name) is None]
    if not missing:
        return tokenizer
    if isinstance(tokenizer, Extended):
        return Extended(tokenizer.base, [*tokenizer.names, *missing])
    return Extended(tokenizer, missing)


def base(tokenizer: Any) -> Any:
    """The tokenizer that encodes text: what was appended plays no part in that."""
    return tokenizer.base if isinstance(tokenizer, Extended) else tokenizer


def require_eos(tokenizer: Any, name: str) -> int:
    """The id that ends a text.

    Raises:
      ValueError: the tokenizer has none.
    """
    if tokenizer.eos_id is None:
        raise ValueError(f"data.tokenizer={name} has no <eos> token, which ends every target here")
    return tokenizer.eos_id


class Extended:
    """A tokenizer and special tokens behind its ids."""

    def __init__(self, tokenizer: Any, names: Sequence[str]):
        self.base, self.names = tokenizer, tuple(names)
        self.name, self.eos_id = tokenizer.name, tokenizer.eos_id
        self.vocab_size = tokenizer.vocab_size + len(self.names)
        parts = [tokenizer.digest, *self.names]
        self.digest = sha256(b"jaxlm extended 1", *(part.encode("utf-8") for part in parts))
        self.encode, self.encode_batch = tokenizer.encode, tokenizer.encode_batch
        if hasattr(tokenizer, "offsets"):
            self.offsets = tokenizer.offsets
        self.chat_template = chat_templates.of(tokenizer)

    def decode(self, ids: Iterable[int]) -> str:
        ids = checked(ids, self)
        places = np.flatnonzero(ids >= self.base.vocab_size)
        text = []
        for part in np.split(ids, places):
            if len(part) and part[0] >= self.base.vocab_size:
                text.append(self.names[part[0] - self.base.vocab_size])
                part = part[1:]
            if len(part):
                text.append(self.base.decode(part))
        return "".join(text)

    def token_bytes(self) -> np.ndarray:
        return np.append(self.base.token_bytes(), np.zeros(len(self.names), np.int32))

    def special_ids(self) -> dict[str, int]:
        own = {name: self.base.vocab_size + place for place, name in enumerate(self.names)}
        return self.base.special_ids() | own

    def pieces(self) -> list[str]:
        return self.base.pieces() + [""] * len(self.names)

    def spellings(self, begins: bool) -> Sequence[bytes]:
        return [*self.base.spellings(begins), *[b""] * len(self.names)]

    def save(self, directory: Any) -> None:
        self.base.save(directory)
        meta = {"kind": "extended", "names": self.names, "base": saved_meta(directory)}
        write(directory, self, meta)
