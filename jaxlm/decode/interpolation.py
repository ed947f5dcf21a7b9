"""Texts along the way from one latent vector to another (Bowman et al. 2016, arXiv:1511.06349, section 6.3, "Homotopies").

For models whose `init_cache` takes the latent that a row is written under. Letters: N points, Z latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlm.core.types import PyTree
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request, Written


def between(
    first_Z: np.ndarray, second_Z: np.ndarray, num_points: int, spherical: bool = False
) -> np.ndarray:
    """Points from the first to the second, both included, float32 [N, Z].

    Args:
      spherical: along the arc between their directions instead of the line, so that no point is nearer to the origin, where
        a Gaussian's draws are rare, than both ends (White 2016, arXiv:1609.04468); of vectors of one direction, the line.

    Raises:
      ValueError: fewer than two points.
    """
    if num_points < 2:
        raise ValueError(f"num_points={num_points} must be at least 2, the ends")
    first_Z, second_Z = np.asarray(first_Z, np.float64), np.asarray(second_Z, np.float64)
    shares_N1 = np.linspace(0.0, 1.0, num_points)[:, None]
    near_N1, far_N1 = 1 - shares_N1, shares_N1
    if spherical:
        lengths = np.linalg.norm(first_Z) * np.linalg.norm(second_Z)
        angle = np.arccos(np.clip(first_Z @ second_Z / lengths, -1, 1)) if lengths else 0.0
        if np.sin(angle) > 1e-6:
            near_N1, far_N1 = (np.sin(part * angle) / np.sin(angle) for part in (near_N1, far_N1))
    return (near_N1 * first_Z[None] + far_N1 * second_Z[None]).astype(np.float32)


def write(
    model: Any,
    params: PyTree,
    latents_NZ: np.ndarray,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    max_len: int,
    end_ids: tuple[int, ...] = (),
) -> list[Written]:
    """The likeliest tokens behind a prompt, one after the other, under each latent.

    Args:
      model, params: one with a latent.
      prompt: what every text begins with, at least one token.
      max_tokens, max_len, end_ids: see Request.

    Raises:
      ValueError: a model without a latent, or a number out of range.
    """
    if getattr(model, "direction", "") != "latent":
        raise ValueError(
            f"{type(model).__name__} writes under no latent vector: interpolation is for "
            'model.kind="vae"'
        )
    request = Request(
        prompts=[list(prompt)] * len(latents_NZ),
        max_tokens=max_tokens,
        max_len=max_len,
        end_ids=end_ids,
        inputs={"latent": latents_NZ},
    )
    return [one for (one,) in Sampling(temperature=0.0).write(model, params, request)]
