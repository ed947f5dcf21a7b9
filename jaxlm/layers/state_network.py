"""The tables of a hidden Markov model as a network's: every state and every word has an embedding, and similar ones share.

Kim et al., Compound Probabilistic Context-Free Grammars, 2019, arXiv:1906.10225 (residual MLPs over embeddings of symbols);
Chiu and Rush, Scaling Hidden Markov Language Models, 2020, arXiv:2011.04640, section 3.3 (the same for a hidden Markov model).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.linear import Linear, as_row, named
from jaxlm.layers.norm import LayerNorm


class Residual(nn.Module):
    """norm(W x), then `num_layers` times norm(x + relu(W relu(W x)))."""

    width: int
    num_layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def linear(name: str) -> Linear:
            init = nn.initializers.lecun_normal()
            return Linear(self.width, (None, None), init, bias=True, name=name)

        x = LayerNorm(axis=None, name="norm_in")(linear("in")(x))
        for layer in range(self.num_layers):
            inner = jax.nn.relu(linear(f"inner_{layer}")(x))
            x = x + jax.nn.relu(linear(f"outer_{layer}")(inner))
            x = LayerNorm(axis=None, name=f"norm_{layer}")(x)
        return x


class StateNetwork(nn.Module):
    """Logits of the three tables: [C], [C, S], [C, V].

    Each is a product of what an MLP of its own makes of the states with embeddings of what is chosen: of nothing (a vector), of
    the next states (which have embeddings of their own, as seen from behind), of words. Deviations from Chiu and Rush: no
    blocks of words or states, no dropout of states, which are for tens of thousands of states.
    """

    num_states: int
    vocab_size: int
    width: int
    num_layers: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array, Array]:
        def table(name: str, rows: int) -> Array:
            init = named(nn.initializers.normal(1.0), None, None)
            return self.param(name, init, (rows, self.width))

        def seen(name: str, x: Array) -> Array:
            return Residual(self.width, self.num_layers, name=name)(x)

        states_CD = table("states", self.num_states)
        next_SD = table("next_states", self.num_states)
        words_VD = table("words", self.vocab_size)
        scale = self.width**-0.5
        init = named(nn.initializers.normal(1.0), None)
        initial_D = self.param("initial", init, (self.width,))
        initial_C = jnp.sum(seen("starting", states_CD) * as_row(initial_D, states_CD), axis=-1)
        transition_CS = jnp.matmul(seen("leaving", states_CD), next_SD.T)
        emission_CV = jnp.matmul(seen("emitting", states_CD), words_VD.T)
        return initial_C * scale, transition_CS * scale, emission_CV * scale
