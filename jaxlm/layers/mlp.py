"""The position-wise feed-forward layer in its usual shapes."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.linear import Initializer, Linear

MLPS = ("gelu", "gelu_exact", "swiglu", "relu2")


class MLP(nn.Module):
    """W_out act(W_in x): GELU with tanh as in GPT-2, SwiGLU (Shazeer 2020, arXiv:2002.05202), ReLU² (arXiv:2109.08668)."""

    kind: str
    d_ff: int
    kernel_init: Initializer
    out_init: Initializer
    bias: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def inward(name: str) -> Linear:
            return Linear(
                self.d_ff, ("embed", "mlp"), self.kernel_init, self.bias, self.dtype, name=name
            )

        hidden = inward("in")(x)
        if self.kind == "gelu":
            hidden = jax.nn.gelu(hidden, approximate=True)
        elif self.kind == "gelu_exact":
            hidden = jax.nn.gelu(hidden, approximate=False)
        elif self.kind == "swiglu":
            hidden = jax.nn.silu(inward("gate")(x)) * hidden
        elif self.kind == "relu2":
            hidden = jnp.square(jax.nn.relu(hidden))
        else:
            raise ValueError(f"model.mlp={self.kind!r}: accepted are {', '.join(MLPS)}")
        return Linear(
            x.shape[-1], ("mlp", "embed"), self.out_init, self.bias, self.dtype, name="out"
        )(hidden)
