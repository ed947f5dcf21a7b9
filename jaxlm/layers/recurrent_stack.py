"""Recurrent layers on one another that read whole rows, in one direction or in both: encoders and classifiers, and decoders.

Not for recurrent language models, whose layers can be of other kinds (models/rnn.py).
"""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.history import Marks, marks
from jaxlm.layers.recurrent import CELLS, Recurrent, State
from jaxlm.layers.table_config import TableConfig

States = tuple[State, ...]
"""Of every layer, float32 [B, D] each; of a layer in both directions both side by side."""


@dataclasses.dataclass(frozen=True)
class StackConfig(TableConfig):
    """Layers of one cell, all of one width."""

    cell: str = "lstm"
    num_layers: int = 2
    d_hidden: int | None = None  # of states; of both directions together; None: d_model
    bidirectional: bool = True
    forget_bias: float = 1.0  # that the LSTM's forget gate begins with

    def __post_init__(self):
        super().__post_init__()
        self.check_choices(cell=tuple(CELLS))
        self.check_least(num_layers=1, d_hidden=1)
        if self.bidirectional and self.hidden_width % 2:
            name = "d_model" if self.d_hidden is None else "d_hidden"
            raise ValueError(
                f"model.{name}={self.hidden_width} must be even: model.bidirectional=True has half of it in each direction"
            )

    @property
    def hidden_width(self) -> int:
        return self.d_model if self.d_hidden is None else self.d_hidden

    def make_stack(self, name: str | None = None) -> nn.Module:
        """The layers; whether they read both ways is said where they are called."""
        return RecurrentStack(
            self.cell,
            self.num_layers,
            self.hidden_width,
            self.forget_bias,
            self.dropout,
            self.compute_dtype,
            name=name,
        )

    def kept_bytes(self, num_tokens: int) -> float:
        """About what the layers' backward pass keeps of so many tokens, and what they read."""
        cell, width = CELLS[self.cell], self.hidden_width
        layer = 3 * len(cell.parts) * width + 3 * cell.num_states * width
        return 4.0 * num_tokens * (self.num_layers * layer + 4 * self.d_model)


class RecurrentStack(nn.Module):
    """Every layer reads what the one below puts out; with `back` that of both directions (Schuster and Paliwal 1997).

    As torch.nn's layers with bidirectional=True and half of `features`. Dropout is of what each layer but the first reads.
    """

    cell: str
    num_layers: int
    features: int
    forget_bias: float = 1.0
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Array,
        places: Marks,
        back: Marks | None = None,
        states: States | None = None,
        train: bool = False,
    ) -> tuple[Array, States]:
        """Go through rows [B, T, ...].

        Args:
          places: where a row begins anew, and what of it is filling.
          back: the same of rows that are turned around, see `both_ways`; None: one direction.
          states: before the first position, of one direction only; None: zeros.

        Returns:
          What the last layer puts out [B, T, features], at filling of no meaning, and every layer's state behind its last
          real position, of the way back behind the first one.
        """
        assert back is None or states is None
        drop = nn.Dropout(self.dropout, deterministic=not train)
        last = []
        for number in range(self.num_layers):
            if number:
                x = drop(x)
            layer = Layer(
                self.cell, self.features, self.forget_bias, self.dtype, name=f"block_{number}"
            )
            x, state = layer(x, None if states is None else states[number], places, back)
            last.append(state)
        return x, tuple(last)


class Layer(nn.Module):
    """One layer; in both directions each has half of the features."""

    cell: str
    features: int
    forget_bias: float
    dtype: str

    @nn.compact
    def __call__(
        self, x: Array, state: State | None, places: Marks, back: Marks | None
    ) -> tuple[Array, State]:
        width = self.features if back is None else self.features // 2
        if state is None:
            state = (jnp.zeros((x.shape[0], width), jnp.float32),) * CELLS[self.cell].num_states
        read = functools.partial(Recurrent, self.cell, width, self.forget_bias, dtype=self.dtype)
        out, last = read(name="forward")(x, state, places)
        if back is None:
            return out, last
        turned, first = read(name="backward")(x[:, ::-1], state, back)
        both = jnp.concatenate([out, turned[:, ::-1]], axis=-1)
        return both, tuple(jnp.concatenate(pair, axis=-1) for pair in zip(last, first, strict=True))


def both_ways(length: int, segment_ids: Array | None, back: bool) -> tuple[Marks, Marks | None]:
    """The marks of rows, and those of the same rows from their ends, or None.

    Args:
      segment_ids: int32 [B, T]; states begin anew where the id changes; 0 is filling. None: all is real.
      back: whether rows are read in both directions.
    """
    turned = None if segment_ids is None else segment_ids[:, ::-1]
    return marks(length, segment_ids), marks(length, turned) if back else None
