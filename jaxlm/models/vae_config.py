"""What a variational auto-encoder's config says: two recurrent networks, the latent between them, and what of the input is dropped."""

from __future__ import annotations

import dataclasses

from jaxlm.layers.model_config import DTYPES, ModelConfig
from jaxlm.layers.recurrent import CELLS
from jaxlm.layers.text_encoder import POOLINGS

CONDITIONS = ("state", "inputs", "both")


@dataclasses.dataclass(frozen=True)
class VAEConfig(ModelConfig):
    """An LSTM that reads and an LSTM that writes; the paper's has pooling="last".

    Attributes:
      cell: of both: rnn, gru or lstm.
      num_layers: of the decoder; the encoder has one.
      d_model: width of the vectors of tokens; encoder and decoder have tables of their own.
      d_hidden: of the decoder's states. The weaker the decoder, the more it asks z.
      d_encoder: of the encoder's states.
      d_latent: Z.
      pooling: how a text's states become one vector: its last one, their mean or their maximum (Long et al. 2019,
        arXiv:1911.03976, whose posteriors collapse less).
      condition: how the decoder is told z: as its first states, with the vector of every token, or both.
      word_dropout: share of the tokens that the decoder reads in training as one vector for "unknown" (the paper's section 3.1).
    """

    cell: str = "lstm"
    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 128  # tables are padded to it; padding never enters a loss or a sample
    num_layers: int = 1
    d_model: int = 128
    d_hidden: int = 256
    d_encoder: int = 256
    d_latent: int = 32
    pooling: str = "max"
    condition: str = "both"
    word_dropout: float = 0.0
    dropout: float = 0.0  # of what the decoder's layers and head read
    forget_bias: float = 1.0  # that the LSTM's forget gates begin with
    init_std: float = 0.1  # of embeddings, head and posterior
    max_len: int = 1024  # of texts that are written or scored; no weight depends on it
    loss_chunk: int = 0  # tokens whose logits exist at once; 0: as many as fit in 1 GiB, else 8192
    dtype: str = "auto"  # of products; auto: bfloat16 on an accelerator, float32 on CPU

    def __post_init__(self):
        self.check_choices(cell=tuple(CELLS), pooling=POOLINGS, condition=CONDITIONS, dtype=DTYPES)
        least = ("vocab_multiple", "num_layers", "d_model", "d_hidden", "d_encoder", "max_len")
        self.check_least(**dict.fromkeys((*least, "d_latent"), 1), vocab_size=0, loss_chunk=0)
        self.check_rates("word_dropout", "dropout")
