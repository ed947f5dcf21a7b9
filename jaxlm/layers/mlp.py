"""The position-wise feed-forward layer in its usual shapes."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.linear import Initializer, Linear


def _gelu_exact(x: Array) -> Array:
    """x Phi(x) by erf; by erfc, as jax.nn.gelu has it, it costs twice as much on a CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_exact": _gelu_exact,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "swiglu": jax.nn.silu,
    "geglu": functools.partial(jax.nn.gelu, approximate=True),
}
GATED = ("swiglu", "geglu")


class MLP(nn.Module):
    """W_out act(W_in x), or gated W_out (act(W_gate x) * W_in x).

    gelu with tanh as in GPT-2, gelu_exact as in BERT, relu as in T5, relu2: ReLU² (So et al. 2021,
    arXiv:2109.08668); gated: swiglu, geglu (with tanh, as in T5 1.1; Shazeer 2020, arXiv:2002.05202).
    """

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

        activation = ACTIVATIONS[self.kind]
        hidden = inward("in")(x)
        if self.kind in GATED:
            hidden = activation(inward("gate")(x)) * hidden
        else:
            hidden = activation(hidden)
        return Linear(
            x.shape[-1], ("mlp", "embed"), self.out_init, self.bias, self.dtype, name="out"
        )(hidden)
