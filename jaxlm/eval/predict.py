"""Runs an evaluator over a split with a model's weights: compiles once, knows where the arrays live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxlm.core.types import Batch, ModelOutput, PyTree
from jaxlm.eval import Evaluator, Row


def compiled(
    outputs: Callable[[ModelOutput, Batch], Any],
    model: Any,
    place: Callable[[Batch], Batch],
    replicated: Any,
) -> Callable[[PyTree, Batch], Any]:
    """`outputs(model's output, batch)` as a function of weights and a host batch, whose entry `id` stays on the host.

    Args:
      place: puts a host batch onto the devices.
      replicated: the sharding that every process can read results from.
    """
    names = (*model.inputs, *model.optional_inputs)

    def run(params: PyTree, batch: Batch) -> Any:
        inputs = {name: batch[name] for name in names if name in batch}
        return outputs(model.apply({"params": params}, **inputs), batch)

    jitted = jax.jit(run, out_shardings=replicated)

    def predict(params: PyTree, batch: Batch) -> Any:
        arrays = {name: value for name, value in batch.items() if name != "id"}
        return jax.device_get(jitted(params, place(arrays)))

    return predict


class Scorer:
    """One evaluator bound to one model; see `compiled`."""

    def __init__(
        self, evaluator: Evaluator, model: Any, place: Callable[[Batch], Batch], replicated: Any
    ):
        self.evaluator = evaluator
        self._predict = compiled(evaluator.outputs, model, place, replicated)

    def __call__(self, params: PyTree, data: Iterable[Batch]) -> list[Row]:
        """Rows of the evaluator over all of `data`."""
        return self.evaluator.run(lambda batch: self._predict(params, batch), data)
