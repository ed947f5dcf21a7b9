"""Byte-level BPE trained on one's own text: what `data.tokenizer=bpe:N` and train_tokenizer.py make.

Words are split as GPT-2's are, so any text in any script comes back byte for byte. Which text it is
trained on is for corpus.py and train_tokenizer.py to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PREFIX = "bpe:"
EOS = "<|endoftext|>"
MIN_SIZE = 257
"""The 256 bytes and EOS."""


def size(name: str) -> int:
    """The N of "bpe:N".

    Raises:
      ValueError: no whole number, or too small a one.
    """
    number = name.removeprefix(PREFIX)
    if not (number.isascii() and number.isdigit()) or int(number) < MIN_SIZE:
        raise ValueError(
            f"data.tokenizer={name}: expected bpe:N, as in bpe:8000, with N at least {MIN_SIZE}: "
            f"256 bytes and {EOS}"
        )
    return int(number)


def train(
    texts: Iterable[str], num_ids: int, min_frequency: int = 2, show_progress: bool = False
) -> Any:
    """A `tokenizers.Tokenizer`; the same texts give the same one.

    Args:
      texts: pieces, none of which splits a word.
      num_ids: entries wanted: <|endoftext|>, which is id 0, the bytes, and merges; few texts give
        fewer.
      min_frequency: a pair seen less often is not merged.
      show_progress: on the terminal.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_ids,
        min_frequency=min_frequency,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_named(name: str, texts: Iterable[str]) -> bytes:
    """The tokenizer.json of "bpe:N", with exactly N ids.

    Raises:
      ValueError: the texts give fewer.
    """
    wanted = size(name)
    tokenizer = train(texts, wanted)
    given = tokenizer.get_vocab_size()
    if given != wanted:
        raise ValueError(
            f"data.tokenizer={name}: the training text gives {given} ids only (a pair of tokens must "
            f"come twice to be merged): take {PREFIX}{given} or fewer"
        )
    return tokenizer.to_str(pretty=True).encode("utf-8")
