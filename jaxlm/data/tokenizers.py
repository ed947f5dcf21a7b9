"""Text to ids and back: bytes, characters, GPT-2, any tokenizer.json, SentencePiece.

`build` makes the tokenizer that `data.tokenizer` names, `load` gives back what `save` wrote into a
run's directory. Text is only ever text: "<|endoftext|>" inside a document is spelt out, never read
as a special token. Training a vocabulary is in jaxlm/train_tokenizer.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxlm.data import bundled
from jaxlm.registry import nearest

NAMED = ("bytes", "chars", "gpt2")
META_FILE = "tokenizer_meta.json"
# Tried in this order when a tokenizer.json doesn't say which of its special tokens ends a document.
_EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|im_end|>", "[SEP]")


def build(name_or_path: str, texts: Iterable[str] = ()) -> Any:
    """Make the tokenizer that `data.tokenizer` names.

    Args:
      name_or_path: "bytes", "chars", "gpt2", or the path of a tokenizer.json or a SentencePiece
        *.model.
      texts: the corpus; only "chars" reads it, for its alphabet.

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
        return _gpt2()
    where = f"data.tokenizer={name_or_path}"
    if not name_or_path.endswith((".json", ".model")):
        raise ValueError(
            f"{where} is not known{nearest(name_or_path, NAMED)}; accepted: {', '.join(NAMED)}, "
            "or the path of a tokenizer.json or a SentencePiece *.model"
        )
    path = _path(name_or_path)
    if not path.is_file():
        raise ValueError(f"{where}: no such file")
    if name_or_path.endswith(".model"):
        return SentencePieceTokenizer(path.name, path.read_bytes(), where)
    return JsonTokenizer(path.name, path.read_bytes(), _eos_beside(path), where)


def load(directory: Any) -> Any:
    """The tokenizer saved in a directory, or its plain tokenizer.json or tokenizer.model.

    Raises:
      ValueError: there is none, or it isn't the one that was saved.
    """
    directory = _path(directory)
    if not (directory / META_FILE).is_file():
        for file in ("tokenizer.json", "tokenizer.model"):
            if (directory / file).is_file():
                return build(os.fspath(directory / file))
        raise ValueError(f"no tokenizer in {directory}: neither {META_FILE} nor tokenizer.json")
    try:
        meta = json.loads((directory / META_FILE).read_bytes())
        kind, where = meta["kind"], f"tokenizer in {directory}"
        if kind == "chars":
            tokenizer: Any = CharsTokenizer(meta["characters"])
        elif kind == "json":
            data = (directory / "tokenizer.json").read_bytes()
            tokenizer = JsonTokenizer(meta["name"], data, meta["eos"], where)
        elif kind == "sentencepiece":
            data = (directory / "tokenizer.model").read_bytes()
            tokenizer = SentencePieceTokenizer(meta["name"], data, where)
        else:
            tokenizer = {"bytes": BytesTokenizer, "gpt2": _gpt2}[kind]()
        digest = meta["digest"]
    except (KeyError, TypeError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"the tokenizer in {directory} is damaged: {error!r}") from error
    if tokenizer.digest != digest:
        raise ValueError(f"the tokenizer in {directory} is not the one saved: its digest differs")
    return tokenizer


class BytesTokenizer:
    """The 256 UTF-8 bytes, and <eos>."""

    name, vocab_size, eos_id = "bytes", 257, 256
    digest = hashlib.sha256(b"jaxlm bytes 1").hexdigest()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        ids = _checked(ids, self)
        parts = np.split(ids, np.flatnonzero(ids == self.eos_id))
        texts = [
            part[part < 256].astype(np.uint8).tobytes().decode(errors="replace") for part in parts
        ]
        return "<eos>".join(texts)

    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], np.int32)

    def save(self, directory: Any) -> None:
        _write(directory, self, {"kind": "bytes"})


class CharsTokenizer:
    """The characters of one corpus, sorted, then <unk> and <eos>."""

    name = "chars"

    def __init__(self, characters: str):
        if not characters:
            raise ValueError("data.tokenizer=chars needs a text to take its characters from")
        self.characters = characters
        self.vocab_size = len(characters) + 2
        self.unk_id, self.eos_id = len(characters), len(characters) + 1
        self.digest = _sha256(b"jaxlm chars 1", characters.encode("utf-8"))
        codes = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
        self._table = np.full(int(codes.max()) + 2, self.unk_id, np.int32)
        self._table[codes] = np.arange(len(codes))

    def encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self._table[np.minimum(codes, len(self._table) - 1)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        pieces = [*self.characters, "\ufffd", "<eos>"]
        return "".join(pieces[i] for i in _checked(ids, self))

    def token_bytes(self) -> np.ndarray:
        return np.array([len(c.encode("utf-8")) for c in self.characters] + [0, 0], np.int32)

    def save(self, directory: Any) -> None:
        _write(directory, self, {"kind": "chars", "characters": self.characters})


class JsonTokenizer:
    """A `tokenizers` vocabulary as it stands in a tokenizer.json."""

    def __init__(self, name: str, data: bytes, eos: str | None, where: str):
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{where} is not a tokenizer.json: {error}") from error
        added = tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        self._data, self._eos = data, eos
        eos = eos or next((name for name in _EOS_NAMES if name in special), None)
        byte_level = '"ByteLevel"' in json.dumps(json.loads(data).get("pre_tokenizer"))
        self._setup(name, tokenizer, eos, byte_level, where)
        self.digest = _sha256(b"jaxlm json 1", data, str(self.eos_id).encode())

    def _setup(
        self, name: str, tokenizer: Any, eos: str | None, byte_level: bool, where: str
    ) -> None:
        self.name, self._tokenizer, self._byte_level = name, tokenizer, byte_level
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # that is: as the text they are spelt with
        vocab = tokenizer.get_vocab()
        if not vocab:
            raise ValueError(f"{where} has an empty vocabulary")
        if eos is not None and eos not in vocab:
            raise ValueError(f'{where}: its eos_token "{eos}" is not in its vocabulary')
        self.vocab_size = max(vocab.values()) + 1
        self.eos_id = None if eos is None else vocab[eos]

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(_checked(ids, self).tolist(), skip_special_tokens=False)

    def token_bytes(self) -> np.ndarray:
        added = self._tokenizer.get_added_tokens_decoder()
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, i in self._tokenizer.get_vocab().items():
            if i == self.eos_id or (i in added and added[i].special):
                continue
            if i in added:
                sizes[i] = len(token.encode("utf-8"))
            elif self._byte_level:
                sizes[i] = len(token)  # one character stands for a byte
            else:
                sizes[i] = _piece_bytes(token.removeprefix("##"))
        return sizes

    def save(self, directory: Any) -> None:
        meta = {"kind": "json", "name": self.name, "eos": self._eos}
        _write(directory, self, meta, {"tokenizer.json": self._data})


class GPT2Tokenizer(JsonTokenizer):
    """GPT-2's own vocabulary, which the package carries: a run's directory needs no second copy."""

    def __init__(self):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        merges = bundled.read("gpt2-merges").decode("utf-8").split("\n")[1:]
        pairs = [tuple(line.split(" ")) for line in merges if line]
        tokenizer = Tokenizer(models.BPE(json.loads(bundled.read("gpt2-vocab")), pairs))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        self._setup("gpt2", tokenizer, "<|endoftext|>", True, "data.tokenizer=gpt2")
        files = (bundled.entry(name)["sha256"].encode() for name in ("gpt2-vocab", "gpt2-merges"))
        self.digest = _sha256(b"jaxlm gpt2 1", *files)

    def save(self, directory: Any) -> None:
        _write(directory, self, {"kind": "gpt2"})


@functools.cache
def _gpt2() -> GPT2Tokenizer:
    return GPT2Tokenizer()


class SentencePieceTokenizer:
    """A SentencePiece model; what its normaliser drops (line breaks, often) doesn't come back."""

    def __init__(self, name: str, model: bytes, where: str):
        try:
            import sentencepiece
        except ModuleNotFoundError as error:
            raise ValueError(f"{where} needs the sentencepiece package: pip install it") from error
        self.name, self._model = name, model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"{where} is not a SentencePiece model") from error
        self.vocab_size = self._processor.vocab_size()
        eos = self._processor.eos_id()
        self.eos_id = eos if eos >= 0 else None
        self.digest = _sha256(b"jaxlm sentencepiece 1", model)

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._processor.encode(text, out_type=int), np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(i, np.int32) for i in self._processor.encode(list(texts), out_type=int)]

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode(_checked(ids, self).tolist())

    def token_bytes(self) -> np.ndarray:
        sp = self._processor
        sizes = np.zeros(self.vocab_size, np.int32)
        for i in range(self.vocab_size):
            if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i)):
                sizes[i] = 1 if sp.is_byte(i) else _piece_bytes(sp.id_to_piece(i))
        return sizes

    def save(self, directory: Any) -> None:
        meta = {"kind": "sentencepiece", "name": self.name}
        _write(directory, self, meta, {"tokenizer.model": self._model})


def _sha256(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _piece_bytes(piece: str) -> int:
    """UTF-8 bytes of a piece that writes a space as U+2581 and a raw byte as <0xHH>."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return 1
    return len(piece.replace("\u2581", " ").encode("utf-8"))


def _checked(ids: Iterable[int], tokenizer: Any) -> np.ndarray:
    array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64).reshape(-1)
    if len(array) and (array.min() < 0 or array.max() >= tokenizer.vocab_size):
        wrong = array[(array < 0) | (array >= tokenizer.vocab_size)][0]
        raise ValueError(
            f"{tokenizer.name} has no id {wrong}; accepted: 0 to {tokenizer.vocab_size - 1}"
        )
    return array


def _path(path: Any) -> Any:
    from etils import epath

    return epath.Path(path)


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


def _write(
    directory: Any, tokenizer: Any, meta: dict, files: dict[str, bytes] | None = None
) -> None:
    directory = _path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in (files or {}).items():
        (directory / name).write_bytes(data)
    text = json.dumps({**meta, "digest": tokenizer.digest}, ensure_ascii=False)
    (directory / META_FILE).write_bytes(text.encode("utf-8"))
