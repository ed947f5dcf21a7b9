"""The shape of a stack of recurrent layers, what of it is dropped in training, and which scan runs it."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.layers import parallel_scan
from jaxlm.layers.min_recurrent import NUM_GATES
from jaxlm.layers.model_config import DTYPES, ModelConfig
from jaxlm.layers.recurrent import CELLS

BLOCKS = (*NUM_GATES, "mamba")
ALL_CELLS = (*CELLS, *BLOCKS)
OWN = {
    "forget_bias": ("lstm",),
    "weight_dropout": tuple(CELLS),
    "conv_width": BLOCKS,
    "norm_eps": BLOCKS,
    "d_ff": tuple(NUM_GATES),
    "d_state": ("mamba",),
    "step_rank": ("mamba",),
}
"""Fields of some cells only."""


@dataclasses.dataclass(frozen=True)
class RecurrentConfig(ModelConfig):
    """Layers of one cell. Those of CELLS stand on one another; minGRU, minLSTM and Mamba are residual blocks.

    What only some cells have stands in OWN, and is refused for others.
    """

    cell: str = "lstm"
    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 128  # tables are padded to it; padding never enters a loss or a sample
    num_layers: int = 2
    d_model: int = 256  # of embeddings, and of blocks between their mixers
    d_hidden: int | None = None  # of states; None: d_model, for Mamba twice that
    d_ff: int | None = None  # of the MLP behind a minimal cell; None: 4 d_model
    d_state: int = 16  # Mamba's states of each feature
    conv_width: int = 4
    step_rank: int | None = None  # of what Mamba's steps are made from; None: d_model / 16
    max_len: int = 1024  # of texts that are written or scored; no weight depends on it
    scan: str = "auto"
    tie_embeddings: bool = True  # then states of the last layer of CELLS have width d_model
    forget_bias: float = 1.0  # that the LSTM's forget gate begins with
    init_std: float | None = None  # of embeddings, head and kernels of blocks; None: see `std`
    norm_eps: float = 1e-5
    dropout: float = 0.0  # of what each layer but the first reads; of what a block's branches add
    input_dropout: float | None = None  # of what the first one reads; None: dropout
    output_dropout: float | None = None  # of what the head reads; None: dropout
    locked_dropout: bool = False  # one mask for all positions of a row
    word_dropout: float = 0.0  # share of the vocabulary whose vectors are 0 in a batch
    weight_dropout: float = 0.0  # DropConnect: share of the recurrent kernels that is 0 in a batch
    activation_reg: float = 0.0  # AR: coefficient of the mean square of what the head reads
    temporal_reg: float = 0.0  # TAR: of the mean square of what the last layer's states change by
    loss_chunk: int = 0  # tokens whose logits exist at once; 0: as many as fit in 1 GiB, else 8192
    dtype: str = "auto"  # of products; auto: bfloat16 on an accelerator, float32 on CPU

    def __post_init__(self):
        self.check_choices(cell=ALL_CELLS, dtype=DTYPES)
        sizes = ("vocab_multiple", "num_layers", "d_model", "d_hidden", "d_ff", "d_state")
        least = dict.fromkeys((*sizes, "conv_width", "step_rank", "max_len"), 1)
        others = ("vocab_size", "activation_reg", "temporal_reg", "loss_chunk")
        self.check_least(**least, **dict.fromkeys(others, 0))
        inner = ("input_dropout", "output_dropout", "word_dropout", "weight_dropout")
        self.check_rates("dropout", *inner)
        self._check_own()
        self.scan_choice()

    def _check_own(self) -> None:
        """Raise if a field that `cell` has nothing for was changed."""
        for field in dataclasses.fields(self):
            value, cells = getattr(self, field.name), OWN.get(field.name, ALL_CELLS)
            if value != field.default and self.cell not in cells:
                raise ValueError(
                    f'model.{field.name}={value!r}: model.cell="{self.cell}" has no such thing; cells that have it are '
                    f"{', '.join(cells)}"
                )
        if self.d_hidden is not None and self.hidden_width not in self.widths:
            raise ValueError(
                f"model.d_hidden={self.d_hidden} would be no layer's width: with model.tie_embeddings=True the last one, "
                f"here the only one, has model.d_model={self.d_model}"
            )

    def scan_choice(self) -> tuple[str, str]:
        """The scan that will run on this device, and why; raises ValueError for one that can't."""
        return parallel_scan.choose(self.scan, self.cell, linear=self.cell not in CELLS)

    @property
    def std(self) -> float:
        """`init_std`; None is 0.02, and 0.2 of CELLS: these have no norm before them and hear little, and learn late, of narrower embeddings."""
        return (0.2 if self.cell in CELLS else 0.02) if self.init_std is None else self.init_std

    @property
    def hidden_width(self) -> int:
        return self.d_hidden or (2 if self.cell == "mamba" else 1) * self.d_model

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each layer's states."""
        last = self.d_model if self.tie_embeddings and self.cell in CELLS else self.hidden_width
        return (*(self.hidden_width,) * (self.num_layers - 1), last)

    @property
    def out_width(self) -> int:
        """Of what the head reads."""
        return self.widths[-1] if self.cell in CELLS else self.d_model

    @property
    def rank(self) -> int:
        return self.step_rank or -(-self.d_model // 16)

    @property
    def rates(self) -> tuple[float, float, float]:
        """Of dropout before the first layer, between layers, and before the head."""
        ends = (self.input_dropout, self.output_dropout)
        first, last = (self.dropout if rate is None else rate for rate in ends)
        return first, self.dropout, last

    def state_shapes(self) -> list[tuple[tuple[int, ...], ...]]:
        """Of every layer's state, without the batch."""
        if self.cell in CELLS:
            return [((width,),) * CELLS[self.cell].num_states for width in self.widths]
        if self.cell == "mamba":
            inner = self.hidden_width
            return [((self.d_state, inner), (self.conv_width - 1, inner))] * self.num_layers
        return [((self.hidden_width,), (self.conv_width - 1, self.d_model))] * self.num_layers

    def make_dropout(self, rate: float, train: bool) -> nn.Module:
        """Of [B, T, D]."""
        axes = (1,) if self.locked_dropout else ()
        return nn.Dropout(rate, broadcast_dims=axes, deterministic=not train)

    def activation_bytes(self, num_tokens: int) -> float:
        """About what the backward pass through one micro-batch keeps."""
        width, itemsize = self.hidden_width, jnp.dtype(self.compute_dtype).itemsize
        if self.cell in CELLS:
            cell = CELLS[self.cell]
            kept = 3 * len(cell.parts) * width + 3 * cell.num_states * width
        elif self.cell == "mamba":  # states of one chunk exist at once
            kept = 14 * width + 4 * self.d_state * width // 8 + 4 * self.d_model
        else:
            kept = 8 * NUM_GATES[self.cell] * width + 6 * (self.d_ff or 4 * self.d_model)
        layers = 4.0 * num_tokens * self.num_layers * kept
        vectors = itemsize * num_tokens * 4 * self.d_model
        return layers + vectors + 3 * 4 * min(num_tokens * self.vocab_rows, 2**28)
