"""Everything trains."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import optax

from jaxlm.core import partition
from jaxlm.core.types import PyTree


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing to choose."""


class Full:
    """Everything trains; what the other tunings have in common is here too. The methods: `jaxlm.train.tuning`."""

    Config: ClassVar[type] = Config

    def __init__(self, config: Any, params: PyTree = None):
        del params
        self.config = config

    @staticmethod
    def model(config: Any, model: Any) -> Any:
        del config
        return model

    def trains(self, path: str) -> bool:
        del path
        return True

    def split(self, params: PyTree, key: Any) -> tuple[PyTree, PyTree]:
        del key
        return partition.split(params, self.trains)

    def begin(self, model: Any, trained: PyTree, base: PyTree, key: Any) -> PyTree:
        del model, base, key
        return trained

    def merge(self, trained: PyTree, base: PyTree, train: bool = False) -> PyTree:
        del train
        return partition.join(trained, base) if base else trained

    def folded(self, trained: PyTree, base: PyTree) -> PyTree:
        return self.merge(trained, base)

    def first(self, trained: PyTree) -> PyTree:
        return trained

    def optimizer(
        self, tx: optax.GradientTransformation, trained: PyTree
    ) -> optax.GradientTransformation:
        del trained
        return tx

    def describe(self) -> str:
        return ""


FULL = Full(Config())
