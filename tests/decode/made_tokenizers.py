"""A small tokenizer of every kind, for tests of what is written with them."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers as library
from tokenizers import decoders, models, pre_tokenizers

from jaxlm.data import bundled, special_tokens, tokenizers

MIXED = "Hello, 世界! naïve é 🙂"


def sentencepiece_model(folder: Path, **how) -> Path:
    """A SentencePiece model with 400 pieces of Shakespeare."""
    import sentencepiece

    folder.mkdir()
    (folder / "in.txt").write_bytes(bundled.read("shakespeare")[:30_000])
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "in.txt"), model_prefix=str(folder / "m"), vocab_size=400,
        minloglevel=2, **how,
    )  # fmt: skip
    return folder / "m.model"


def wordpiece():
    """As BERT's: a word begins with a space unless it begins the text."""
    vocab = ["[UNK]", "[SEP]", "un", "##do", "it", ".", "##s", "cap", "a", "##a", "##t"]
    made = library.Tokenizer(models.WordPiece({p: i for i, p in enumerate(vocab)}, unk_token="[UNK]"))  # fmt: skip
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made.add_special_tokens(vocab[:2])
    return of(made, "wordpiece")


def unigram(llama: bool):
    """As Llama 2's, with every byte and a decoder that strips one space; or T5's, without bytes."""
    raw = [(f"<0x{i:02X}>", -9.0) for i in range(256)] if llama else []
    words = [("▁", -2.0), ("▁a", -2.1), ("a", -3.0), ("b", -3.0), ("é", -4.0), ("▁▁", -4.0)]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *raw, *words]
    made = library.Tokenizer(models.Unigram(pieces, 0, byte_fallback=llama))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    if llama:
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        made.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(["<unk>", "</s>"])
    return of(made, "llama" if llama else "t5")


def of(made: library.Tokenizer, name: str):
    """Our tokenizer of a library's."""
    return tokenizers.JsonTokenizer(name, made.to_str().encode(), None, name)


def every_kind(folder: Path) -> list:
    """Byte-level ones and those with all bytes first."""
    sp = sentencepiece_model(folder / "bytes", byte_fallback=True)
    strict = sentencepiece_model(folder / "strict", remove_extra_whitespaces=False, byte_fallback=True)  # fmt: skip
    with_bytes = [tokenizers.build(str(path)) for path in (sp, strict)]
    return [
        tokenizers.build("bytes"),
        tokenizers.build("gpt2"),
        special_tokens.with_special_tokens(tokenizers.build("gpt2"), ["[MASK]"]),
        *with_bytes,
        unigram(llama=True),
        tokenizers.build(str(sentencepiece_model(folder / "without"))),
        unigram(llama=False),
        wordpiece(),
        tokenizers.build("chars", [MIXED + 'abcdeinorst 0123456789.{}[]:,"']),
    ]


def dependent():
    """A vocabulary whose decoder writes a word otherwise at the end of a text (as GPT-1's does)."""
    made = {"model": {"type": "BPE", "vocab": {"a": 0, "b</w>": 1}, "merges": []}}
    made["decoder"] = {"type": "BPEDecoder", "suffix": "</w>"}
    return tokenizers.JsonTokenizer("gpt1", json.dumps(made).encode(), None, "gpt1")
