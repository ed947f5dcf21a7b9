"""From Python: train with `run`, take a trained run back with `load`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxlm import config as configs
from jaxlm.core.types import Array, PyTree, Tokenizer
from jaxlm.decode import sampling
from jaxlm.train import assembly, loop, report, runtime
from jaxlm.train import workdir as folders
from jaxlm.train.checkpoint import Checkpointer


def run(config: ConfigDict, workdir: Any) -> dict[str, Any]:
    """Train what `config` says in `workdir`, or resume it; the content of summary.json.

    Raises:
      ValueError: something that the user can change; the message says what.
    """
    return loop.run(config, workdir)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A trained model with its weights and tokenizer."""

    model: Any
    params: PyTree
    tokenizer: Tokenizer | None
    config: ConfigDict
    step: int

    def logits(self, tokens_BT: Any) -> Array:
        """Next-token logits after every position, float32 [B, T, V], of token ids int [B, T].

        Raises:
          ValueError: not two-dimensional, ids outside the vocabulary, or longer than the model can hold.
        """
        tokens = np.asarray(tokens_BT)
        if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(
                f"tokens_BT must be integers [B, T], not {tokens.dtype} {tokens.shape}"
            )
        limit = self.max_len
        if not 1 <= tokens.shape[1] <= limit:
            raise ValueError(
                f"tokens_BT has {tokens.shape[1]} positions; accepted are 1 to {limit}"
            )
        if tokens.min() < 0 or tokens.max() >= self.config.model.vocab_size:
            raise ValueError(f"tokens_BT: ids must be in 0..{self.config.model.vocab_size - 1}")
        return _logits(self.model, self.params, tokens.astype(np.int32))

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_tokens: int = 200,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> list[str]:
        """A continuation of each prompt, without the prompt; each row has its own random stream.

        Raises:
          ValueError: an empty prompt, or a number out of range.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if self.tokenizer is None:
            raise ValueError("this run has no tokenizer: it was not trained on text")
        tokens = sampling.sample(
            self.model,
            self.params,
            [self.tokenizer.encode(prompt) for prompt in prompts],
            max_tokens=max_tokens,
            max_len=self.max_len,
            temperature=temperature,
            seed=seed,
            eos_id=self.tokenizer.eos_id,
        )
        return [self.tokenizer.decode(row) for row in tokens]

    @property
    def max_len(self) -> int:
        """Positions that were trained."""
        data = self.config.data
        return data.seq_len if "seq_len" in data else report.DEFAULT_CONTEXT


_logits = jax.jit(
    lambda model, params, tokens: model.apply({"params": params}, tokens).logits(), static_argnums=0
)


def load(workdir: Any, *, best: bool = False) -> LanguageModel:
    """A trained run, from its newest checkpoint (or its best one), with EMA weights where the run had them.

    Raises:
      ValueError: no run, no valid checkpoint, or one that does not fit its config.
    """
    runtime.configure()
    workdir = folders.existing(workdir)
    cfg = configs.read(workdir / folders.CONFIG)
    tokenizer = folders.load_tokenizer(workdir)
    abstract = assembly.abstract_weights(cfg)
    checkpoints = Checkpointer(workdir / folders.CHECKPOINTS, configs.build(cfg, "checkpoint"))
    try:
        restore = checkpoints.restore_best if best else checkpoints.restore
        restored = restore(abstract, partial=True)
    finally:
        checkpoints.close()
    if restored is None:
        raise ValueError(f"{workdir} holds no checkpoint yet: train first")
    state, _, step = restored
    params = next(iter(state.values()))
    return LanguageModel(assembly.make_model(cfg), params, tokenizer, cfg, step)
