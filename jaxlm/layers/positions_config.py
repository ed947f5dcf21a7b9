"""The part of a transformer's config that says how its tokens know where they stand. What it means: positions.py."""

from __future__ import annotations

import dataclasses
import math

from jaxlm.layers.positions import POSITIONS, ROPE_SCALINGS, RopeScaling


@dataclasses.dataclass(frozen=True)
class PositionsConfig:
    """Fields of a TransformerConfig: class GPTConfig(PositionsConfig, TransformerConfig)."""

    positions: str = "learned"
    rope_base: float = 10_000.0
    rope_scaling: str = "none"  # linear, llama3, yarn: read beyond the length of training
    rope_factor: float = 1.0  # how many times longer
    rope_original_len: int = 0  # positions of training; llama3 and yarn need it
    rope_low_freq: float = (
        1.0  # rates with fewer turns over rope_original_len are divided by rope_factor
    )
    rope_high_freq: float | None = None  # rates with more are kept; None: llama3 4, yarn 32
    rope_attention_factor: float | None = None  # None: under yarn 0.1 ln(rope_factor) + 1, else 1

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(positions=POSITIONS, rope_scaling=ROPE_SCALINGS)
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(
                f'model.positions="rotary" needs an even head width, not {self.head_width}'
            )
        if self.rope_scaling != "none":
            self._check_rope_scaling()
        elif self.rope_factor != 1:
            raise ValueError(
                f"model.rope_factor={self.rope_factor} needs model.rope_scaling: {', '.join(ROPE_SCALINGS[1:])}"
            )

    def _check_rope_scaling(self) -> None:
        name = f'model.rope_scaling="{self.rope_scaling}"'
        if self.positions != "rotary":
            raise ValueError(f'{name} needs model.positions="rotary"')
        if self.rope_factor <= 0:
            raise ValueError(f"model.rope_factor={self.rope_factor} must be positive")
        if self.rope_scaling != "linear" and self.rope_original_len < 1:
            raise ValueError(f"{name} needs model.rope_original_len, the positions of training")
        low, high = self.rope.low_freq, self.rope.high_freq
        if self.rope_scaling != "linear" and not 0 < low < high:
            raise ValueError(
                f"{name} needs 0 < model.rope_low_freq={low} < model.rope_high_freq={high}"
            )

    @property
    def rope(self) -> RopeScaling:
        """The scaling of rotary rates, with what follows from its kind filled in."""
        high, factor = self.rope_high_freq, self.rope_attention_factor
        if high is None:
            high = 32.0 if self.rope_scaling == "yarn" else 4.0
        if factor is None:
            longer = self.rope_scaling == "yarn" and self.rope_factor > 1
            factor = 0.1 * math.log(self.rope_factor) + 1.0 if longer else 1.0
        return RopeScaling(
            self.rope_scaling,
            self.rope_factor,
            self.rope_low_freq,
            high,
            self.rope_original_len,
            factor,
        )
