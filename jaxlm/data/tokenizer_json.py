"""A tokenizer as a tokenizer.json, which other tools load.

The reverse, reading one, is `subword_tokenizers.JsonTokenizer`.
"""

from __future__ import annotations

from typing import Any

from jaxlm.data.special_tokens import Extended
from jaxlm.data.spelling import HIDDEN_BYTES
from jaxlm.data.subword_tokenizers import GPT2Tokenizer, JsonTokenizer
from jaxlm.data.tokenizers import BytesTokenizer, CharsTokenizer


def to_json(tokenizer: Any) -> bytes | None:
    """The file's content, or None for a tokenizer that has no such form (SentencePiece).

    Texts are encoded to the same ids. As everywhere outside jaxlm, a special token that is spelt
    out in a text is then read as that token, unless `encode_special_tokens` is set.

    Raises:
      ValueError: special tokens were appended to a vocabulary whose ids have gaps.
    """
    if isinstance(tokenizer, Extended):
        data = to_json(tokenizer.base)
        return None if data is None else _extended(data, tokenizer)
    if isinstance(tokenizer, GPT2Tokenizer):
        return _finished(tokenizer.tokenizer(), tokenizer.special_ids())
    if isinstance(tokenizer, JsonTokenizer):
        return tokenizer.data
    if isinstance(tokenizer, BytesTokenizer):
        return _bytes(tokenizer)
    if isinstance(tokenizer, CharsTokenizer):
        return _chars(tokenizer)
    return None


def _bytes(tokenizer: Any) -> bytes:
    """Byte-level BPE with no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    shown = [chr(byte) for byte in range(256)]
    for number, byte in enumerate(HIDDEN_BYTES):
        shown[byte] = chr(256 + number)
    vocab = {character: byte for byte, character in enumerate(shown)}
    result = Tokenizer(models.BPE(vocab | tokenizer.special_ids(), []))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    result.decoder = decoders.ByteLevel()
    return _finished(result, tokenizer.special_ids())


def _chars(tokenizer: Any) -> bytes:
    """BPE over characters, with no merges."""
    from tokenizers import Tokenizer, decoders, models

    vocab = {character: number for number, character in enumerate(tokenizer.characters)}
    result = Tokenizer(models.BPE(vocab | tokenizer.special_ids(), [], unk_token="<unk>"))
    result.decoder = decoders.Fuse()
    return _finished(result, tokenizer.special_ids())


def _finished(result: Any, special_ids: dict[str, int]) -> bytes:
    result.add_special_tokens(sorted(special_ids, key=special_ids.get))
    return result.to_str().encode("utf-8")


def _extended(data: bytes, tokenizer: Extended) -> bytes:
    import tokenizers

    result = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    result.add_special_tokens(list(tokenizer.names))
    ids = {name: result.token_to_id(name) for name in tokenizer.names}
    if ids != {name: tokenizer.special_ids()[name] for name in tokenizer.names}:
        raise ValueError(
            f"{tokenizer.name}: its ids have gaps, so a tokenizer.json can't say that the special "
            f"tokens {', '.join(tokenizer.names)} follow them"
        )
    return result.to_str().encode("utf-8")
