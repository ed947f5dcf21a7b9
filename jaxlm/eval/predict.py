"""Runs an evaluator over a split with a model's weights: compiles once, knows where the arrays live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxlm.core.types import Batch, PyTree
from jaxlm.eval import Evaluator, Row


class Scorer:
    """One evaluator bound to one model.

    `place` puts a host batch onto the devices; `replicated` is the sharding that every process can
    read results from.
    """

    def __init__(
        self, evaluator: Evaluator, model: Any, place: Callable[[Batch], Batch], replicated: Any
    ):
        self.evaluator = evaluator
        self.place = place
        names = (*model.inputs, *model.optional_inputs)

        def outputs(params: PyTree, batch: Batch):
            output = model.apply(
                {"params": params}, **{name: batch[name] for name in names if name in batch}
            )
            return evaluator.outputs(output, batch)

        self._outputs = jax.jit(outputs, out_shardings=replicated)

    def __call__(self, params: PyTree, data: Iterable[Batch]) -> list[Row]:
        """Rows of the evaluator over all of `data`, whose bookkeeping entry `id` stays on the host."""

        def predict(batch: Batch) -> dict[str, Any]:
            arrays = {name: value for name, value in batch.items() if name != "id"}
            return jax.device_get(self._outputs(params, self.place(arrays)))

        return self.evaluator.run(predict, data)
