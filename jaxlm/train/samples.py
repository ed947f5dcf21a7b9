"""What a run shows of its model at a sample point: a text that it writes, its answers to validation examples, or neighbours of words."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import config as configs
from jaxlm.core.partition import flatten
from jaxlm.core.types import Array, Batch, ModelOutput, PyTree
from jaxlm.data import conversations, subwords, word_tokenizer
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.stopping import text_of
from jaxlm.decode.types import Request
from jaxlm.eval.predict import compiled, writing
from jaxlm.eval.word_vectors import Vectors
from jaxlm.train import assembly, parallel

DEFAULT_CONTEXT = 1024  # tokens that a sample may look back on, where neither data nor model says
NUM_EXAMPLES = 4
HELLO = "Hello! Who are you?"
WORD_VECTORS = "word_vectors"  # the direction of models that read no text
PREFIX_LM = "prefix_lm"  # the objective of models that read a prompt in both directions
SAMPLING, GREEDY = Sampling(), {"method": "sample", "temperature": 0.0}


class Sampler:
    """Chooses by what the model can do: write on, write from a source, or answer at each place."""

    def __init__(self, cfg: Any, parts: assembly.Parts):
        self.cfg, self.parts = cfg, parts
        self.tokenizer = parts.task.info.tokenizer
        self.predict = compiled(
            getattr(parts.objective, "answers", _likeliest),
            parts.model,
            parallel.whole_placer(parts.mesh),
            parallel.replicated(parts.mesh),
        )

    def __call__(self, params: PyTree, done: int) -> str:
        """What the model says after `done` steps; nothing where `sample_tokens` is 0 or there is no text to show."""
        if not self.cfg.sample_tokens:
            return ""
        if getattr(self.parts.model, "direction", "") == WORD_VECTORS:
            return self._neighbours(params)
        if not hasattr(self.parts.model, "extend"):
            return self._answers(params)
        if self.tokenizer is None:
            return ""
        if getattr(self.parts.model, "source_inputs", ()) or "reference" in self._examples():
            return self._from_sources(params)
        return self._continuation(params, done)

    def _continuation(self, params: PyTree, done: int) -> str:
        ask = getattr(self.parts.task, "ask", None)  # of data whose texts are answers
        prompt = self.cfg.sample_prompt or (HELLO if ask else "\n")
        begin = [*self.end_ids, 0][:1]  # of a vocabulary that has no line break
        ids = ask(prompt) if ask else self.tokenizer.encode(prompt).tolist()
        request = Request(
            prompts=[ids or begin],
            max_tokens=self.cfg.sample_tokens,
            max_len=context_length(self.cfg),
            end_ids=self.end_ids,
            seeds=[self.cfg.seed + done],
            prefix=self.cfg.objective.kind == PREFIX_LM,
        )
        ((best,),) = SAMPLING.write(self.parts.model, params, request)
        text = text_of(self.tokenizer, best.tokens, begins=False)
        return f"user       {prompt}\nassistant  {text}" if ask else prompt + text

    def _neighbours(self, params: PyTree) -> str:
        """Of the words of `sample_prompt`, or of a few frequent ones."""
        whole = jax.jit(lambda tree: tree, out_shardings=parallel.replicated(self.parts.mesh))
        tables = {name: np.asarray(one) for name, one in flatten(whole(params)).items()}
        pieces = subwords.finder(self.cfg.data) if self.cfg.model.num_buckets else None
        vectors = Vectors.of_tables(self.tokenizer.words, tables, pieces)
        return vectors.show(word_tokenizer.split(self.cfg.sample_prompt, self.tokenizer.language))

    def _answers(self, params: PyTree) -> str:
        batch = self._examples()
        if not {"targets", "weights"} <= batch.keys():
            return ""  # what is learned from such data is no answer at each place
        predictions = self.predict(params, batch)
        return self.parts.task.show(batch, _shown(batch), predictions=predictions)

    def _from_sources(self, params: PyTree) -> str:
        """As they are written for the scores of the run, or greedily where none is of texts."""
        batch = self._examples()
        batch = {name: values[: _shown(batch)] for name, values in batch.items()}
        written = (one.writes for one in self.parts.evaluators if hasattr(one, "writes"))
        predict = writing(next(written, GREEDY), self.parts.model, self.tokenizer)
        lines = []
        for row, text in enumerate(predict(params, batch)["texts"]):
            target = batch["targets"][row][batch["weights"][row] > 0].tolist()
            # What is written ends with the first end: of several blanks the first one is filled.
            target = list(itertools.takewhile(lambda one: one not in self.end_ids, target))
            lines += [
                f"source      {self._source(batch, row)}",
                f"target      {self.tokenizer.decode(target)!r}",
                f"prediction  {text!r}",
            ]
        return "\n".join(lines)

    def _source(self, batch: Batch, row: int) -> str:
        """What was read: a text in quotes; of what is no text, what the data show a person, on lines of its own."""
        if "source" not in batch:
            if "input" not in batch:
                return "(not shown)"
            text = str(batch["input"][row])
            return "\n" + text if "image" in batch else repr(text)
        real = batch["source_segment_ids"][row] > 0 if "source_segment_ids" in batch else ...
        ids = [one for one in batch["source"][row][real].tolist() if one not in self.end_ids]
        return repr(self.tokenizer.decode(ids))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What a text ends with."""
        ends = {self.tokenizer.eos_id, conversations.end_of_answer(self.tokenizer)}
        return tuple(sorted(ends - {None}))

    def _examples(self) -> Batch:
        """The first validation examples (training ones of data without validation), filled up for the mesh."""
        shards = parallel.batch_shards(self.parts.mesh)
        rows = -(-NUM_EXAMPLES // shards) * shards
        splits = self.parts.task.info.splits
        return next(iter(self.parts.task.eval("val" if "val" in splits else "train", rows)))


def context_length(cfg: Any) -> int:
    """Positions that a run's model was trained on, or is made for where its data has no window length or a state carries on."""
    unbounded = getattr(configs.implementation(cfg, "model"), "unbounded", False)
    if "seq_len" in cfg.data and not unbounded:
        return cfg.data.seq_len
    return cfg.model.max_len if "max_len" in cfg.model else DEFAULT_CONTEXT


def _shown(batch: Batch) -> int:
    """How many examples of a batch to show: real ones only, and only a few."""
    return min(NUM_EXAMPLES, int((batch["weights"].sum(axis=1) > 0).sum()))


def _likeliest(output: ModelOutput, batch: Batch) -> Array:
    return jnp.argmax(output.logits(), axis=-1).astype(np.int32)
