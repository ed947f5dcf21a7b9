"""Text to ids and back: bytes, characters, words, BPE, GPT-2, any tokenizer.json, SentencePiece.

`build` makes the tokenizer that `data.tokenizer` names, `load` gives back what `save` wrote into a
run's directory. Text is only ever text: "<|endoftext|>" inside a document is spelt out, never read
as a special token. Appending special tokens is in special_tokens.py, writing a tokenizer.json in
tokenizer_json.py, training a vocabulary in bpe.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxlm.data import bpe, chat_templates, special_tokens, word_tokenizer
from jaxlm.data.subword_tokenizers import (
    META_FILE,
    JsonTokenizer,
    SentencePieceTokenizer,
    checked,
    gpt2,
    open_path,
    saved_meta,
    sha256,
    write,
)
from jaxlm.registry import nearest

NAMED = ("bytes", "chars", "gpt2", "bpe:8000", "words:30000")


def made_of_text(name: str) -> bool:
    """Whether a vocabulary of this name is made of the data themselves."""
    return name == "chars" or name.startswith((bpe.PREFIX, word_tokenizer.PREFIX))


def build(name_or_path: str, texts: Iterable[str] = ()) -> Any:
    """Make the tokenizer that `data.tokenizer` names.

    Args:
      name_or_path: "bytes", "chars", "gpt2", "bpe:N", "words:N", or the path of a tokenizer.json, of a
        SentencePiece *.model or of a folder that holds one (see `load`).
      texts: the corpus; only "chars" reads it, for its alphabet, "bpe:N", for its merges, and
        "words:N", for its words.

    Returns:
      A `core.types.Tokenizer` that also has `encode_batch`.

    Raises:
      ValueError: no such tokenizer, or the file isn't one.
    """
    if name_or_path == "bytes":
        return BytesTokenizer()
    if name_or_path == "chars":
        return CharsTokenizer("".join(sorted(set().union(*texts))))
    if name_or_path == "gpt2":
        return gpt2()
    if name_or_path.startswith(bpe.PREFIX):
        return trained(name_or_path, bpe.train_named(name_or_path, texts))
    if word_tokenizer.is_named(name_or_path):
        words = word_tokenizer.most_frequent(name_or_path, texts)
        return word_tokenizer.WordTokenizer(name_or_path, words)
    where = f"data.tokenizer={name_or_path}"
    if open_path(name_or_path).is_dir():
        return load(name_or_path)
    if not name_or_path.endswith((".json", ".model")):
        raise ValueError(
            f"{where} is not known{nearest(name_or_path, NAMED)}; accepted: {', '.join(NAMED)}, "
            "init_from, or the path of a tokenizer.json, of a SentencePiece *.model or of a folder with one"
        )
    path = open_path(name_or_path)
    if not path.is_file():
        raise ValueError(f"{where}: no such file")
    if name_or_path.endswith(".model"):
        tokenizer = SentencePieceTokenizer(path.name, path.read_bytes(), where)
    else:
        tokenizer = JsonTokenizer(path.name, path.read_bytes(), _eos_beside(path), where)
    return chat_templates.attached(tokenizer, chat_templates.read(path.parent))


def trained(name: str, data: bytes) -> JsonTokenizer:
    """The tokenizer "bpe:N" whose tokenizer.json `bpe.train_named` gave."""
    return JsonTokenizer(name, data, bpe.EOS, f"data.tokenizer={name}")


def load(directory: Any) -> Any:
    """The tokenizer saved in a directory, or its plain tokenizer.json or tokenizer.model, with its chat template.

    Raises:
      ValueError: there is none, or it isn't the one that was saved.
    """
    directory = open_path(directory)
    if not (directory / META_FILE).is_file():
        for file in ("tokenizer.json", "tokenizer.model"):
            if (directory / file).is_file():
                return build(os.fspath(directory / file))
        raise ValueError(f"no tokenizer in {directory}: neither {META_FILE} nor tokenizer.json")
    try:
        meta = saved_meta(directory)
        tokenizer = _from_meta(meta, directory)
        digest = meta["digest"]
    except (KeyError, TypeError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"the tokenizer in {directory} is damaged: {error!r}") from error
    if tokenizer.digest != digest:
        raise ValueError(f"the tokenizer in {directory} is not the one saved: its digest differs")
    return chat_templates.attached(tokenizer, chat_templates.read(directory))


def _from_meta(meta: dict[str, Any], directory: Any) -> Any:
    kind, where = meta["kind"], f"tokenizer in {directory}"
    if kind == "extended":
        return special_tokens.Extended(_from_meta(meta["base"], directory), meta["names"])
    if kind == "chars":
        return CharsTokenizer(meta["characters"])
    if kind == "words":
        return word_tokenizer.WordTokenizer(meta["name"], meta["words"])
    if kind == "json":
        data = (directory / "tokenizer.json").read_bytes()
        return JsonTokenizer(meta["name"], data, meta["eos"], where)
    if kind == "sentencepiece":
        data = (directory / "tokenizer.model").read_bytes()
        return SentencePieceTokenizer(meta["name"], data, where)
    return {"bytes": BytesTokenizer, "gpt2": gpt2}[kind]()


class BytesTokenizer:
    """The 256 UTF-8 bytes, and <eos>."""

    name, vocab_size, eos_id = "bytes", 257, 256
    digest = hashlib.sha256(b"jaxlm bytes 1").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def offsets(self, text: str) -> np.ndarray:
        places = np.repeat(np.arange(len(text)), [len(one.encode("utf-8")) for one in text])
        return np.stack([places, places + 1], 1)

    def decode(self, ids: Iterable[int]) -> str:
        ids = checked(ids, self)
        parts = np.split(ids, np.flatnonzero(ids == self.eos_id))
        texts = [
            part[part < 256].astype(np.uint8).tobytes().decode(errors="replace") for part in parts
        ]
        return "<eos>".join(texts)

    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], np.int32)

    def special_ids(self) -> dict[str, int]:
        return {"<eos>": 256}

    def pieces(self) -> list[str]:
        return [chr(i) for i in range(128)] + ["\ufffd"] * 128 + [""]

    def spellings(self, begins: bool) -> Sequence[bytes]:
        return [bytes([i]) for i in range(256)] + [b""]

    def save(self, directory: Any) -> None:
        write(directory, self, {"kind": "bytes"})


class CharsTokenizer:
    """The characters of one corpus, sorted, then <unk> and <eos>."""

    name = "chars"

    def __init__(self, characters: str):
        if not characters:
            raise ValueError("data.tokenizer=chars needs a text to take its characters from")
        self.characters = characters
        self.vocab_size = len(characters) + 2
        self.unk_id, self.eos_id = len(characters), len(characters) + 1
        self.digest = sha256(b"jaxlm chars 1", characters.encode("utf-8"))
        codes = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
        self._table = np.full(int(codes.max()) + 2, self.unk_id, np.int32)
        self._table[codes] = np.arange(len(codes))

    def encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self._table[np.minimum(codes, len(self._table) - 1)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def offsets(self, text: str) -> np.ndarray:
        places = np.arange(len(text))
        return np.stack([places, places + 1], 1)

    def decode(self, ids: Iterable[int]) -> str:
        pieces = [*self.characters, "\ufffd", "<eos>"]
        return "".join(pieces[i] for i in checked(ids, self))

    def token_bytes(self) -> np.ndarray:
        return np.array([len(c.encode("utf-8")) for c in self.characters] + [0, 0], np.int32)

    def special_ids(self) -> dict[str, int]:
        return {"<unk>": self.unk_id, "<eos>": self.eos_id}

    def pieces(self) -> list[str]:
        return [*self.characters, "", ""]

    def spellings(self, begins: bool) -> Sequence[bytes]:
        return [character.encode("utf-8") for character in self.characters] + [b"", b""]

    def save(self, directory: Any) -> None:
        write(directory, self, {"kind": "chars", "characters": self.characters})


def _eos_beside(path: Any) -> str | None:
    """The `eos_token` of the tokenizer_config.json in the same folder, where there is one."""
    config = path.parent / "tokenizer_config.json"
    if not config.is_file():
        return None
    try:
        eos = json.loads(config.read_bytes()).get("eos_token")
        return eos["content"] if isinstance(eos, dict) else eos
    except (AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{config} beside data.tokenizer is not readable: {error!r}") from error
