"""Some parameters train as they are, the others not at all: frozen patterns, last layers, a linear probe, gradual unfreezing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlm.core import partition
from jaxlm.core.types import Array, PyTree
from jaxlm.train.tuning.full import Full

HEADS = ("classifier", "value")
"""Subtrees that a pretrained model brings no weights for: they train in every tuning."""
OUTPUTS = (*HEADS, "head", "mlm")
"""Subtrees that make scores from states."""
INPUTS = ("embed", "positions", "token_types", "embedding_norm", "relative_bias", "project")
"""Subtrees below the first layer."""
_LAYER = re.compile(r"^(.*?)block_(\d+)/")
_SCANNED = re.compile(r"(^|/)blocks/")


@dataclasses.dataclass(frozen=True)
class Config:
    """What trains: all that no rule freezes.

    Attributes:
      freeze: regular expressions, searched in a parameter's path ("embed", "stack/block_[0-3]/"): what they find is frozen.
      last_layers: the last so many blocks of each stack train, and what stands behind them; 0: a linear probe, the
        outputs' weights alone; -1: every layer.
      unfreeze_every: steps; the last layer trains from the first step on, each further one so many steps later, what stands
        before the first layer last of all (Howard and Ruder 2018, ULMFiT, arXiv:1801.06146, section 3.3, where a step is an
        epoch). 0: all at once.
    """

    freeze: tuple[str, ...] = ()
    last_layers: int = -1
    unfreeze_every: int = 0

    def __post_init__(self):
        check_patterns("freeze", self.freeze)
        if self.last_layers < -1:
            raise ValueError(f"tuning.last_layers={self.last_layers} must be -1 (all) or more")
        if self.unfreeze_every < 0:
            raise ValueError(f"tuning.unfreeze_every={self.unfreeze_every} must be 0 or more")


class Partial(Full):
    """Parameters are frozen by name or by layer; see Config. The methods: `jaxlm.train.tuning`."""

    Config: ClassVar[type] = Config

    def __init__(self, config: Config, params: PyTree):
        """Raises ValueError where a pattern finds nothing, nothing is left to train, or layers can't be told apart."""
        super().__init__(config)
        paths = list(partition.flatten(params))
        check_found("freeze", config.freeze, paths)
        if config.last_layers > 0 or config.unfreeze_every:
            check_unrolled(paths)
        self.layers = _layers(paths)
        if config.last_layers > max(self.layers.values(), default=0):
            raise ValueError(
                f"tuning.last_layers={config.last_layers} is more than the model's "
                f"{max(self.layers.values(), default=0)} layers"
            )
        self.chosen = {path for path in paths if self._trains(path)}
        if not self.chosen:
            raise ValueError("tuning: nothing is left to train")

    def trains(self, path: str) -> bool:
        return path in self.chosen

    def _trains(self, path: str) -> bool:
        if found(self.config.freeze, path):
            return False
        if self.config.last_layers < 0:
            return True
        if self.config.last_layers == 0:
            return path.split("/")[0] in OUTPUTS
        return _depth(path, self.layers) < self.config.last_layers

    def optimizer(
        self, tx: optax.GradientTransformation, trained: PyTree
    ) -> optax.GradientTransformation:
        """Before a parameter's first step it gets no gradient and no update; Adam's bias correction counts all steps."""
        every = self.config.unfreeze_every
        if not every:
            return tx
        leaves = partition.flatten(trained)
        starts = partition.nest({path: every * _depth(path, self.layers) for path in leaves})
        return _from_step(tx, starts)

    def describe(self) -> str:
        rules = [f"frozen {', '.join(self.config.freeze)}"] if self.config.freeze else []
        if self.config.last_layers == 0:
            rules.append("a linear probe")
        if self.config.last_layers > 0:
            rules.append(f"the last {self.config.last_layers} layers")
        if self.config.unfreeze_every:
            rules.append(f"a layer more every {self.config.unfreeze_every} steps")
        return "; ".join(rules)


def check_patterns(name: str, patterns: Sequence[str]) -> None:
    """Raises ValueError for what is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"tuning.{name}: {pattern!r} is not a regular expression: {error}"
            ) from None


def check_found(name: str, patterns: Sequence[str], paths: Iterable[str]) -> None:
    """Raises ValueError for a pattern that finds nothing."""
    paths = list(paths)
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"tuning.{name}: no parameter has {pattern!r} in its path; there are "
                f"{', '.join(sorted({_short(path) for path in paths}))}"
            )


def check_unrolled(paths: Iterable[str]) -> None:
    """Raises ValueError where all layers are one array."""
    if any(_SCANNED.search(path) for path in paths):
        raise ValueError("tuning by layers needs them one by one: set model.scan_layers=False")


def found(patterns: Sequence[str], path: str) -> bool:
    """Whether one of them is in it."""
    return any(re.search(pattern, path) for pattern in patterns)


def _short(path: str) -> str:
    """A path without its layer's number and its last name."""
    return re.sub(r"block_\d+", "block_*", path.rpartition("/")[0] or path)


def _layers(paths: Iterable[str]) -> dict[str, int]:
    """How many blocks each stack has, by what stands before their names."""
    counts: dict[str, int] = {}
    for path in paths:
        if match := _LAYER.match(path):
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    return counts


def _depth(path: str, layers: dict[str, int]) -> int:
    """0 for the last layer and what stands behind it, 1 for the one before; what stands before the first is deepest."""
    if match := _LAYER.match(path):
        return layers[match[1]] - 1 - int(match[2])
    below = any(name in INPUTS for name in path.split("/"))
    return max(layers.values(), default=0) if below else 0


class _Counted(NamedTuple):
    count: Array
    inner: Any


def _from_step(tx: optax.GradientTransformation, starts: PyTree) -> optax.GradientTransformation:
    """`tx`, for each leaf from its update number on."""

    def only(count: Array, updates: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x, start: jnp.where(count >= start, x, jnp.zeros_like(x)), updates, starts
        )

    def update(updates, state, params=None):
        updates, inner = tx.update(only(state.count, updates), state.inner, params)
        return only(state.count, updates), _Counted(state.count + 1, inner)

    return optax.GradientTransformation(
        lambda params: _Counted(jnp.zeros((), jnp.int32), tx.init(params)), update
    )
