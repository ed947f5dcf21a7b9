"""From log-probabilities, rewards and values to the quantities of policy gradients: KL estimates, advantages, clipped losses.

Pure functions of arrays; which of them an algorithm takes is in reinforcement.py. A row's weighed places are consecutive.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlm.core.types import Array

SPREAD = 1e-4  # added to a standard deviation that is divided by, as trl does it


def last(weights_BT: Array) -> Array:
    """1 at each row's last weighed place, else 0."""
    after_BT = jnp.cumsum(weights_BT[:, ::-1], axis=1)[:, ::-1] - weights_BT
    return ((weights_BT > 0) & (after_BT == 0)).astype(jnp.float32)


def kl(log_probs: Array, reference: Array, estimator: str) -> Array:
    """The KL to a reference from the log-probabilities of what was drawn.

    "k1": log p - log q, unbiased, either sign; "k3": q / p - 1 - log(q / p), unbiased and never negative, whose gradient
    pulls towards the reference (Schulman, Approximating KL Divergence, 2020; DeepSeekMath eq. 4).
    """
    back = reference - log_probs
    return -back if estimator == "k1" else jnp.exp(back) - 1.0 - back


def group_advantages(rewards_B: Array, group_size: int, scale: bool) -> Array:
    """Of completions that follow one another in groups: reward less the group's mean, over its standard deviation."""
    rewards = rewards_B.reshape(-1, group_size)
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    if scale:
        centred = centred / (jnp.std(rewards, axis=1, ddof=1, keepdims=True) + SPREAD)
    return centred.reshape(-1)


def gae(rewards_BT: Array, values_BT: Array, weights_BT: Array, gamma: float, lam: float) -> Array:
    """A_t = d_t + gamma lam A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t, over each row's weighed places, which are consecutive."""

    def before(carry, place):
        later_B, next_value_B = carry
        reward_B, value_B, weight_B = place
        advantage_B = weight_B * (reward_B + gamma * next_value_B - value_B + gamma * lam * later_B)
        return (advantage_B, weight_B * value_B), advantage_B

    zeros_B = jnp.zeros(len(rewards_BT), jnp.float32)
    places = (rewards_BT.T, values_BT.T, weights_BT.T)
    _, advantages_TB = jax.lax.scan(before, (zeros_B, zeros_B), places, reverse=True)
    return advantages_TB.T


def whitened(values_BT: Array, weights_BT: Array) -> Array:
    """Mean 0 and standard deviation 1 over the weighed places."""
    total = jnp.maximum(jnp.sum(weights_BT), 1.0)
    mean = jnp.sum(values_BT * weights_BT) / total
    variance = jnp.sum(jnp.square(values_BT - mean) * weights_BT) / total
    return (values_BT - mean) * jax.lax.rsqrt(variance + 1e-8) * weights_BT


def clipped_policy_loss(log_ratio: Array, advantages: Array, clip: float) -> tuple[Array, Array]:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A), and 1 where the clipped one is less: such a token has no gradient."""
    ratio = jnp.exp(log_ratio)
    free, bound = ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages
    return -jnp.minimum(free, bound), (bound < free).astype(jnp.float32)


def clipped_value_loss(values: Array, old: Array, returns: Array, clip: float) -> Array:
    """max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2."""
    bound = old + jnp.clip(values - old, -clip, clip)
    return 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(bound - returns))
