"""A model with its weights and tokenizer: logits, hidden states, texts and vectors. Loading one is in api.py."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxlm import decode
from jaxlm.core.types import Array, PyTree, Tokenizer
from jaxlm.data import chat_templates, conversations
from jaxlm.data import images as images_of
from jaxlm.data import prompts as prompts_of
from jaxlm.data.infilling import gaps_of
from jaxlm.decode import buckets, infilling
from jaxlm.decode.infilling import Filled
from jaxlm.decode.texts import Text, Writer, num_tokens
from jaxlm.eval import likelihood
from jaxlm.eval.likelihood import Likelihood
from jaxlm.interop import sentence
from jaxlm.interop.sentence import Sentence
from jaxlm.train import samples


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A trained model with its weights and tokenizer."""

    model: Any
    params: PyTree
    tokenizer: Tokenizer | None
    config: ConfigDict
    step: int
    template: bool = False  # trained elsewhere: prompts get its tokenizer file's special tokens
    sentence: Sentence = Sentence()
    labels: tuple[str, ...] = ()  # of a classifier, in id order
    end_ids: tuple[int, ...] = ()  # tokens that end a text as its config says, see `ends`

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
        size = self.config.model.vocab_size
        return {
            name.removesuffix("_BT"): prompts_of.id_rows(ids, name, size, self.max_len)
            for name, ids in given.items()
        }

    def generate(self, prompts: str | Sequence[Any], **options: Any) -> list[str]:
        """The best continuation of each prompt, without the prompt; options and errors are those of `write`."""
        return [best.text for best, *_ in self.write(prompts, **options)]

    def write(
        self,
        prompts: str | Sequence[Any],
        *,
        images: Any = None,
        method: str = "sample",
        max_tokens: int | None = None,
        seed: int | Sequence[int] = 0,
        stop: str | Sequence[str] = (),
        constraint: Mapping[str, Any] | None = None,
        draft: LanguageModel | None = None,
        batch_size: int = 8,
        on_text: Callable[[int, str], None] | None = None,
        **settings: Any,
    ) -> list[list[Text]]:
        """The continuations of each prompt, best first; what a prompt gets does not depend on those beside it.

        An encoder-decoder takes the prompts as sources and writes what follows from them.

        Args:
          prompts: one text, or texts or lists of token ids. An empty one is the token that begins a text.
          images: float [N, height, width, channels], 0..1, of a model that reads them: one a prompt, or many for one.
          method: of jaxlm.decode.METHODS: sample, beam, contrastive.
          max_tokens: how many to write after each, at most; None: 200, or fewer where the model has no room for them.
          seed: prompt number n draws by seed + n, or by the n-th of several.
          stop: strings that end a text and don't belong to it.
          constraint: {"choices": [...]}, {"regex": ...} or {"json_schema": ...}.
          draft: a smaller model with the same tokenizer that writes ahead (speculative decoding); texts are
            distributed as without it.
          batch_size: prompts side by side.
          on_text: called with a prompt's number and a piece of its text, as it comes.
          settings: the fields of the method (decode/sampling.py, ...): temperature=0.8, top_p=0.9, ...

        Raises:
          ValueError: a wrong name or number, a model that writes no text; the message says what is accepted.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        tokenizer = self._needed_tokenizer()
        if not hasattr(self.model, "extend"):
            raise ValueError(f"{type(self.model).__name__} reads both ways: it writes no text")
        if draft is not None and draft._needed_tokenizer().digest != tokenizer.digest:
            raise ValueError("draft: its tokenizer is not this model's")
        if draft is not None and draft.model.inputs != self.model.inputs:
            raise ValueError(f"draft: it reads {draft.model.inputs}, not {self.model.inputs}")
        prompts, images = images_of.for_prompts(images, prompts, self.model)
        made = decode.settings(method, settings, draft is not None)
        max_tokens = num_tokens(max_tokens, self.model, method, self.max_len)
        starts, sources, max_len = self.reader.ids(prompts), None, self.max_len
        begins = [self.reader.starts_text(prompt) for prompt in prompts]
        if images is not None:
            begin = [self.model.config.decoder_start_id]
            starts = [begin + ids * bool(len(p)) for p, ids in zip(prompts, starts, strict=True)]
        if wants_source(self.model):
            sources = starts
            starts = [[self.model.config.decoder_start_id] for _ in prompts]
            max_len = buckets.up(max_tokens + 1, buckets.MIN_SLOTS)
            if (limit := getattr(self.model, "position_limit", None)) is not None:
                max_len = min(max_len, limit + 1)
        elif draft is not None:
            max_len = min(max_len, draft.max_len)
        prefix = self.config.objective.kind == samples.PREFIX_LM
        writer = Writer(self.model, self.params, tokenizer, max_len, self.ends, prefix)
        return writer.write(
            made,
            starts,
            max_tokens=max_tokens,
            sources=sources,
            images=images,
            begins=begins,
            seed=seed,
            stop=stop,
            constraint=constraint,
            draft=None if draft is None else (draft.model, draft.params),
            batch_size=batch_size,
            on_text=on_text,
        )

    def infill(self, texts: str | Sequence[str], **options: Any) -> list[str]:
        """Each text with its gaps filled, as "The [MASK] sat on the mat."; options and errors are those of `fill`."""
        return [one.text for one in self.fill(texts, **options)]

    def fill(self, texts: str | Sequence[str], **options: Any) -> list[Filled]:
        """Each text with its gaps filled, and what they were filled with: `decode.infilling.fill` says by which options.

        For models that were trained to: a GPT by fill-in-the-middle fills one gap a text, a GLM any number.
        """
        limit = min(one.max_len for one in (self, options.get("draft")) if one is not None)
        gaps = gaps_of(self.model, self._needed_tokenizer(), limit)
        return infilling.fill(texts, gaps, self.write, **options)

    def chat(self, messages: chat_templates.Messages, **options: Any) -> str:
        """The answer to a conversation, as the model's chat template puts it; options are those of `write`.

        Args:
          messages: [{"role": "user", "content": "Hello"}, ...]; special tokens that are spelt in them are only text.

        Raises:
          ValueError: a model without a template, messages that it refuses, or as `write`.
        """
        return self.generate([self.chat_ids(messages)], **options)[0]

    def chat_ids(self, messages: chat_templates.Messages, **how: bool) -> list[int]:
        """What the model reads of a conversation: `ChatTemplate.encode`."""
        template = chat_templates.needed(self.chat_template)
        return template.encode(self._needed_tokenizer(), messages, **how)

    def with_template(self, path: str) -> LanguageModel:
        """The same model with the chat template of a file."""
        tokenizer = self._needed_tokenizer()
        template = chat_templates.given(path, "template", tokenizer)
        return dataclasses.replace(self, tokenizer=chat_templates.attached(tokenizer, template))

    @property
    def chat_template(self) -> chat_templates.ChatTemplate | None:
        """The tokenizer's; None without one."""
        return chat_templates.of(self.tokenizer)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end a text: the tokenizer's, those of the config it came with, and what ends an answer in a chat."""
        tokenizer = self._needed_tokenizer()
        found = {*self.end_ids, tokenizer.eos_id, conversations.end_of_answer(tokenizer)}
        return tuple(sorted(found - {None}))

    def loglikelihoods(
        self,
        pairs: Sequence[tuple[Any, Any]],
        *,
        batch_size: int = 8,
        max_len: int | None = None,
        on_result: Callable[[int, Likelihood], None] | None = None,
    ) -> list[Likelihood]:
        """How likely each continuation is after its context, as `eval.likelihood.loglikelihoods` says.

        Args:
          pairs: (context, continuation), both texts or both token ids. A continuation's own leading space belongs
            to it; an empty text as context is the token that begins a text.
          max_len: positions to use of those that the model can hold; None: all.
        """
        pairs = [self.reader.pair(*pair) if isinstance(pair[0], str) else pair for pair in pairs]
        return likelihood.loglikelihoods(
            self.model,
            self.params,
            pairs,
            max_len=self._positions(max_len),
            batch_size=batch_size,
            prefix=self.config.objective.kind == samples.PREFIX_LM,
            on_result=on_result,
        )

    def rolling(
        self,
        texts: Sequence[Any],
        *,
        context: int = 1,
        batch_size: int = 8,
        max_len: int | None = None,
        prefix_id: int | None = None,
        on_result: Callable[[int, Likelihood], None] | None = None,
    ) -> list[Likelihood]:
        """How likely whole texts are, every token scored once, as `eval.likelihood.rolling` says.

        A source ends as in training; with weights from elsewhere it does not, as in lm_eval.

        Args:
          texts: texts, or token ids.
          max_len: positions to use of those that the model can hold; None: all.
          prefix_id: what stands before the first token; None: the token that begins a text.
        """
        return likelihood.rolling(
            self.model,
            self.params,
            [self._needed_tokenizer().encode(t) if isinstance(t, str) else t for t in texts],
            max_len=self._positions(max_len),
            prefix_id=self.reader.begin() if prefix_id is None else prefix_id,
            context=context,
            end=() if self.reader.template else self.reader.end,
            batch_size=batch_size,
            on_result=on_result,
        )

    def _positions(self, max_len: int | None) -> int:
        """Those to use."""
        if max_len is not None and not 1 <= max_len <= self.max_len:
            raise ValueError(f"max_len={max_len} must be in 1..{self.max_len}, the model's own")
        return max_len or self.max_len

    @property
    def begin_id(self) -> int | None:
        """The token that stands before a text: the template's, else the one between documents; None: there is none."""
        return self.reader.begin_id

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        """One vector for each text, float32 [N, D], by a sentence encoder's pooling and normalisation.

        Raises:
          ValueError: a model that does not read both ways, a classifier of its own kind, or one without a tokenizer.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if getattr(self.model, "direction", "") != "bidirectional":
            raise ValueError(f"{type(self.model).__name__} is no sentence encoder")
        if not hasattr(self.model.config, "pooler"):
            raise ValueError(
                f"{type(self.model).__name__} is no sentence encoder: it has no states without its classes"
            )
        limit = min(self.sentence.max_len or self.max_len, self.max_len)
        rows = self.reader.sentences(texts, limit)
        return sentence.embed(bare(self.model), self.params, self.sentence, rows, limit)

    @property
    def reader(self) -> prompts_of.Reader:
        """How this model is given texts."""
        tokenizer, size = self._needed_tokenizer(), self.config.model.vocab_size
        return prompts_of.Reader(tokenizer, size, self.template, wants_source(self.model))

    def _needed_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer: it was not trained on text")
        return self.tokenizer

    @property
    def max_len(self) -> int:
        """Positions of tokens that were trained."""
        others = getattr(self.model, "input_lengths", {})
        return samples.context_length(self.config) - sum(others.values())


def wants_source(model: Any) -> bool:
    """Whether a model is an encoder-decoder."""
    return "source" in model.inputs


def bare(model: Any) -> Any:
    """The model without a head, where its config has one to leave out."""
    if not hasattr(model.config, "pooler"):
        return model
    return model.clone(config=dataclasses.replace(model.config, head="none", pooler=False))


def _output(model: Any, params: PyTree, inputs: Mapping[str, Array]) -> Any:
    return model.apply({"params": params}, **inputs)


_logits = jax.jit(lambda *given: _output(*given).logits(), static_argnums=0)
_hidden = jax.jit(lambda *given: _output(*given).hidden.astype("float32"), static_argnums=0)
