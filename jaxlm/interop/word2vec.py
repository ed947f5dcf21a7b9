"""Vectors of words in files: word2vec's text and binary formats (fastText's .vec is the first), GloVe's text, arrays of numpy.

Not for models that go on training: such files hold one table, no output vectors, counts or n-grams.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm import registry

TEXT, BINARY, ARRAY = (".txt", ".vec"), (".bin",), (".npy",)
_FASTTEXT_MODEL = 793712314  # the first four bytes of fastText's own model files
_LONGEST_WORD = 1 << 16  # bytes
_log = logging.getLogger(__name__)


class WordTable(NamedTuple):
    """Different words, and a vector of each."""

    words: list[str]
    vectors: np.ndarray  # float32 [V, D]


def is_file(path: Any) -> bool:
    """Whether `read` is the one to ask, by the end of the name."""
    return str(path).endswith((*TEXT, *BINARY, *ARRAY))


def read(path: Any, words: Any = "") -> WordTable:
    """The vectors of a file; of a word that stands twice the first.

    Args:
      path: *.txt, *.vec (text, with word2vec's header or without as GloVe's), *.bin (word2vec's binary) or *.npy.
      words: of *.npy: a *.parquet file with one column of words, or a text file with a word a line.

    Raises:
      ValueError: no such file, or it is torn or of another form; file, line or word are named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix in ARRAY:
        found = _read_array(path, words)
    elif path.suffix in BINARY:
        found = _read_binary(path)
    elif path.suffix in TEXT:
        found = _read_text(path)
    else:
        raise ValueError(f"{path}: expected {', '.join((*TEXT, *BINARY, *ARRAY))}")
    if not len(found.words):
        raise ValueError(f"{path} holds no word")
    return _first_of_each(path, found)


def write(path: Any, table: WordTable) -> None:
    """Write a file that `read`, gensim and word2vec's own tools read: text (*.txt, *.vec, with a header) or binary (*.bin).

    Raises:
      ValueError: another end of the name, or a word that the format can't hold.
    """
    path = Path(path)
    if path.suffix not in (*TEXT, *BINARY):
        raise ValueError(f"{path}: expected a name with {', '.join((*TEXT, *BINARY))}")
    for word in table.words:
        if not word or word.split() != [word]:
            raise ValueError(
                f"{path}: the word {word!r} is empty or has a space in it: the format has none"
            )
    vectors = np.ascontiguousarray(table.vectors, "<f4")
    with open(path, "wb") as file:
        file.write(b"%d %d\n" % vectors.shape)
        for word, vector in zip(table.words, vectors, strict=True):
            file.write(word.encode("utf-8"))
            if path.suffix in BINARY:
                file.write(b" " + vector.tobytes() + b"\n")
            else:  # nine digits give every float32 back
                file.write("".join(f" {value:.9g}" for value in vector.tolist()).encode() + b"\n")


def _read_text(path: Path) -> WordTable:
    words: list[str] = []
    vectors: list[np.ndarray] = []
    expected, width = -1, 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if number == 1 and len(fields) == 2 and all(one.isdigit() for one in fields):
                expected, width = int(fields[0]), int(fields[1])
                continue
            if not fields:
                continue
            width = width or len(fields) - 1
            word, vector = _parsed(line, width, f"{path} line {number}")
            words.append(word)
            vectors.append(vector)
    if expected >= 0 and len(words) != expected:
        raise ValueError(f"{path}: its header says {expected} words, and it holds {len(words)}")
    return WordTable(words, np.stack(vectors) if vectors else np.zeros((0, width), np.float32))


def _parsed(line: bytes, width: int, where: str) -> tuple[str, np.ndarray]:
    """The word of a line, which may have spaces in it, and the numbers behind it."""
    try:
        word, *numbers = line.decode("utf-8").rstrip().rsplit(" ", width)
        vector = np.array(numbers, np.float32)
    except ValueError as error:
        raise ValueError(f"{where}: expected a word and {width} numbers ({error})") from None
    if len(vector) != width or not width or not word:
        raise ValueError(f"{where}: {len(numbers)} numbers behind a word, expected {width}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{where}: the vector of {word!r} is not finite")
    return word, vector


def _read_binary(path: Path) -> WordTable:
    data = path.read_bytes()
    if len(data) >= 4 and int.from_bytes(data[:4], "little") == _FASTTEXT_MODEL:
        raise ValueError(
            f"{path} is a model of fastText's own, not word2vec's binary format: its .vec file is read here"
        )
    end = data.find(b"\n", 0, 100)
    header = data[:end].split() if end >= 0 else []
    if len(header) != 2 or not all(one.isdigit() for one in header):
        raise ValueError(
            f"{path}: it does not begin with the number of words and the width of a vector"
        )
    count, width = map(int, header)
    words, vectors = [], np.empty((count, width), np.float32)
    place = end + 1
    for number in range(count):
        space = data.find(b" ", place, place + _LONGEST_WORD)
        begin = space + 1
        if space < 0 or begin + 4 * width > len(data):
            raise ValueError(
                f"{path} is torn: its header says {count} words of {width} numbers, and word {number + 1} is not whole"
            )
        try:
            words.append(data[place:space].lstrip(b"\n").decode("utf-8"))
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}: word {number + 1} is no UTF-8: a width other than {width}?"
            ) from None
        place = begin + 4 * width
        vectors[number] = np.frombuffer(data, "<f4", width, begin)
    if data[place:].strip(b"\n"):
        raise ValueError(
            f"{path}: {len(data) - place} bytes behind the {count} words that its header says: a width other than {width}?"
        )
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path}: a vector is not finite")
    return WordTable(words, vectors)


def _read_array(path: Path, words: Any) -> WordTable:
    if not words:
        raise ValueError(f"{path} has no words in it: name the file that has (--words)")
    words = Path(words)
    if not words.is_file():
        raise ValueError(f"--words {words}: no such file")
    try:
        vectors = np.load(path)
    except ValueError as error:
        raise ValueError(f"{path} is no array of numpy's ({error})") from None
    if words.suffix == ".parquet":
        columns = registry.need("pyarrow.parquet", "hf").read_table(words).columns
        names = columns[0].to_pylist()
    else:
        names = words.read_text(encoding="utf-8").splitlines()
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise ValueError(f"{path} has shape {vectors.shape}, and {words} {len(names)} words")
    return WordTable(names, np.asarray(vectors, np.float32))


def _first_of_each(path: Path, table: WordTable) -> WordTable:
    first: dict[str, int] = {}
    for number, word in enumerate(table.words):
        first.setdefault(word, number)
    if len(first) == len(table.words):
        return table
    _log.warning(
        "%s: %d words stand there twice; the first counts", path, len(table.words) - len(first)
    )
    return WordTable(list(first), table.vectors[list(first.values())])
