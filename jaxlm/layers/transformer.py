"""A stack of pre-norm transformer blocks, scanned or unrolled, with a named ladder of rematerialisation."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import Array
from jaxlm.layers.attention import Attention, LayerCache, Sight
from jaxlm.layers.attention_backends import BACKENDS, Spec
from jaxlm.layers.linear import Initializer
from jaxlm.layers.mlp import MLP, MLPS
from jaxlm.layers.norm import NORMS
from jaxlm.layers.positions import POSITIONS

REMATS = {
    "none": None,  # keep every activation
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # keep products with weights
    "block": jax.checkpoint_policies.nothing_saveable,  # keep the inputs of each block
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a stack; a model's config adds its own fields."""

    num_layers: int = 12
    d_model: int = 768
    num_heads: int = 12
    num_kv_heads: int | None = None  # None: num_heads
    head_dim: int | None = None  # None: d_model / num_heads
    d_ff: int | None = None  # None: 4 d_model, for swiglu 8/3 of it rounded up to 64
    max_len: int = 1024
    positions: str = "learned"
    rope_base: float = 10_000.0
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    norm_gains: bool = True  # off: rmsnorm without parameters
    mlp: str = "gelu"
    bias: bool = True
    qk_norm: bool = False
    attention_soft_cap: float = 0.0
    window: int = 0  # attend to the last `window` positions; 0: all
    dropout: float = 0.0  # of embeddings and residual branches; never of attention probabilities
    init: str = "gpt2"  # or "zero_out": see `initializers`
    init_std: float = 0.02  # of embeddings, and of kernels under gpt2
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    dtype: str = (
        "auto"  # of activations and products; auto: bfloat16 on an accelerator, float32 on CPU
    )

    def __post_init__(self):
        for name, accepted in (
            ("positions", POSITIONS),
            ("norm", tuple(NORMS)),
            ("mlp", MLPS),
            ("init", ("gpt2", "zero_out")),
            ("remat", tuple(REMATS)),
            ("attention", BACKENDS),
            ("dtype", ("auto", "float32", "bfloat16")),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"model.{name}={getattr(self, name)!r}: accepted are {', '.join(accepted)}"
                )
        for name in (
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
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ValueError(
                f"model.d_model={self.d_model} must be a multiple of model.num_heads={self.num_heads}"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} must be a multiple of model.num_kv_heads={self.kv_heads}"
            )
        if self.positions == "rotary" and self.head_width % 2:
            raise ValueError(
                f'model.positions="rotary" needs an even head width, not {self.head_width}'
            )
        if self.norm == "layernorm" and not self.norm_gains:
            raise ValueError('model.norm_gains=False needs model.norm="rmsnorm"')
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout} must be in [0, 1)")
        if self.window < 0:
            raise ValueError(f"model.window={self.window} must be 0 (no limit) or more")

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
        return -(-8 * self.d_model // (3 * 64)) * 64 if self.mlp == "swiglu" else 4 * self.d_model

    @property
    def spec(self) -> Spec:
        """What this stack asks of attention."""
        return Spec(True, self.window, self.attention_soft_cap, alibi=self.positions == "alibi")

    @property
    def compute_dtype(self) -> str:
        """`dtype`, with auto decided by the default device."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"

    def initializers(self) -> tuple[Initializer, Initializer]:
        """Of kernels, and of those that write to the residual stream.

        gpt2: normal(init_std), divided by sqrt(2 N) for the second (Radford et al. 2019, section 2.3).
        zero_out: uniform with variance 1 / fan-in, and zeros, so that every block starts as the
        identity (Zhang et al. 2019, Fixup, arXiv:1901.09321, section 3).
        """
        if self.init == "zero_out":
            uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
            return uniform, nn.initializers.zeros
        scaled = self.init_std * (2 * self.num_layers) ** -0.5
        return nn.initializers.normal(self.init_std), nn.initializers.normal(scaled)

    def make_norm(self, name: str) -> nn.Module:
        if self.norm == "layernorm":
            return NORMS[self.norm](self.norm_eps, bias=self.bias, name=name)
        return NORMS[self.norm](self.norm_eps, self.norm_gains, name=name)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the pre-norm block of GPT-2 and Llama."""

    config: TransformerConfig
    train: bool = False

    @nn.compact
    def __call__(self, x: Array, sight: Sight, cache: LayerCache | None):
        cfg, dtype = self.config, self.config.compute_dtype
        init, out_init = cfg.initializers()
        drop = nn.Dropout(cfg.dropout, deterministic=not self.train)
        attention = Attention(
            num_heads=cfg.num_heads,
            num_kv_heads=cfg.kv_heads,
            head_dim=cfg.head_width,
            spec=cfg.spec,
            kernel_init=init,
            out_init=out_init,
            backend=cfg.attention,
            qk_norm=cfg.qk_norm,
            norm_eps=cfg.norm_eps,
            norm_gains=cfg.norm_gains,
            bias=cfg.bias,
            dtype=dtype,
            name="attention",
        )
        mlp = MLP(cfg.mlp, cfg.ff_width, init, out_init, cfg.bias, dtype, name="mlp")
        mixed, cache = attention(cfg.make_norm("attention_norm")(x), sight, cache)
        x = nn.with_logical_constraint(x + drop(mixed), ("batch", "length", None))
        x = x + drop(mlp(cfg.make_norm("mlp_norm")(x)))
        return nn.with_logical_constraint(x, ("batch", "length", None)), cache


class Stack(nn.Module):
    """`num_layers` blocks. `caches` is one LayerCache with a leading layer axis, or None."""

    config: TransformerConfig
    train: bool = False

    @nn.compact
    def __call__(self, x: Array, sight: Sight, caches: LayerCache | None = None):
        cfg = self.config
        block = Block
        if cfg.remat != "none" and self.train:
            block = nn.remat(Block, policy=REMATS[cfg.remat], prevent_cse=not cfg.scan_layers)
        if cfg.scan_layers:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, 0),
                length=cfg.num_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            return stack(cfg, self.train, name="blocks")(x, sight, caches)
        new_caches = []
        for layer in range(cfg.num_layers):
            cache = jax.tree.map(lambda leaf, layer=layer: leaf[layer], caches)
            x, cache = block(cfg, self.train, name=f"block_{layer}")(x, sight, cache)
            new_caches.append(cache)
        if caches is None:
            return x, None
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *new_caches)
