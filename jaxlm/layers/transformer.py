"""A stack of transformer blocks, encoder or decoder, scanned or unrolled, with a named ladder of rematerialisation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.attention import Attention, Caches, LayerCache, Sight
from jaxlm.layers.attention_backends import BACKENDS, Spec
from jaxlm.layers.embedding import Embedding
from jaxlm.layers.linear import Initializer
from jaxlm.layers.mlp import ACTIVATIONS, GATED, MLP
from jaxlm.layers.norm import NORMS

REMATS = {
    "none": None,  # keep every activation
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # keep products with weights
    "block": jax.checkpoint_policies.nothing_saveable,  # keep the inputs of each block
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a stack; a model's config adds its own fields, and makes fields of the class variables it offers."""

    inits: ClassVar[tuple[str, ...]] = ("gpt2", "normal", "zero_out")
    post_norm: ClassVar[bool] = False  # norm(x + f(x)), as BERT, instead of x + f(norm(x))
    qkv_bias: ClassVar[bool | None] = None  # None: as `bias`
    qk_norm: ClassVar[bool] = False
    norm_gains: ClassVar[bool] = True

    vocab_size: int = 0  # 0: the tokenizer's
    vocab_multiple: int = 128  # tables are padded to it; padding never enters a loss or a sample
    num_layers: int = 12
    d_model: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None  # None: num_heads
    head_dim: int | None = None  # None: d_model / num_heads
    d_ff: int | None = None  # None: 4 d_model, for gated kinds 8/3 of it rounded up to 64
    max_len: int = 1024
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    mlp: str = "gelu"
    bias: bool = True
    dropout: float = 0.0  # of embeddings and residual branches; never of attention probabilities
    init: str = "gpt2"  # or another of `inits`: see `initializers`
    init_std: float = 0.02  # of embeddings, and of kernels under gpt2 and normal
    loss_chunk: int = (
        0  # tokens whose logits exist at once; 0: all while they fit in 1 GiB, else 8192
    )
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    dtype: str = (
        "auto"  # of activations and products; auto: bfloat16 on an accelerator, float32 on CPU
    )

    def __post_init__(self):
        self.check_choices(
            norm=tuple(NORMS),
            mlp=tuple(ACTIVATIONS),
            init=self.inits,
            remat=tuple(REMATS),
            attention=BACKENDS,
            dtype=("auto", "float32", "bfloat16"),
        )
        for name in (
            "vocab_multiple",
            "num_layers",
            "d_model",
            "num_heads",
            "max_len",
            "kv_heads",
            "head_width",
            "ff_width",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)} must be at least 1")
        if self.vocab_size < 0:
            raise ValueError(
                f"model.vocab_size={self.vocab_size} must be 0 (the tokenizer's) or more"
            )
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ValueError(
                f"model.d_model={self.d_model} must be a multiple of model.num_heads={self.num_heads}"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} must be a multiple of model.num_kv_heads={self.kv_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout} must be in [0, 1)")

    def check_choices(self, **accepted: tuple[str, ...]) -> None:
        """Raise if a field has none of its accepted values."""
        for name, values in accepted.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"model.{name}={getattr(self, name)!r}: accepted are {', '.join(values)}"
                )

    @property
    def vocab_rows(self) -> int:
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def ff_width(self) -> int:
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // (3 * 64)) * 64 if self.mlp in GATED else 4 * self.d_model

    @property
    def compute_dtype(self) -> str:
        """`dtype`, with auto decided by the default device."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"

    def initializers(self) -> tuple[Initializer, Initializer, Initializer]:
        """Of kernels, of query projections, and of kernels that write to the residual stream.

        gpt2: normal(init_std), divided by sqrt(2 N) for the last (Radford et al. 2019, section 2.3).
        normal: normal(init_std) for all (BERT's code).
        zero_out: uniform with variance 1 / fan-in, and zeros for the last, so that every block starts as the
        identity (Zhang et al. 2019, Fixup, arXiv:1901.09321, section 3).
        fan_in: normal with variance 1 / fan-in; queries divided by sqrt(head width), since T5 does not scale
        its scores (T5's code).
        """
        if self.init == "zero_out":
            uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
            return uniform, uniform, nn.initializers.zeros
        if self.init == "fan_in":
            kernel = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
            query = nn.initializers.variance_scaling(1.0 / self.head_width, "fan_in", "normal")
            return kernel, query, kernel
        kernel = nn.initializers.normal(self.init_std)
        if self.init == "normal":
            return kernel, kernel, kernel
        return kernel, kernel, nn.initializers.normal(self.init_std * (2 * self.num_layers) ** -0.5)

    def activation_bytes(self, num_tokens: int) -> float:
        """About what the backward pass through stack and logits keeps; fitted to GPT-2 small on a CPU."""
        size = jnp.dtype(self.compute_dtype).itemsize
        kept = {
            "none": 30 * self.d_model + 6 * self.ff_width,
            "dots": 8 * self.d_model + self.ff_width,
        }
        layer = kept.get(self.remat, self.d_model)
        logits = 3 * 4 * min(num_tokens * self.vocab_rows, 2**28)
        return size * num_tokens * layer * self.num_layers + logits

    def make_norm(self, name: str) -> nn.Module:
        if self.norm == "layernorm":
            return NORMS[self.norm](self.norm_eps, bias=self.bias, name=name)
        return NORMS[self.norm](self.norm_eps, self.norm_gains, name=name)

    def make_attention(self, name: str, spec: Spec) -> nn.Module:
        kernel_init, query_init, out_init = self.initializers()
        return Attention(
            num_heads=self.num_heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_width,
            spec=spec,
            kernel_init=kernel_init,
            query_init=query_init,
            out_init=out_init,
            backend=self.attention,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            norm_gains=self.norm_gains,
            qkv_bias=self.bias if self.qkv_bias is None else self.qkv_bias,
            bias=self.bias,
            dtype=self.compute_dtype,
            name=name,
        )


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), as GPT-2 and Llama; a decoder's block reads its source between.

    With `config.post_norm` each step is norm(x + f(x)), as BERT.
    """

    config: TransformerConfig
    spec: Spec
    cross: bool = False
    train: bool = False

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
        mixed, own = attention(before(norm, x), sight, cache)
        aux = {}
        x = after(norm, x, mixed)
        if self.cross:
            norm = cfg.make_norm("cross_norm")
            soft_cap, scale = self.spec.soft_cap, self.spec.scale
            spec = Spec(causal=False, soft_cap=soft_cap, cross=True, scale=scale)
            read, source = cfg.make_attention("cross", spec)(
                before(norm, x), sight, None if cache is None else cache.cross
            )
            x = after(norm, x, read)
            own = None if own is None else own.replace(cross=source)
        norm = cfg.make_norm("mlp_norm")
        kernel_init, _, out_init = cfg.initializers()
        mlp = MLP(
            cfg.mlp, cfg.ff_width, kernel_init, out_init, cfg.bias, cfg.compute_dtype, name="mlp"
        )
        return after(norm, x, mlp(before(norm, x))), (own, aux)


class Stack(nn.Module):
    """`num_layers` blocks that see as `spec` says. `caches`: as `empty_cache` makes them, or None.

    With `spec.relative` the stack owns the table of position biases that all its layers share. Gives the states, the new
    caches, and what the layers report of themselves, each entry with a first axis for the layers that have it.
    """

    config: TransformerConfig
    spec: Spec
    cross: bool = False
    train: bool = False

    @nn.compact
    def __call__(self, x: Array, sight: Sight, caches: Caches | None = None):
        cfg = self.config
        if self.spec.relative is not None:
            init = nn.initializers.normal(cfg.d_model**-0.5)
            axes = (None, "heads")
            table = Embedding(
                self.spec.relative[0], cfg.num_heads, init, axes, name="relative_bias"
            )
            sight = sight.replace(bias_RH=table.embedding)
        block = Block
        if cfg.remat != "none" and self.train:
            block = nn.remat(Block, policy=REMATS[cfg.remat], prevent_cse=not cfg.scan_layers)
        fixed = (cfg, self.spec, self.cross, self.train)
        if cfg.scan_layers:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, 1),  # of caches: their first axis is the batch
                out_axes=(1, 0),
                length=cfg.num_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x, (caches, aux) = stack(*fixed, name="blocks")(x, sight, caches)
            return x, caches, aux
        new_caches, extras = [], []
        for layer in range(cfg.num_layers):
            cache = None if caches is None else caches[layer]
            x, (cache, aux) = block(*fixed, name=f"block_{layer}")(x, sight, cache)
            new_caches.append(cache)
            if aux:
                extras.append(aux)
        aux = jax.tree.map(lambda *parts: jnp.stack(parts), *extras) if extras else {}
        return x, None if caches is None else tuple(new_caches), aux
