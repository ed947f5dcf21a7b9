"""Runs an evaluator over a split with a model's weights: compiles once, knows where the arrays live, writes texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxlm import registry
from jaxlm.core.types import Batch, ModelOutput, PyTree, Tokenizer
from jaxlm.decode import METHODS, prompted
from jaxlm.decode.stopping import text_of
from jaxlm.decode.types import Request
from jaxlm.eval import Evaluator, Scores

HOST_ONLY = ("id", "input", "reference", "raw")
"""Batch entries that only evaluators and people read: numbers and raw texts of examples, and what else one's own evaluator
needs to know of them."""


def compiled(
    outputs: Callable[[ModelOutput, Batch], Any],
    model: Any,
    place: Callable[[Batch], Batch],
    replicated: Any,
) -> Callable[[PyTree, Batch], Any]:
    """`outputs(model's output, batch)` as a function of weights and a host batch, whose HOST_ONLY entries stay there.

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
        arrays = {name: value for name, value in batch.items() if name not in HOST_ONLY}
        return jax.device_get(jitted(params, place(arrays)))

    return predict


def writing(
    writes: Mapping[str, Any], model: Any, tokenizer: Tokenizer
) -> Callable[[PyTree, Batch], dict[str, list[str]]]:
    """{"texts": what a model writes} as a function of weights and a host batch; "" for filling rows.

    An encoder-decoder writes from its source, a causal model on behind a row's prompt (decode/prompted.py).

    Every process of a run writes all texts, as every one holds the whole batch. What is drawn, where anything is, depends on
    an example's `id` alone.

    Args:
      writes: see `Evaluator`.
      model: has `init_cache` and `extend`.
      tokenizer: its `eos_id` ends a text; one behind a prompt ends as the data's answers do.

    Raises:
      ValueError: a model that writes nothing, or a setting that the way of decoding doesn't have.
    """
    if not hasattr(model, "extend"):
        raise ValueError(
            f"evaluators: texts are to be written, and {type(model).__name__} writes none; "
            'model.kind="gpt", "vlm", "glm", "encoder_decoder" or "t5" does'
        )
    sources = getattr(model, "source_inputs", ())
    settings = dict(writes)
    kind, max_tokens = settings.pop("method", "sample"), settings.pop("max_tokens", 0)
    method = registry.lookup(METHODS, kind, "method")(**settings)

    def predict(params: PyTree, batch: Batch) -> dict[str, list[str]]:
        rows = np.flatnonzero(batch["id"] >= 0)
        texts = [""] * len(batch["id"])
        for row, best in zip(rows, method.write(model, params, asked(batch, rows)), strict=True):
            texts[row] = text_of(tokenizer, best[0].tokens, begins=bool(sources))
        return {"texts": texts}

    def asked(batch: Batch, rows: np.ndarray) -> Request:
        tokens, seeds = batch["tokens"][rows], batch["id"][rows].tolist()
        if not sources:
            targets, weights = batch["targets"][rows], batch["weights"][rows]
            prompts = prompted.prompts(tokens, weights)
            end_ids = (prompted.end_of(targets, weights),)
            how = {"end_ids": end_ids, "seeds": seeds, "max_tokens": max_tokens}
            return prompted.request(prompts, tokens.shape[1], **how)
        length = max_tokens or tokens.shape[1]
        return Request(
            prompts=tokens[:, :1].tolist(),
            max_tokens=length,
            max_len=length + 1,
            end_ids=() if tokenizer.eos_id is None else (tokenizer.eos_id,),
            seeds=seeds,
            inputs={name: batch[name][rows] for name in sources if name in batch},
        )

    return predict


def check_writes(evaluator: Any, model: Any, example: Batch) -> None:
    """That an evaluator with `writes` can score this model on this data: before a run, not at its first evaluation.

    Raises:
      ValueError: a model that writes nothing, a wrong setting, or data without texts to compare with.
    """
    writing(evaluator.writes, model, evaluator.tokenizer)
    if "reference" not in example:
        raise ValueError(
            "evaluators: this data gives no texts to compare with what is written (no `reference` in its batches); "
            'data.kind="pairs", "packed_pairs", "captions" or "prompts" does'
        )


class Scorer:
    """One evaluator bound to one model; see `compiled` and `writing`."""

    def __init__(
        self, evaluator: Evaluator, model: Any, place: Callable[[Batch], Batch], replicated: Any
    ):
        self.evaluator = evaluator
        if hasattr(evaluator, "writes"):
            self._predict = writing(evaluator.writes, model, evaluator.tokenizer)
        else:
            self._predict = compiled(evaluator.outputs, model, place, replicated)

    def __call__(
        self, params: PyTree, data: Iterable[Batch], written: dict[Any, Any] | None = None
    ) -> Scores:
        """What the evaluator finds over all of `data`.

        Args:
          params: the weights.
          data: batches of a split.
          written: {} at first; given to all scorers of the same weights and batches, so that texts are written once.
        """
        writes = getattr(self.evaluator, "writes", None)
        if written is None or writes is None:
            return self.evaluator.run(lambda batch: self._predict(params, batch), data)
        texts = written.setdefault(repr(sorted(writes.items())), {})

        def predict(batch: Batch) -> dict[str, Any]:
            first = int(batch["id"][0])
            if first not in texts:
                texts[first] = self._predict(params, batch)
            return texts[first]

        return self.evaluator.run(predict, data)
