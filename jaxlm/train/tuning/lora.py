"""Low-rank adapters: beside each chosen kernel W a product A B of small rank trains, W does not.

Adapters in peft's files are in interop/peft.py; where A and B meet the input, in layers/linear.py.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core import partition
from jaxlm.core.types import Array, PyTree
from jaxlm.train.tuning.full import Full
from jaxlm.train.tuning.partial import HEADS, check_found, check_patterns, found


@dataclasses.dataclass(frozen=True)
class Config:
    """y = x W + (alpha / rank) drop(x) A B.

    Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv:2106.09685, section 4.1. A is drawn
    uniformly within 1 / sqrt(inputs), as peft does it (the paper: from a normal distribution); B begins as 0.

    Attributes:
      rank: columns of A.
      alpha: the scale's numerator.
      targets: regular expressions, searched in a linear layer's path ("attention/(q|v)$"); by default all of the blocks.
      dropout: share of a layer's inputs that its adapter does not see in training.
      also: patterns of parameters that train as they are ("embed", "_norm"). Fresh heads (classifier, value) do anyway.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention/", "cross/", "mlp/")
    dropout: float = 0.0
    also: tuple[str, ...] = ()

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"tuning.rank={self.rank} must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"tuning.alpha={self.alpha} must be positive and finite")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"tuning.dropout={self.dropout} must be in [0, 1)")
        if not self.targets:
            raise ValueError("tuning.targets names no layer")
        check_patterns("targets", self.targets)
        check_patterns("also", self.also)

    @property
    def scale(self) -> float:
        """Of A B."""
        return self.alpha / self.rank


class LoRA(Full):
    """Adapters beside frozen kernels; see Config. The methods: `jaxlm.train.tuning`."""

    Config: ClassVar[type] = Config

    def __init__(self, config: Config, params: PyTree):
        """Raises ValueError where no linear layer has one of `targets`, or no parameter one of `also`, in its path."""
        super().__init__(config)
        paths = list(partition.flatten(params))
        linear = [path.removesuffix("/kernel") for path in paths if _is_linear(path)]
        self.layers = [path for path in linear if found(config.targets, path)]
        if not self.layers:
            check_found("targets", config.targets, linear)
        if config.targets != Config.targets:
            for pattern in config.targets:
                check_found("targets", (pattern,), linear)
        # A pattern that finds kernels with adapters alone would change nothing.
        check_found("also", config.also, [path for path in paths if not self._adapted(path)])

    def trains(self, path: str) -> bool:
        whole = path.split("/")[0] in HEADS or found(self.config.also, path)
        return whole and not self._adapted(path)

    def _adapted(self, path: str) -> bool:
        return path.endswith("/kernel") and path.removesuffix("/kernel") in self.layers

    def split(self, params: PyTree, key: Array) -> tuple[PyTree, PyTree]:
        trained, base = partition.split(params, self.trains)
        leaves = partition.flatten(base)
        pairs: dict[str, Any] = {}
        for layer in self.layers:
            own = jax.random.fold_in(key, zlib.crc32(layer.encode()))
            a, b = self._pair(leaves[f"{layer}/kernel"], own)
            pairs |= {f"{layer}/lora_a": a, f"{layer}/lora_b": b}
        return partition.join(trained, partition.nest(pairs)), base

    def _pair(self, kernel: Any, key: Array) -> tuple[Any, Any]:
        """A [.., in, rank] and B [.., rank, out] of a kernel [.., in, out], boxed where it is."""
        value = nn.unbox(kernel)
        *stack, num_in, num_out = value.shape
        bound = 1 / math.sqrt(num_in)
        shape = (*stack, num_in, self.config.rank)
        a = jax.random.uniform(key, shape, value.dtype, -bound, bound)
        b = jnp.zeros((*stack, self.config.rank, num_out), value.dtype)
        if not isinstance(kernel, nn.Partitioned):
            return a, b
        *outer, first, last = kernel.names
        return (
            kernel.replace(value=a, names=(*outer, first, None)),
            kernel.replace(value=b, names=(*outer, None, last)),
        )

    def merge(self, trained: PyTree, base: PyTree, train: bool = False) -> PyTree:
        leaves = partition.flatten(trained)
        for layer in self.layers:
            b = leaves[f"{layer}/lora_b"]
            leaves[f"{layer}/lora_b"] = b * jnp.asarray(self.config.scale, b.dtype)
            if train and self.config.dropout:
                rate = jnp.full(b.shape[:-2], self.config.dropout, jnp.float32)
                leaves[f"{layer}/lora_dropout"] = rate
        return partition.join(partition.nest(leaves), base)

    def folded(self, trained: PyTree, base: PyTree) -> PyTree:
        leaves, frozen = partition.flatten(trained), partition.flatten(base)
        for layer in self.layers:
            a, b = (leaves.pop(f"{layer}/{name}") for name in ("lora_a", "lora_b"))
            kernel = frozen[f"{layer}/kernel"]
            product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
            frozen[f"{layer}/kernel"] = kernel + self.config.scale * product
        return partition.nest(frozen | leaves)

    def first(self, trained: PyTree) -> PyTree:
        return partition.split(trained, lambda path: not is_adapter(path))[0]

    def describe(self) -> str:
        also = f", {', '.join(self.config.also)} whole" if self.config.also else ""
        return f"LoRA of rank {self.config.rank} beside {len(self.layers)} kernels{also}"


def is_adapter(path: str) -> bool:
    """Whether a parameter is one that a tuning has put beside the model's own."""
    return path.rpartition("/")[2] in partition.ADAPTERS


def _is_linear(path: str) -> bool:
    """Whether it is the kernel of a `Linear`, and no table of scores or of experts."""
    names = path.split("/")
    return names[-1] == "kernel" and names[0] not in ("head", *HEADS) and "experts" not in names
