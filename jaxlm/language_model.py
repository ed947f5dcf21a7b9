"""A model with its weights and tokenizer: logits, hidden states, texts and vectors. Loading one is in api.py."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxlm.core.types import Array, PyTree, Tokenizer
from jaxlm.decode import sampling
from jaxlm.interop.sentence import Sentence
from jaxlm.train import samples

EMBED_BATCH = 32


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A trained model with its weights and tokenizer."""

    model: Any
    params: PyTree
    tokenizer: Tokenizer | None
    config: ConfigDict
    step: int
    template: bool = (
        False  # prompts get the special tokens that the tokenizer's file says: trained elsewhere
    )
    sentence: Sentence = Sentence()
    labels: tuple[str, ...] = ()  # of a classifier, in id order

    def logits(self, tokens_BT: Any, source: Any = None) -> Array:
        """Logits after every position, float32 [B, T, V], of token ids int [B, T].

        Args:
          tokens_BT: what the model reads; of an encoder-decoder, the decoder's inputs.
          source: int [B, S], what an encoder-decoder writes from.

        Raises:
          ValueError: not two-dimensional, ids outside the vocabulary, or longer than the model can hold.
        """
        return _logits(self.model, self.params, self._inputs(tokens_BT, source))

    def hidden(self, tokens_BT: Any, source: Any = None) -> Array:
        """The last layer's states, float32 [B, T, D]: what the head reads (of BERT, before any head)."""
        return _hidden(bare(self.model), self.params, self._inputs(tokens_BT, source))

    def _inputs(self, tokens_BT: Any, source: Any) -> dict[str, np.ndarray]:
        given = {"tokens_BT": tokens_BT} | ({} if source is None else {"source": source})
        if wants_source(self.model) != (source is not None):
            takes = "needs a source" if source is None else "takes no source"
            raise ValueError(f"source: {type(self.model).__name__} {takes}")
        checked = {}
        for name, ids in given.items():
            ids, limit = np.asarray(ids), self.max_len
            if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
                shape = "[B, S]" if name == "source" else "[B, T]"
                raise ValueError(f"{name} must be integers {shape}, not {ids.dtype} {ids.shape}")
            if not 1 <= ids.shape[1] <= limit:
                raise ValueError(f"{name} has {ids.shape[1]} positions; accepted are 1 to {limit}")
            if ids.min() < 0 or ids.max() >= self.config.model.vocab_size:
                raise ValueError(f"{name}: ids must be in 0..{self.config.model.vocab_size - 1}")
            checked[name.removesuffix("_BT")] = ids.astype(np.int32)
        return checked

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_tokens: int = 200,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> list[str]:
        """A continuation of each prompt, without the prompt; each row has its own random stream.

        An encoder-decoder takes the prompts as sources and writes what follows from them.

        Raises:
          ValueError: an empty prompt, a number out of range, or a model that writes no text.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        tokenizer = self._needed_tokenizer()
        if not hasattr(self.model, "extend"):
            raise ValueError(f"{type(self.model).__name__} reads both ways: it writes no text")
        inputs = {}
        if wants_source(self.model):
            end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
            sources = [[*tokenizer.encode(prompt), *end] for prompt in prompts]
            inputs = _padded(sources, "source", "source_segment_ids")
            starts = [[self.model.config.decoder_start_id] for _ in prompts]
            limit = _up(max_tokens)
        else:
            starts = self._encoded(prompts)
            limit = max([_up(max_tokens), *(_up(len(start)) for start in starts)])
        tokens = sampling.sample(
            self.model,
            self.params,
            starts,
            max_tokens=max_tokens,
            max_len=2 * limit if inputs else min(self.max_len, 2 * limit),
            temperature=temperature,
            seed=seed,
            eos_id=tokenizer.eos_id,
            inputs=inputs,
            prefix=self.config.objective.kind == samples.PREFIX_LM,
        )
        known = tokenizer.vocab_size  # a table may have rows that no text has
        return [tokenizer.decode([token for token in row if token < known]) for row in tokens]

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        """One vector for each text, float32 [N, D], by a sentence encoder's pooling and normalisation.

        Raises:
          ValueError: a model that does not read both ways, or that has no tokenizer.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if getattr(self.model, "direction", "") != "bidirectional":
            raise ValueError(f"{type(self.model).__name__} is no sentence encoder")
        limit = min(self.sentence.max_len or self.max_len, self.max_len)
        rows = self._encoded(texts, limit, wrap=True)
        found = np.zeros((len(texts), self.model.config.d_model), np.float32)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), EMBED_BATCH):
            chosen = order[start : start + EMBED_BATCH]
            batch = _padded([rows[row] for row in chosen], "tokens", "segment_ids", limit)
            vectors = _embed(bare(self.model), self.sentence, self.params, batch)
            found[chosen] = np.asarray(vectors)[: len(chosen)]
        return found

    def _encoded(
        self, texts: list[str], limit: int | None = None, wrap: bool = False
    ) -> list[Sequence[int]]:
        """Ids, with the special tokens of the tokenizer's template where the model knows them."""
        tokenizer = self._needed_tokenizer()
        data = getattr(tokenizer, "data", None)
        if data is None or not (wrap or self.template):
            return [tokenizer.encode(text)[:limit] for text in texts]
        from tokenizers import Tokenizer as Library

        library = Library.from_str(data.decode("utf-8"))
        library.no_padding()
        library.no_truncation()
        library.encode_special_tokens = True  # text is only ever text
        if limit is not None:
            library.enable_truncation(limit)
        encodings = library.encode_batch(texts)
        return [one.ids if wrap else one.ids[: _without_end(one)] for one in encodings]

    def _needed_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer: it was not trained on text")
        return self.tokenizer

    @property
    def max_len(self) -> int:
        """Positions that were trained."""
        return samples.context_length(self.config)


def wants_source(model: Any) -> bool:
    """Whether a model is an encoder-decoder."""
    return "source" in model.inputs


def bare(model: Any) -> Any:
    """The model without a head, where its config has one to leave out."""
    if not hasattr(model.config, "pooler"):
        return model
    return type(model)(dataclasses.replace(model.config, head="none", pooler=False))


def _without_end(encoding: Any) -> int:
    """How many ids come before the special tokens that end a text: a prompt goes on."""
    added = encoding.special_tokens_mask
    return max((place + 1 for place, one in enumerate(added) if not one), default=len(added))


def _up(length: int) -> int:
    """So that few programs are ever compiled."""
    return -(-length // sampling.BUCKET) * sampling.BUCKET


def _padded(
    rows: Sequence[Sequence[int]], tokens: str, segments: str, limit: int | None = None
) -> dict[str, np.ndarray]:
    width = _up(max(1, *map(len, rows)))
    shape = (len(rows), width if limit is None else min(width, limit))
    batch = {tokens: np.zeros(shape, np.int32), segments: np.zeros(shape, np.int32)}
    for number, row in enumerate(rows):
        batch[tokens][number, : len(row)] = row
        batch[segments][number, : len(row)] = 1
    return batch


_logits = jax.jit(
    lambda model, params, inputs: model.apply({"params": params}, **inputs).logits(),
    static_argnums=0,
)
_hidden = jax.jit(
    lambda model, params, inputs: model.apply({"params": params}, **inputs).hidden.astype(
        "float32"
    ),
    static_argnums=0,
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(model: Any, how: Sentence, params: PyTree, batch: dict[str, Array]) -> Array:
    hidden_BTD = model.apply({"params": params}, **batch).hidden.astype(jnp.float32)
    real_BT = (batch["segment_ids"] > 0).astype(jnp.float32)
    vectors_BD = hidden_BTD[:, 0]
    if how.pooling == "mean":
        total_BD = jnp.einsum("BTD,BT->BD", hidden_BTD, real_BT)
        vectors_BD = total_BD / jnp.maximum(real_BT.sum(1, keepdims=True), 1.0)
    if how.normalise:
        norms_B = jnp.linalg.norm(vectors_BD, axis=1, keepdims=True)
        vectors_BD = vectors_BD / jnp.maximum(norms_B, 1e-12)
    return vectors_BD
