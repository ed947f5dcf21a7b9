"""A language model small enough to be known by heart: the next token depends on the last two, by a table."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """A `ModelOutput` without hidden states."""

    log_probs_BTV: jax.Array

    def logits(self, positions=None):
        if positions is None:
            return self.log_probs_BTV
        return self.log_probs_BTV[jnp.arange(len(positions)), positions]


@dataclasses.dataclass(frozen=True)
class Markov:
    """Its parameters: probs[a, b, c] = p(c | ... a b); before a text's first token stands a 0."""

    def init_cache(self, params, batch_size, max_len):
        return {
            "tokens": jnp.zeros((batch_size, max_len), jnp.int32),
            "lengths": jnp.zeros(batch_size, jnp.int32),
        }

    def extend(self, params, cache, tokens_BT, lengths_B):
        places_BT = cache["lengths"][:, None] + jnp.arange(tokens_BT.shape[1])[None]
        real_BT = jnp.arange(tokens_BT.shape[1])[None] < lengths_B[:, None]
        rows_B1 = jnp.arange(len(lengths_B))[:, None]
        slots_BT = jnp.where(real_BT, places_BT, cache["tokens"].shape[1])
        held = cache["tokens"].at[rows_B1, slots_BT].set(tokens_BT, mode="drop")
        before_BT = held[rows_B1, jnp.maximum(places_BT - 1, 0)] * (places_BT > 0)
        output = Output(jnp.log(params[before_BT, tokens_BT]))
        return output, {"tokens": held, "lengths": cache["lengths"] + lengths_B}


@dataclasses.dataclass(frozen=True)
class Rewindable(Markov):
    """One whose cache can forget."""

    def rewind(self, cache, lengths_B):
        return cache | {"lengths": jnp.minimum(cache["lengths"], lengths_B)}


def first_order(rows):
    """The table of a model that looks at one token only, from probabilities or weights."""
    rows = np.asarray(rows, np.float32)
    rows = rows / rows.sum(axis=-1, keepdims=True)
    return jnp.asarray(np.broadcast_to(rows, (len(rows), *rows.shape)))


def random_table(vocab_size, seed):
    return jnp.asarray(
        np.random.default_rng(seed).dirichlet(np.ones(vocab_size), (vocab_size, vocab_size)),
        jnp.float32,
    )
