"""Texts that a generator writes inside a compiled step: drawn, relaxed so that a gradient goes through, or rolled out from a beginning.

All are a `lax.scan` over the model reading one token a row with its carry, and functions of a key. Every text begins with a
token that is given, and has the length of the window that this one is of. Not for decoding for people: decode/sampling.py.
Letters here: S beginnings of a text, M texts at once.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array, PyTree


def drawn(model: Any, params: PyTree, first_B: Array, length: int, key: Array) -> Array:
    """Texts drawn from the model's distribution, int32 [B, length], each behind its first token int32 [B]."""
    given_BT = jnp.broadcast_to(first_B[:, None], (len(first_B), length))
    return continued(model, params, given_BT, jnp.ones_like(first_B), key)


def continued(model: Any, params: PyTree, given_MT: Array, known_M: Array, key: Array) -> Array:
    """Texts whose first tokens are given and whose others are drawn.

    Args:
      given_MT: int32.
      known_M: int32, of each row how many of its tokens are given, at least 1.
      key: of all that is drawn.

    Returns:
      int32 [M, T].
    """
    rows, length = given_MT.shape

    def step(carry: Any, place: Any) -> tuple[Any, Array]:
        token_M, state = carry
        t, given_M, key = place
        output, state = model.apply({"params": params}, token_M[:, None], carry=state)
        drawn_M = jax.random.categorical(key, output.logits()[:, 0]).astype(given_M.dtype)
        token_M = jnp.where(t < known_M, given_M, drawn_M)
        return (token_M, state), token_M

    places = (jnp.arange(1, length), given_MT.T[1:], jax.random.split(key, length - 1))
    first_M = given_MT[:, 0]
    _, written_TM = jax.lax.scan(step, (first_M, model.init_cache(params, rows, length)), places)
    return jnp.concatenate([first_M[:, None], written_TM.T], axis=1)


def relaxed(
    model: Any,
    params: PyTree,
    first_B: Array,
    length: int,
    key: Array,
    temperature: Array,
    straight_through: bool,
) -> Array:
    """Texts as mixtures of tokens, float32 [B, length, V], differentiable in the parameters.

    y = softmax((logits + Gumbel noise) / temperature), which is also what the model reads next; the argmax of y is a draw from
    softmax(logits) at any temperature (Jang, Gu and Poole 2017, arXiv:1611.01144, eq. 2).

    Args:
      straight_through: y is one-hot, and its gradient that of the mixture (the same, section 2.2).
    """

    def step(carry: Any, key: Array) -> tuple[Any, Array]:
        mixture_BV, state = carry
        output, state = model.apply({"params": params}, mixture_BV[:, None], carry=state)
        logits_BV = output.logits()[:, 0]
        noise_BV = jax.random.gumbel(key, logits_BV.shape)
        mixture_BV = jax.nn.softmax((logits_BV + noise_BV) / temperature, axis=-1)
        if straight_through:
            mixture_BV = _one_hot_of(mixture_BV)
        return (mixture_BV, state), mixture_BV

    first_BV = jax.nn.one_hot(first_B, model.config.vocab_size)
    begin = first_BV, model.init_cache(params, len(first_B), length)
    _, written_TBV = jax.lax.scan(step, begin, jax.random.split(key, length - 1))
    return jnp.concatenate([first_BV[:, None], jnp.swapaxes(written_TBV, 0, 1)], axis=1)


@jax.custom_vjp
def _one_hot_of(mixture_BV: Array) -> Array:
    """Exactly one-hot: a sum of mixture and difference would be so but for rounding, and that gives fakes away."""
    return jax.nn.one_hot(jnp.argmax(mixture_BV, axis=-1), mixture_BV.shape[-1])


_one_hot_of.defvjp(
    lambda mixture_BV: (_one_hot_of(mixture_BV), None), lambda _, grad_BV: (grad_BV,)
)


def beginnings(length: int, every: int) -> tuple[int, ...]:
    """After how many tokens texts are rolled out: each `every` behind the first one, and before the last."""
    return tuple(range(1 + every, length, every))


def rolled_out(
    model: Any, params: PyTree, texts_BT: Array, known: tuple[int, ...], key: Array
) -> Array:
    """Each text written anew behind each of its beginnings, int32 [S, B, T].

    Args:
      known: S numbers of tokens, that a beginning has.
    """
    rows, length = texts_BT.shape
    given_MT = jnp.broadcast_to(texts_BT[None], (len(known), rows, length)).reshape(-1, length)
    known_M = jnp.repeat(jnp.asarray(known, jnp.int32), rows)
    return continued(model, params, given_MT, known_M, key).reshape(-1, rows, length)


def spread(values_SB: Array, known: tuple[int, ...], length: int) -> Array:
    """The value of each written token, [B, T - 1]: that of the first beginning which holds it.

    Given that beginning, what was drawn between the token and its end is part of the rollout: the value is as unbiased as one of
    a rollout from the token itself, with more variance.

    Args:
      values_SB: of beginnings with `known` tokens, the whole text (T of them) last.
    """
    ends = jnp.asarray((*known, length))
    written = jnp.arange(1, length)  # the token at this place is held by beginnings of more tokens
    return values_SB[jnp.searchsorted(ends, written, side="right")].T


def distinct(texts_BT: Array, order: int) -> Array:
    """Different n-grams of all texts divided by their tokens, float32 [] (Li et al. 2016, arXiv:1510.03055, section 5)."""
    length = texts_BT.shape[1] - order + 1
    grams = [texts_BT[:, n : n + length].reshape(-1) for n in range(order)]
    places = jnp.lexsort(grams)
    ordered = [gram[places] for gram in grams]
    new = jnp.any(jnp.stack([one[1:] != one[:-1] for one in ordered]), axis=0)
    return (1.0 + jnp.sum(new)) / texts_BT.size
