"""Heads for the tokens after the next one (Gloeckle et al. 2024, arXiv:2404.19737). Not their losses (objectives/multi_token.py)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.attention import Sight
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.transformer import make_block
from jaxlm.layers.transformer_config import TransformerConfig


class FutureHeads(nn.Module):
    """`count` blocks side by side, each on what the stack's last block reads; that one is the next token's head.

    The paper's parallel heads (section 2; appendix B compares others). All share what follows the stack: norm and
    unembedding. Gives their states [B, N, T, D], N heads, and what they report of themselves, as a Stack does.
    """

    config: TransformerConfig
    spec: Spec
    count: int
    train: bool = False

    @nn.compact
    def __call__(self, fork_BTD: Array, sight: Sight) -> tuple[Array, dict[str, Array]]:
        config = dataclasses.replace(self.config, scan_layers=False)
        make = make_block(config, self.spec, False, self.train)
        made = [
            make(config.num_layers - 1, name=f"head_{ahead}")(fork_BTD, sight, None)
            for ahead in range(2, self.count + 2)
        ]
        aux = jax.tree.map(lambda *parts: jnp.stack(parts), *(extra for _, (_, extra) in made))
        return jnp.stack([states for states, _ in made], axis=1), aux
