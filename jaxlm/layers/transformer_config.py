"""The shape of a stack of transformer blocks: sizes, kinds, initial weights, and the parts that a block is made of."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core.types import PyTree
from jaxlm.layers.attention import Attention
from jaxlm.layers.attention_backends import BACKENDS, Spec
from jaxlm.layers.linear import Initializer
from jaxlm.layers.mlp import ACTIVATIONS, GATED, MLP
from jaxlm.layers.model_config import DTYPES, ModelConfig
from jaxlm.layers.norm import NORMS

REMATS = {
    "none": None,  # keep every activation
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # keep products with weights
    "block": jax.checkpoint_policies.nothing_saveable,  # keep the inputs of each block
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """The shape of a stack; a model's config adds its own fields, and makes fields of the class variables it offers."""

    inits: ClassVar[tuple[str, ...]] = ("gpt2", "normal", "zero_out")
    post_norm: ClassVar[bool] = False  # norm(x + f(x)), as BERT, instead of x + f(norm(x))
    qkv_bias: ClassVar[bool | None] = None  # None: as `bias`
    qk_norm: ClassVar[bool] = False
    norm_gains: ClassVar[bool] = True
    num_experts: ClassVar[int] = 0  # layers/moe_config.py has the fields of a mixture of experts

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
            dtype=DTYPES,
        )
        sizes = ("vocab_multiple", "num_layers", "d_model", "num_heads", "max_len")
        derived = ("num_kv_heads", "head_dim", "d_ff")
        self.check_least(**dict.fromkeys((*sizes, *derived), 1))
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
        self.check_rates("dropout")

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

    def attention_initializers(self) -> tuple[Initializer, Initializer, Initializer]:
        """As `initializers`: of projections of keys and values, of queries, and of what is read."""
        return self.initializers()

    def activation_bytes(self, num_tokens: int, scored: int = 1) -> float:
        """About what the backward pass through stack and `scored` targets a token keeps; fitted to GPT-2 small on a CPU."""
        size = jnp.dtype(self.compute_dtype).itemsize
        kept = {
            "none": 30 * self.d_model + self.mlp_activations,
            "dots": 8 * self.d_model + self.mlp_activations // 6,
        }
        layer = kept.get(self.remat, self.d_model)
        logits = 3 * 4 * min(num_tokens * scored * self.vocab_rows, 2**28)
        return size * num_tokens * layer * self.num_layers + logits

    @property
    def mlp_activations(self) -> int:
        """Numbers that a token's way through a block's MLP keeps."""
        return 6 * self.ff_width

    def is_dense(self, layer: int) -> bool:
        """Whether block `layer`, from 0, has no experts."""
        return True

    def active_size(self, params: PyTree) -> int:
        """Parameters that a token meets."""
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    def make_norm(self, name: str) -> nn.Module:
        if self.norm == "layernorm":
            return NORMS[self.norm](self.norm_eps, bias=self.bias, name=name)
        return NORMS[self.norm](self.norm_eps, self.norm_gains, name=name)

    def make_attention(self, name: str, spec: Spec) -> nn.Module:
        kernel_init, query_init, out_init = self.attention_initializers()
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

    def make_mlp(self, name: str, width: int) -> nn.Module:
        kernel_init, _, out_init = self.initializers()
        return MLP(self.mlp, width, kernel_init, out_init, self.bias, self.compute_dtype, name=name)
