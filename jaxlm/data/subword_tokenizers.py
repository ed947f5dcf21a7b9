"""Vocabularies that others made: a tokenizer.json, GPT-2's, a SentencePiece model.

And what all tokenizers share: checking ids, digests, the files of a saved one. Which of them a
config names is for tokenizers.py to say.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxlm.data import bundled, chat_templates, spelling

META_FILE = "tokenizer_meta.json"
# Special wherever a vocabulary has them, even if its file doesn't say so.
_KNOWN_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>")
# Tried in this order when a tokenizer.json doesn't say which of its special tokens ends a document.
_EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|im_end|>", "[SEP]")


class JsonTokenizer:
    """A `tokenizers` vocabulary as it stands in a tokenizer.json."""

    def __init__(self, name: str, data: bytes, eos: str | None, where: str):
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises bare Exception, and panics below that
            raise ValueError(f"{where} is not a tokenizer.json: {error}") from error
        added = tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        self.data, self._eos = data, eos
        eos = eos or next((name for name in _EOS_NAMES if name in special), None)
        byte_level = '"ByteLevel"' in json.dumps(json.loads(data).get("pre_tokenizer"))
        self._setup(name, tokenizer, eos, byte_level, where)
        self.digest = sha256(b"jaxlm json 1", data, str(self.eos_id).encode())

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

    def offsets(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(checked(ids, self).tolist(), skip_special_tokens=False)

    def token_bytes(self) -> np.ndarray:
        added = self._tokenizer.get_added_tokens_decoder()
        special = set(self.special_ids().values())
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, i in self._tokenizer.get_vocab().items():
            if i in special:
                continue
            if i in added:
                sizes[i] = len(token.encode("utf-8"))
            elif self._byte_level:
                sizes[i] = len(token)  # one character stands for a byte
            else:
                sizes[i] = _piece_bytes(token.removeprefix("##"))
        return sizes

    def special_ids(self) -> dict[str, int]:
        vocab = self._tokenizer.get_vocab()
        added = self._tokenizer.get_added_tokens_decoder().items()
        found = {name: vocab[name] for name in _KNOWN_SPECIAL if name in vocab}
        found |= {token.content: i for i, token in added if token.special}
        if self.eos_id is not None:
            found[self._tokenizer.id_to_token(self.eos_id)] = self.eos_id
        return found

    def pieces(self) -> list[str]:
        model = self._tokenizer.model
        prefix = getattr(model, "continuing_subword_prefix", None) or ""
        continues = prefix if type(model).__name__ == "WordPiece" else None
        special = set(self.special_ids().values())
        pieces = [""] * self.vocab_size
        for token, i in self._tokenizer.get_vocab().items():
            if i in special:
                continue
            if self._byte_level:
                pieces[i] = spelling.byte_level(token).decode("utf-8", "replace")
            elif continues is None:
                pieces[i] = _surface(token)
            elif token.startswith(continues):
                pieces[i] = token.removeprefix(continues)
            else:
                pieces[i] = f" {token}"
        return pieces

    def spellings(self, begins: bool) -> Sequence[bytes]:
        special = set(self.special_ids().values())
        vocab = {t: i for t, i in self._tokenizer.get_vocab().items() if i not in special}
        if self._byte_level:
            return spelling.in_order(
                {i: spelling.byte_level(token) for token, i in vocab.items()}, self.vocab_size
            )
        raw = {}
        if b'"ByteFallback"' in getattr(self, "data", b""):
            raw = {i: bytes([int(t[3:5], 16)]) for t, i in vocab.items() if _is_raw_byte(t)}
        decode = functools.partial(self._tokenizer.decode_batch, skip_special_tokens=False)
        found = spelling.by_decoding(decode, vocab.values(), raw, begins, self.name)
        return spelling.in_order(found, self.vocab_size)

    def save(self, directory: Any) -> None:
        meta = {"kind": "json", "name": self.name, "eos": self._eos}
        write(directory, self, meta, {"tokenizer.json": self.data})


class GPT2Tokenizer(JsonTokenizer):
    """GPT-2's own vocabulary, which the package carries: a run's directory needs no second copy."""

    def __init__(self):
        self._setup("gpt2", self.tokenizer(), "<|endoftext|>", True, "data.tokenizer=gpt2")
        files = (bundled.entry(name)["sha256"].encode() for name in ("gpt2-vocab", "gpt2-merges"))
        self.digest = sha256(b"jaxlm gpt2 1", *files)

    @staticmethod
    def tokenizer() -> Any:
        """A `tokenizers.Tokenizer` made from the published files."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        merges = bundled.read("gpt2-merges").decode("utf-8").split("\n")[1:]
        pairs = [tuple(line.split(" ")) for line in merges if line]
        tokenizer = Tokenizer(models.BPE(json.loads(bundled.read("gpt2-vocab")), pairs))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def save(self, directory: Any) -> None:
        write(directory, self, {"kind": "gpt2"})


@functools.cache
def gpt2() -> GPT2Tokenizer:
    """The one copy of it."""
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
        self.digest = sha256(b"jaxlm sentencepiece 1", model)

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._processor.encode(text, out_type=int), np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(i, np.int32) for i in self._processor.encode(list(texts), out_type=int)]

    def offsets(self, text: str) -> np.ndarray:
        found = self._processor.encode(text, out_type="immutable_proto").pieces
        return np.array([(piece.begin, piece.end) for piece in found])

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode(checked(ids, self).tolist())

    def token_bytes(self) -> np.ndarray:
        sp = self._processor
        sizes = np.zeros(self.vocab_size, np.int32)
        for i in range(self.vocab_size):
            if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i)):
                sizes[i] = 1 if sp.is_byte(i) else _piece_bytes(sp.id_to_piece(i))
        return sizes

    def special_ids(self) -> dict[str, int]:
        sp = self._processor
        special = (i for i in range(len(sp)) if sp.is_control(i) or sp.is_unknown(i))
        return {sp.id_to_piece(i): i for i in special}

    def pieces(self) -> list[str]:
        special = set(self.special_ids().values())
        all_pieces = map(self._processor.id_to_piece, range(self.vocab_size))
        return ["" if i in special else _surface(p) for i, p in enumerate(all_pieces)]

    def spellings(self, begins: bool) -> Sequence[bytes]:
        sp, special = self._processor, set(self.special_ids().values())
        ids = [i for i in range(self.vocab_size) if i not in special]
        raw = {i: bytes([int(sp.id_to_piece(i)[3:5], 16)]) for i in ids if sp.is_byte(i)}
        found = spelling.by_decoding(sp.decode, ids, raw, begins, self.name)
        return spelling.in_order(found, self.vocab_size)

    def save(self, directory: Any) -> None:
        meta = {"kind": "sentencepiece", "name": self.name}
        write(directory, self, meta, {"tokenizer.model": self._model})


def sha256(*parts: bytes) -> str:
    """A digest that also depends on where one part ends and the next begins."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _surface(piece: str) -> str:
    """A piece as it reads, a space for U+2581; a raw byte as U+FFFD."""
    return "\ufffd" if _is_raw_byte(piece) else piece.replace("\u2581", " ")


def _is_raw_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _piece_bytes(piece: str) -> int:
    """UTF-8 bytes of a piece that writes a space as U+2581 and a raw byte as <0xHH>."""
    return 1 if _is_raw_byte(piece) else len(piece.replace("\u2581", " ").encode("utf-8"))


def checked(ids: Iterable[int], tokenizer: Any) -> np.ndarray:
    """Ids as int64 [N].

    Raises:
      ValueError: one that the tokenizer doesn't have.
    """
    array = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), np.int64).reshape(-1)
    if len(array) and (array.min() < 0 or array.max() >= tokenizer.vocab_size):
        wrong = array[(array < 0) | (array >= tokenizer.vocab_size)][0]
        raise ValueError(
            f"{tokenizer.name} has no id {wrong}; accepted: 0 to {tokenizer.vocab_size - 1}"
        )
    return array


def open_path(path: Any) -> Any:
    """A local path or a bucket's."""
    from etils import epath

    return epath.Path(path)


def write(
    directory: Any, tokenizer: Any, meta: dict, files: dict[str, bytes] | None = None
) -> None:
    """Save a tokenizer's files, its chat template, and the meta file that `load` reads."""
    directory = open_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if (template := chat_templates.of(tokenizer)) is not None:
        chat_templates.save(template, directory)
    else:
        (directory / chat_templates.FILE).unlink(missing_ok=True)  # of another tokenizer
    for name, data in (files or {}).items():
        (directory / name).write_bytes(data)
    text = json.dumps({**meta, "digest": tokenizer.digest}, ensure_ascii=False)
    (directory / META_FILE).write_bytes(text.encode("utf-8"))


def saved_meta(directory: Any) -> dict[str, Any]:
    """What `write` last recorded in a directory."""
    return json.loads((open_path(directory) / META_FILE).read_bytes())
