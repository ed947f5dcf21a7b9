"""A stack of transformer blocks, encoder or decoder, scanned or unrolled, with a named ladder of rematerialisation."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.attention import SHOWN, Caches, LayerCache, Sight
from jaxlm.layers.attention_backends import Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.moe import MoE
from jaxlm.layers.transformer_config import REMATS, TransformerConfig


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), as GPT-2 and Llama; a decoder's block reads its source between.

    With `config.post_norm` each step is norm(x + f(x)), as BERT. Gives the states, and (the new cache, what the block's
    router reports of itself and what `sight.shown` asks for).
    """

    config: TransformerConfig
    spec: Spec
    cross: bool = False
    train: bool = False
    dense: bool = True  # one MLP, no mixture of experts

    @nn.compact
    def __call__(self, x: Array, sight: Sight, cache: LayerCache | None):
        cfg = self.config
        drop = nn.Dropout(cfg.dropout, deterministic=not self.train)

        def before(norm: nn.Module, x: Array) -> Array:
            return x if cfg.post_norm else norm(x)

        def after(norm: nn.Module, x: Array, branch: Array) -> Array:
            x = x + drop(branch)
            x = norm(x) if cfg.post_norm else x
            return nn.with_logical_constraint(x, ("batch", "length", None))

        norm = cfg.make_norm("attention_norm")
        attention = cfg.make_attention("attention", self.spec)
        mixed, own, probs = attention(before(norm, x), sight, cache)
        shown = {} if probs is None else {"attention": probs}
        x = after(norm, x, mixed)
        if self.cross:
            norm = cfg.make_norm("cross_norm")
            soft_cap, scale = self.spec.soft_cap, self.spec.scale
            spec = Spec(causal=False, soft_cap=soft_cap, cross=True, scale=scale)
            read, source, probs = cfg.make_attention("cross", spec)(
                before(norm, x), sight, None if cache is None else cache.cross
            )
            x = after(norm, x, read)
            own = None if own is None else own.replace(cross=source)
            shown |= {} if probs is None else {"cross_attention": probs}
        norm = cfg.make_norm("mlp_norm")
        if self.dense:
            branch, aux = cfg.make_mlp("mlp", cfg.ff_width)(before(norm, x)), {}
        else:
            moe = MoE(cfg, self.train, name="moe")
            branch, aux = moe(before(norm, x), sight.real(x.shape[1]))
        x = after(norm, x, branch)
        if "states" in sight.shown:
            shown["states"] = x
        return x, (own, aux | shown)


def make_block(config: TransformerConfig, spec: Spec, cross: bool, train: bool):
    """`make(layer, name=...)` gives block `layer`, counted from 0, rematerialised in training as the config says."""
    block = Block
    if config.remat != "none" and train:
        block = nn.remat(Block, policy=REMATS[config.remat], prevent_cse=not config.scan_layers)

    def make(layer: int, name: str) -> Block:
        return block(config, spec, cross, train, config.is_dense(layer), name=name)

    return make


def _advance(block: Block, carry: tuple[Array, Array], sight: Sight, cache: LayerCache | None):
    """One layer of a scan, which keeps what went into it: of the last, the fork."""
    x, _ = carry
    after, made = block(x, sight, cache)
    return (after, x), made


class Stack(nn.Module):
    """`num_layers` blocks that see as `spec` says. `caches`: as `empty_caches` makes them, or None.

    With `spec.relative` the stack owns the table of position biases that all its layers share. Gives the states, the new
    caches, and what the layers report of themselves, each entry with a first axis for the layers that have it: of a router,
    and, where `sight.shown` asks for them, "states" [N, B, T, D] after each block, "attention" and "cross_attention"
    [N, B, H, T, S]. Those are of whole sequences: not with caches.
    """

    config: TransformerConfig
    spec: Spec
    cross: bool = False
    train: bool = False
    fork: bool = False  # report also "fork_BTD", what the last block reads

    @nn.compact
    def __call__(self, x: Array, sight: Sight, caches: Caches | None = None):
        cfg = self.config
        if unknown := set(sight.shown) - set(SHOWN):
            raise ValueError(f"shown={sorted(unknown)}: accepted are {', '.join(SHOWN)}")
        if sight.shown and caches is not None:
            raise ValueError("shown with caches: layers show whole sequences")
        if self.spec.relative is not None:
            init = nn.initializers.normal(cfg.d_model**-0.5)
            axes = (None, "heads")
            table = Embedding(
                self.spec.relative[0], cfg.num_heads, init, axes, name="relative_bias"
            )
            sight = sight.replace(bias_RH=table.embedding)
        block = make_block(cfg, self.spec, self.cross, self.train)
        if cfg.scan_layers:
            stack = nn.scan(
                _advance,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, 1),  # of caches: their first axis is the batch
                out_axes=(1, 0),
                length=cfg.num_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            (x, before), (caches, aux) = stack(block(0, name="blocks"), (x, x), sight, caches)
        else:
            new_caches, extras = [], []
            for layer in range(cfg.num_layers):
                cache, before = None if caches is None else caches[layer], x
                x, (cache, extra) = block(layer, name=f"block_{layer}")(x, sight, cache)
                new_caches.append(cache)
                extras.append(extra)
            caches = None if caches is None else tuple(new_caches)
            names = dict.fromkeys(name for extra in extras for name in extra)
            aux = {name: jnp.stack([e[name] for e in extras if name in e]) for name in names}
        return x, caches, aux | ({"fork_BTD": before} if self.fork else {})
