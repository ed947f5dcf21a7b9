"""The part of a config that says what small models begin with, a table of embeddings, and checks that they share.

Not for transformers (transformer_config.py), nor for recurrent language models (recurrent_config.py).
"""

from __future__ import annotations

import dataclasses

from jaxlm.layers.model_config import DTYPES, ModelConfig


@dataclasses.dataclass(frozen=True)
class TableConfig(ModelConfig):
    """A table with a row of `d_model` numbers for each token."""

    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 128  # tables are padded to it; padding never enters a loss or a sample
    d_model: int = 256  # of embeddings
    max_len: int = 512  # of texts; no weight depends on it
    init_std: float = 0.1  # of embeddings
    dropout: float = 0.0
    dtype: str = "auto"  # of products; auto: bfloat16 on an accelerator, float32 on CPU

    def __post_init__(self):
        self.check_choices(dtype=DTYPES)
        self.check_least(vocab_size=0, vocab_multiple=1, d_model=1, max_len=1, init_std=0)
        self.check_rates("dropout")
