"""What is done to a model's logits before a token is drawn: penalties, temperature, cuts. Pure functions of [B, V].

Nothing is sorted: of a vocabulary of 50,000 that takes a CPU longer than a small model takes for the rest of the step. Cuts look for
the logit where they fall instead, bit by bit, so a k or p can be an argument of a compiled program. Equal logits at
the border are all kept (transformers drops some of them, by their order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array


@flax.struct.dataclass
class History:
    """What penalties look back on; None where nobody does."""

    seen_BV: Array | None = None  # bool, in the prompt or in what was written
    counts_BV: Array | None = None  # int32, how often it was written

    def add(self, token_B: Array, going_B: Array) -> History:
        """With one more token for each row that is going on."""
        rows = jnp.arange(token_B.shape[0])
        seen_BV, counts_BV = self.seen_BV, self.counts_BV
        if seen_BV is not None:
            seen_BV = seen_BV.at[rows, token_B].max(going_B)
        if counts_BV is not None:
            counts_BV = counts_BV.at[rows, token_B].add(going_B.astype(counts_BV.dtype))
        return History(seen_BV, counts_BV)


def process(logits_BV: Array, values: Mapping[str, Array], history: History) -> Array:
    """Logits to draw from.

    Args:
      logits_BV: float32, the model's own.
      values: a number for each name of ORDER that is on; which are is part of a compiled program, their values are not.
      history: `seen_BV` where the repetition penalty is on, `counts_BV` where another one is.

    Returns:
      Float32 [B, V], -inf for what must not be drawn.
    """
    for name in ORDER:
        if name in values:
            looked_at = [getattr(history, LOOKS_BACK[name])] if name in LOOKS_BACK else []
            logits_BV = FUNCTIONS[name](logits_BV, *looked_at, values[name])
    return logits_BV


def repetition_penalty(logits_BV: Array, seen_BV: Array, penalty: Array) -> Array:
    """Divide a seen token's logit by the penalty, multiply it where it is negative.

    Source: CTRL (Keskar et al. 2019, arXiv:1909.05858, section 4.1), which divides all of them; multiplying the
    negative ones, so that they also become less likely, is what everybody does since.
    """
    lower_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, lower_BV, logits_BV)


def presence_penalty(logits_BV: Array, counts_BV: Array, penalty: Array) -> Array:
    """Take it off the logit of each token that was written at least once (the OpenAI API's definition)."""
    return logits_BV - penalty * (counts_BV > 0)


def frequency_penalty(logits_BV: Array, counts_BV: Array, penalty: Array) -> Array:
    """Take it off a token's logit for each time that it was written (the OpenAI API's definition)."""
    return logits_BV - penalty * counts_BV


def temperature(logits_BV: Array, value: Array) -> Array:
    """Below 1 the likely become likelier. 0 has no distribution: whoever draws takes the likeliest instead."""
    return logits_BV / value


def top_k(logits_BV: Array, k: Array) -> Array:
    """Keep the k likeliest tokens (Fan et al. 2018, arXiv:1805.04833, section 5.1)."""

    def enough(kept_BV: Array) -> Array:
        return jnp.sum(kept_BV, axis=-1) >= k

    return _cut(logits_BV, enough)


def top_p(logits_BV: Array, p: Array) -> Array:
    """Keep the fewest tokens whose probabilities sum up to p, the nucleus (Holtzman et al. 2020, arXiv:1904.09751, equation 2)."""
    probs_BV = jax.nn.softmax(logits_BV, axis=-1)

    def enough(kept_BV: Array) -> Array:
        return jnp.sum(jnp.where(kept_BV, probs_BV, 0.0), axis=-1) >= p

    return _cut(logits_BV, enough)


def min_p(logits_BV: Array, p: Array) -> Array:
    """Keep tokens at least p times as probable as the likeliest (Nguyen et al. 2024, arXiv:2407.01082, section 3.2)."""
    least_B1 = jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(p)
    return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


def _cut(logits_BV: Array, enough: Callable[[Array], Array]) -> Array:
    """Keep the logits from the highest border on that keeps enough; all of them where none does.

    Args:
      enough: of which tokens are kept, bool [B, V]; bool [B]. True of more wherever it is true of fewer.
    """
    ordered_BV = _ordered(logits_BV)

    def set_bit(place: Array, border_B: Array) -> Array:
        higher_B = border_B | (jnp.uint32(1) << (31 - place).astype(jnp.uint32))
        return jnp.where(enough(ordered_BV >= higher_B[:, None]), higher_B, border_B)

    lowest_B = jnp.zeros(logits_BV.shape[0], jnp.uint32)
    border_B = jax.lax.fori_loop(0, 32, set_bit, lowest_B)
    return jnp.where(ordered_BV >= border_B[:, None], logits_BV, -jnp.inf)


def _ordered(x: Array) -> Array:
    """Whole numbers in the order of float32 numbers: their bits, the sign turned round (all bits of negative ones)."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)


FUNCTIONS = {
    "repetition_penalty": repetition_penalty,
    "presence_penalty": presence_penalty,
    "frequency_penalty": frequency_penalty,
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
}
ORDER = tuple(FUNCTIONS)
"""In this order, which is transformers'."""
LOOKS_BACK = {
    "repetition_penalty": "seen_BV",
    "presence_penalty": "counts_BV",
    "frequency_penalty": "counts_BV",
}
