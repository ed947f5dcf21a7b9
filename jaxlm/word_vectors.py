"""Vectors of words, of a run of ours or of a file, ready to be asked: `load(path).neighbours("king")`."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlm import api
from jaxlm.core.partition import flatten
from jaxlm.data import subwords
from jaxlm.eval.word_vectors import Vectors
from jaxlm.interop import word2vec

KIND = "word_vectors"


def load(path: Any, words: Any = "") -> Vectors:
    """The vectors of a run with model.kind="word_vectors", or of a file (interop/word2vec.py); see `Vectors.of_tables`.

    Args:
      path: a run's folder, or *.txt, *.vec, *.bin, *.npy.
      words: of *.npy, the file with its words.

    Raises:
      ValueError: neither, or a run of another model.
    """
    if word2vec.is_file(path):
        return Vectors(*word2vec.read(path, words))
    lm = api.load(path)
    if lm.config.model.kind != KIND:
        raise ValueError(
            f'{path} is a run of model.kind="{lm.config.model.kind}": words have vectors in one of "{KIND}"'
        )
    tables = {name: np.asarray(table) for name, table in flatten(lm.params).items()}
    pieces = subwords.finder(lm.config.data) if lm.config.model.num_buckets else None
    return Vectors.of_tables(lm.tokenizer.words, tables, pieces)
