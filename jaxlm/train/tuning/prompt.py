"""Prompt tuning: vectors before every text train, the model does not.

What reads them is the model's own `prefix` (models/gpt.py, models/bert.py, layers/two_stacks.py); here they become a parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.core import partition
from jaxlm.core.types import Array, PyTree
from jaxlm.layers.two_stacks import TwoStacks
from jaxlm.models.bert import BERT
from jaxlm.models.encoder_decoder import EncoderDecoder
from jaxlm.models.gpt import GPT, Cache
from jaxlm.models.t5 import T5
from jaxlm.train.tuning.full import Full
from jaxlm.train.tuning.partial import HEADS, check_found, check_patterns, found

NAME = "prompt"


@dataclasses.dataclass(frozen=True)
class Config:
    """`num_tokens` learned vectors before every text: of an encoder-decoder before the source, of BERT behind [CLS].

    Source: Lester, Al-Rfou and Constant, The Power of Scale for Parameter-Efficient Prompt Tuning, 2021, arXiv:2104.08691,
    section 2. They begin as embeddings of tokens drawn from the vocabulary (section 3.2, "sampled vocabulary"), from all of it
    and not from the commonest 5,000. Where positions are added to embeddings, the prompt of an encoder takes none.

    Attributes:
      num_tokens: vectors, as many as tokens would be.
      also: patterns of parameters that train as they are. Fresh heads (classifier, value) do anyway.
    """

    num_tokens: int = 20
    also: tuple[str, ...] = ()

    def __post_init__(self):
        if self.num_tokens < 1:
            raise ValueError(f"tuning.num_tokens={self.num_tokens} must be at least 1")
        check_patterns("also", self.also)


class Prompted(nn.Module):
    """What the prompted form of every model has: a parameter more.

    It reads no `positions`, which rows of several texts have: the prompt would be the first one's alone.
    """

    num_virtual: int = 0
    shows: ClassVar[tuple[str, ...]] = ()  # states would be the prompt's too

    def vectors(self, batch: int) -> Array | None:
        """The vectors [B, P, D]; None where the parameters have none: the model as it was before."""
        if not (self.is_initializing() or self.has_variable("params", NAME)):
            return None
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, "embed"))
        vectors_PD = self.param(NAME, init, (self.num_virtual, self.config.d_model))
        return jnp.broadcast_to(vectors_PD[None], (batch, *vectors_PD.shape))

    def words(self, leaves: Mapping[str, Array], ids_P: Array) -> Array:
        """What stands at the prompt's place for tokens, [P, D]; parameters by path."""
        return leaves["embed/embedding"][ids_P]

    def num_before(self, params: PyTree) -> int:
        """Positions that the prompt takes."""
        return self.num_virtual if NAME in params else 0

    def flops_per_token(self, params: PyTree, *lengths: int) -> float:
        """As the model's, of rows that are longer by the prompt, by the tokens that they have without it."""
        *others, last = lengths
        model = {name: part for name, part in params.items() if name != NAME}
        each = super().flops_per_token(model, *others, last + self.num_virtual)
        return each * (sum(lengths) + self.num_virtual) / sum(lengths)


class PromptedGPT(Prompted, GPT):
    """A GPT whose texts stand after the prompt, which no token of it sees."""

    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "prefix_lengths")

    @nn.compact
    def __call__(self, tokens: Array, *args: Any, **given: Any) -> Any:
        """As `GPT`; `prefix_lengths` count the tokens alone, and a cache holds the prompt already."""
        if given.get("caches") is None and (prompt := self.vectors(tokens.shape[0])) is not None:
            given["prefix"] = prompt
            if given.get("prefix_lengths") is not None:
                given["prefix_lengths"] = given["prefix_lengths"] + self.num_virtual
        return super().__call__(tokens, *args, **given)

    def init_cache(self, params: PyTree, batch_size: int, max_len: int) -> Cache:
        """A cache that has read the prompt, with room for `max_len` tokens a row."""
        count = self.num_before(params)
        cache = super().init_cache(params, batch_size, count + max_len)
        if not count:
            return cache
        places_BP = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[None], (batch_size, count))
        lengths_B = jnp.full((batch_size,), count, jnp.int32)
        _, layers = self.apply(
            {"params": params},
            jnp.zeros((batch_size, 0), jnp.int32),
            prefix=jnp.broadcast_to(params[NAME][None], (batch_size, *params[NAME].shape)),
            positions=places_BP,
            caches=cache.layers,
            lengths=lengths_B,
        )
        return Cache(layers, lengths_B)

    def extend(
        self,
        params: PyTree,
        cache: Cache,
        tokens_BT: Array,
        lengths_B: Array,
        prefix_lengths_B: Array | None = None,
    ) -> tuple[Any, Cache]:
        """As `GPT.extend`; `prefix_lengths_B` count the tokens alone."""
        if prefix_lengths_B is not None:
            prefix_lengths_B = prefix_lengths_B + self.num_before(params)
        return super().extend(params, cache, tokens_BT, lengths_B, prefix_lengths_B)

    def rewind(self, cache: Cache, lengths_B: Array) -> Cache:
        """Forget what lies behind the first lengths_B tokens."""
        return super().rewind(cache, lengths_B + self.num_virtual)


class PromptedBERT(Prompted, BERT):
    """A BERT that reads the prompt behind the first token of a text."""

    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "token_types")

    @nn.compact
    def __call__(self, tokens: Array, *args: Any, **given: Any) -> Any:
        return super().__call__(tokens, *args, prefix=self.vectors(tokens.shape[0]), **given)


class PromptedTwoStacks(Prompted, TwoStacks):
    """A model of an encoder, which reads the prompt before every source, and a decoder."""

    optional_inputs: ClassVar[tuple[str, ...]] = ("segment_ids", "source_segment_ids")

    @nn.compact
    def __call__(self, tokens: Array, *args: Any, **given: Any) -> Any:
        return super().__call__(tokens, *args, prefix=self.vectors(tokens.shape[0]), **given)


class PromptedT5(PromptedTwoStacks, T5):
    """See `PromptedTwoStacks`."""


class PromptedEncoderDecoder(PromptedTwoStacks, EncoderDecoder):
    """See `PromptedTwoStacks`."""

    def words(self, leaves: Mapping[str, Array], ids_P: Array) -> Array:
        name = "embed" if self.config.share_embeddings else "source_embed"
        return leaves[f"{name}/embedding"][ids_P] * self.config.d_model**0.5


FORMS = {
    GPT: PromptedGPT,
    BERT: PromptedBERT,
    T5: PromptedT5,
    EncoderDecoder: PromptedEncoderDecoder,
}


class Prompt(Full):
    """A prompt before a frozen model; see Config. The methods: `jaxlm.train.tuning`."""

    Config: ClassVar[type] = Config

    def __init__(self, config: Config, params: PyTree):
        """Raises ValueError where no parameter has a pattern of `also` in its path."""
        super().__init__(config)
        check_found("also", config.also, partition.flatten(params))

    @staticmethod
    def model(config: Config, model: Any) -> Any:
        """The model with a prompt.

        Raises:
          ValueError: it has no place for one.
        """
        form = FORMS.get(type(model))
        if form is None:
            raise ValueError(
                f'tuning.kind="prompt": {type(model).__name__} has no place for a prompt; accepted are '
                f"{', '.join(kind.__name__ for kind in FORMS)}"
            )
        return form(model.config, num_virtual=config.num_tokens)

    def trains(self, path: str) -> bool:
        return path.split("/")[0] in (NAME, *HEADS) or found(self.config.also, path)

    def begin(self, model: Prompted, trained: PyTree, base: PyTree, key: Array) -> PyTree:
        """The prompt as embedded tokens of the vocabulary."""
        leaves = partition.flatten(trained) | partition.flatten(base)
        ids_P = jax.random.randint(key, (self.config.num_tokens,), 0, model.config.vocab_size)
        words_PD = model.words(leaves, ids_P).astype(trained[NAME].dtype)
        return trained | {NAME: jax.device_put(words_PD, trained[NAME].sharding)}

    def first(self, trained: PyTree) -> PyTree:
        return partition.split(trained, lambda path: path != NAME)[0]

    def describe(self) -> str:
        also = f", {', '.join(self.config.also)} whole" if self.config.also else ""
        return f"a prompt of {self.config.num_tokens} vectors{also}"
