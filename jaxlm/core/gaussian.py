"""Diagonal Gaussians over a latent of each text: divergence, densities, and noise that is a function of a text or of a seed.

Letters: B texts, Z latent, K samples. Not for how a network makes such a Gaussian (models/vae.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlm.core import randomness
from jaxlm.core.types import Array

ACTIVE = 0.01
"""A dimension is used where its posterior mean varies more than this over the texts (Burda et al. 2016, arXiv:1509.00519, section 5.2)."""
MULTIPLIER = 2654435761  # Knuth's, odd: no two places of a text weigh the same


def kl(mean_BZ: Array, log_var_BZ: Array) -> Array:
    """KL(N(mean, var) || N(0, 1)) of each dimension, nats, [B, Z].

    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix B: (mean^2 + var - 1 - log var) / 2.
    """
    return 0.5 * (jnp.square(mean_BZ) + jnp.expm1(log_var_BZ) - log_var_BZ)


def log_ratio(latent_BZ: Array, mean_BZ: Array, log_var_BZ: Array) -> Array:
    """log N(z; 0, 1) - log N(z; mean, var), nats, [B]: its mean under the second one is minus the divergence."""
    noise = (latent_BZ - mean_BZ) * jnp.exp(-0.5 * log_var_BZ)
    return 0.5 * jnp.sum(jnp.square(noise) + log_var_BZ - jnp.square(latent_BZ), axis=-1)


def draw(mean_BZ: Array, log_var_BZ: Array, noise_BZ: Array) -> Array:
    """mean + deviation * noise (the reparametrisation of arXiv:1312.6114, section 2.4)."""
    return mean_BZ + jnp.exp(0.5 * log_var_BZ) * noise_BZ


def text_noise(ids_BT: Array, real_BT: Array, width: int, sample: int | Array = 0) -> Array:
    """Standard normal noise [B, width] that depends on a text's own tokens and on nothing else.

    So a score that needs a draw is the same in every batch, padding and process; the noise knows nothing of the model.

    Args:
      ids_BT: int32.
      real_BT: bool, which of them belong to the text.
      width: Z.
      sample: which of a text's draws.
    """
    powers_T = jnp.cumprod(jnp.full(ids_BT.shape[1], MULTIPLIER, jnp.uint32))
    own_BT = jnp.where(real_BT, ids_BT + 1, 0).astype(jnp.uint32)
    number_B = jnp.sum(own_BT * powers_T[None], axis=1, dtype=jnp.uint32)  # modulo 2^32

    def noise(number: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(0), number)
        return jax.random.normal(jax.random.fold_in(key, sample), (width,))

    return jax.vmap(noise)(number_B)


def seed_noise(seeds_B: Array, width: int) -> Array:
    """Standard normal noise [B, width], a row for each seed, uint32: what a row writes by is drawn from others of its seed."""

    def noise(seed: Array) -> Array:
        return jax.random.normal(randomness.named_key(jax.random.key(seed), "latent"), (width,))

    return jax.vmap(noise)(seeds_B)
