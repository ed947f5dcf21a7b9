"""The part of a config that says what the stacks of an encoder and a decoder are. The model: two_stacks.py."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxlm.layers import attention_backends
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.moe_config import ExpertsConfig
from jaxlm.layers.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class TwoStacksConfig(ExpertsConfig, TransformerConfig):
    """The shape of both stacks; `num_layers` is the encoder's."""

    num_kv_heads: ClassVar[None] = None

    num_decoder_layers: int | None = None  # None: num_layers
    decoder_start_id: int = 0  # the first decoder input; the data put it there

    def __post_init__(self):
        super().__post_init__()
        self.check_least(num_decoder_layers=1, decoder_start_id=0)
        if self.num_experts and self.moe_every > self.decoder_layers:
            raise ValueError(
                f"model.moe_every={self.moe_every} must be at most "
                f"model.num_decoder_layers={self.decoder_layers}"
            )

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def decoder(self) -> TwoStacksConfig:
        """The config of the decoder's stack."""
        return dataclasses.replace(self, num_layers=self.decoder_layers)

    def spec(self, causal: bool) -> Spec:
        """What a stack's self-attention asks."""
        return Spec(causal=causal)

    def cross_choice(self, spec: Spec) -> tuple[str, str]:
        """What reads the source, and why."""
        return attention_backends.choose(self.attention, spec, self.compute_dtype, self.head_width)
