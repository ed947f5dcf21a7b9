"""Texts as tokens and back, as the evaluation harness's Hugging Face backend makes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.data import chat_tokens


class Vocabulary:
    """The tokenizer of a `LanguageModel`.

    Unlike the model's own prompts, special tokens that are spelt in a text are read as such: chat templates spell them.

    Args:
      lm: the model.
      folders: where files of a tokenizer that others made may lie.
      prefix_id: what stands before a text without context; None: the token that begins a text, else the one that ends it.
      add_bos: put that token before every text; None: as the tokenizer's own file says.
    """

    def __init__(
        self, lm: Any, folders: Sequence[Path], prefix_id: int | None, add_bos: bool | None
    ):
        self._tokenizer, self._template, self._add_bos = lm.tokenizer, lm.template, add_bos
        self._source = "source" in lm.model.inputs
        self._names = {i: name for name, i in lm.tokenizer.special_ids().items()}
        self._library = _library(lm.tokenizer)
        ids = {name: i for i, name in self._names.items()}
        self.end_id: int | None = lm.tokenizer.eos_id
        self.prefix_id = (
            prefix_id if prefix_id is not None else ids.get(_bos_name(folders), self.end_id)
        )

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Ids, with the special tokens of the tokenizer's template if `special`.

        None: if it has them, unless the text begins with the prefix token already; where no file says how, a source gets
        its end token.
        """
        wanted = special
        if wanted is None:
            wanted = self._template if self._add_bos is None else self._add_bos
            prefix = "" if self.prefix_id is None else self.spelt(self.prefix_id)
            wanted = wanted and not (prefix and text.startswith(prefix))
        if self._library is None or not wanted:
            ids = chat_tokens.encoder(self._tokenizer).tokens(text)
        else:
            encoding = self._library.encode(text)
            ids = encoding.ids
            if not self._source:  # what follows comes before the end
                ids = ids[: _without_end(encoding.special_tokens_mask)]
        if wanted and self._add_bos and ids[:1] != [self.prefix_id]:
            ids = [self.prefix_id, *ids]
        untold = special is None and self._source and not (self._template and self._library)
        if untold and self.end_id is not None:
            ids = [*ids, self.end_id]
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without special tokens."""
        known = [token for token in tokens if token < self._tokenizer.vocab_size]
        if self._library is not None:
            return self._library.decode(known, skip_special_tokens=True)
        return self._tokenizer.decode([token for token in known if token not in self._names])

    def spelt(self, token: int) -> str:
        """How a token is written, a special one by its name."""
        return self._names.get(token) or self._tokenizer.decode([token])


def _library(tokenizer: Any) -> Any:
    """The tokenizer as others load it; None where it has no such form."""
    data = getattr(tokenizer, "data", None)
    if data is None:
        return None
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(data.decode("utf-8"))
    library.no_padding()
    library.no_truncation()
    return library


def _without_end(special: Sequence[int]) -> int:
    """How many ids come before the special tokens that end a text."""
    return max((place + 1 for place, one in enumerate(special) if not one), default=len(special))


def _bos_name(folders: Sequence[Path]) -> str | None:
    """The token that begins a text, where a file of the tokenizer's says."""
    for folder in folders:
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (folder / name).is_file():
                bos = json.loads((folder / name).read_bytes()).get("bos_token")
                if bos is not None:
                    return bos["content"] if isinstance(bos, dict) else bos
    return None
