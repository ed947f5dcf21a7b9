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
from jaxlm.train import depth
from jaxlm.train.tuning.full import Full

HEADS = ("classifier", "value")
"""Subtrees that a pretrained model brings no weights for: they train in every tuning."""
OUTPUTS = (*HEADS, "head", "mlm")
"""Subtrees that make scores from states."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What trains: all that no rule freezes.

    Attributes:
      freeze: regular expressions, searched in a parameter's path ("embed", "stack/block_[0-3]/"): what they find is frozen.
      last_layers: the last so many blocks of each stack train, and what stands behind them; 0: a linear probe, the
        outputs' weights alone; -1: every layer.
      unfreeze_every: steps; the last layer trains from the first step on, each further one so many steps later, what stands
        before the first layer last of all (Howard and Ruder 2018, ULMFiT, arXiv:1801.06146, section 3.3, where a layer comes
        each epoch). 0: all at once. Until its turn a parameter stands still, but its gradient counts in optim.clip_norm and
        in the optimizer's moments, so that its first updates are no larger than later ones.
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
        leaves = partition.flatten(params)
        check_found("freeze", config.freeze, leaves)
        if config.last_layers > 0:
            depth.check_unrolled(leaves, "tuning.last_layers")
        most = max(depth.num_layers(leaves).values(), default=0)
        if config.last_layers > most:
            raise ValueError(
                f"tuning.last_layers={config.last_layers} is more than the model's {most} layers"
            )
        self.depths = depth.of_all(leaves)
        self.chosen = {path for path in leaves if self._trains(path)}
        if not self.chosen:
            raise ValueError(
                f"tuning: nothing is left to train (freeze={list(config.freeze)}, last_layers={config.last_layers}); "
                f"a linear probe needs weights of the outputs' own: {', '.join(OUTPUTS)}"
            )

    def trains(self, path: str) -> bool:
        return path in self.chosen

    def _trains(self, path: str) -> bool:
        if found(self.config.freeze, path):
            return False
        if self.config.last_layers < 0:
            return True
        if self.config.last_layers == 0:
            return path.split("/")[0] in OUTPUTS
        return bool(self.depths[path].max() < self.config.last_layers)

    def optimizer(
        self, tx: optax.GradientTransformation, trained: PyTree
    ) -> optax.GradientTransformation:
        """Before a parameter's turn its updates are dropped; its moments follow its gradient from the first step on."""
        every = self.config.unfreeze_every
        if not every:
            return tx
        starts = {path: every * self.depths[path] for path in partition.flatten(trained)}
        return _from_step(tx, partition.nest(starts))

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


def found(patterns: Sequence[str], path: str) -> bool:
    """Whether one of them is in it."""
    return any(re.search(pattern, path) for pattern in patterns)


def _short(path: str) -> str:
    """A path without its layer's number and its last name."""
    return re.sub(r"block_\d+", "block_*", path.rpartition("/")[0] or path)


class _Counted(NamedTuple):
    count: Array
    inner: Any


def _from_step(tx: optax.GradientTransformation, starts: PyTree) -> optax.GradientTransformation:
    """`tx`, whose updates of each leaf (or layer of a leaf) count from step `starts` on."""

    def update(updates, state, params=None):
        updates, inner = tx.update(updates, state.inner, params)
        updates = jax.tree.map(
            lambda x, start: jnp.where(state.count >= start, x, jnp.zeros((), x.dtype)),
            updates,
            starts,
        )
        return updates, _Counted(state.count + 1, inner)

    return optax.GradientTransformation(
        lambda params: _Counted(jnp.zeros((), jnp.int32), tx.init(params)), update
    )
