"""minGRU and minLSTM (Feng et al. 2024, Were RNNs All We Needed?, arXiv:2410.01201): gates that do not read the state, so that
the recurrence is linear in it; and a causal convolution over the last few positions.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.history import Marks, shifted
from jaxlm.layers.linear import Initializer, Linear, as_row, named, times_row
from jaxlm.layers.parallel_scan import linear_scan

NUM_GATES = {"mingru": 2, "minlstm": 3}
"""Products with what is read, of the state's width each, the candidate's last."""


class CausalConv(nn.Module):
    """Each feature's weighted sum of its last `width` values, a bias added; those before a row's beginning are 0.

    Drawn as torch.nn.Conv1d draws it, uniformly within 1 / sqrt(width); the bias begins as 0.
    """

    width: int
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x: Array, before: Array, places: Marks) -> tuple[Array, Array]:
        """x [B, T, D] and the values before it, float32 [B, width - 1, D]; the sums, and the values before what follows."""
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=0, out_axis=())
        shape = (self.width, x.shape[-1])
        taps = self.param("taps", named(init, None, self.axis), shape).astype(x.dtype)
        bias = self.param("bias", named(nn.initializers.zeros, self.axis), shape[1:])
        values, after = shifted(x, before.astype(x.dtype), places, self.width - 1)
        y = sum(times_row(value, taps[-1 - back]) for back, value in enumerate(values))
        return y + as_row(bias.astype(x.dtype), x), after.astype(jnp.float32)


class MinRecurrent(nn.Module):
    """minGRU or minLSTM with the positive candidates of the paper's appendix B; products in `dtype`, the recurrence in float32.

    h_t = (1 - z) h_(t-1) + z g(candidate), or with f / (f + i) and i / (f + i) in place of 1 - z and z. g(x) is x + 1/2, and
    the sigmoid below 0, so that states are above 0. The paper goes through logarithms, as it divides by products of all
    gates so far; parallel_scan.py never divides. A state begins as 0; the authors' code: as g(0) = 1/2.
    """

    cell: str
    features: int
    kernel_init: Initializer
    method: str
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, state: Array, places: Marks) -> tuple[Array, Array]:
        """x [B, T, ...], state float32 [B, D] -> [B, T, D], and the state behind the last real position."""
        count = NUM_GATES[self.cell]
        gates = Linear(
            count * self.features, ("embed", None), self.kernel_init, True, self.dtype, name="gates"
        )
        *gates, candidate = jnp.split(gates(x).astype(jnp.float32), count, axis=-1)
        taken = _taken(self.cell, gates)
        decay = jax.nn.sigmoid(-taken)
        drive = jax.nn.sigmoid(taken) * _above_zero(candidate)
        if places.starts_BT is not None:
            decay = jnp.where(places.starts_BT[..., None], 0.0, decay)
        if places.real_BT is not None:
            real = places.real_BT[..., None]
            decay, drive = jnp.where(real, decay, 1.0), jnp.where(real, drive, 0.0)
        states = linear_scan(decay, drive, state, self.method)
        return states.astype(self.dtype), states[:, -1]


def _taken(cell: str, gates: list[Array]) -> Array:
    """What the sigmoid of is the share that is taken of the candidate; the rest is kept of the state."""
    if cell == "mingru":
        return gates[0]
    f, i = gates
    return jax.nn.softplus(-f) - jax.nn.softplus(-i)  # log (i / f) of both sigmoids


def _above_zero(x: Array) -> Array:
    """The paper's g."""
    return jnp.where(x >= 0, x + 0.5, jax.nn.sigmoid(x))
