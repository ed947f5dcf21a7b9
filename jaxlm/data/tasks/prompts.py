"""Prompts with reference answers: a causal model is taught to write them, or rewarded for writing them.

Not for pairs that an encoder-decoder reads (tasks/pairs.py), nor for all answers of conversations (tasks/chat.py).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch
from jaxlm.data import conversations, reading, records, special_tokens, tokenizers
from jaxlm.data.completions import Completions, given
from jaxlm.data.tasks import batches
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PromptsConfig(RecordConfig):
    """As RecordConfig; a *.tsv file without a header is prompt TAB answer. Sums are made up for
    path=arithmetic:add2@train and val_path=arithmetic:add2@held_out, which has other operands (data/arithmetic.py).

    What a chat template makes of them is as in PreferencesConfig, to the token: so a reward model judges, and a chat model
    learns, what it knows.

    Attributes:
      prompt_column: what the model is given.
      answer_column: what is right, or what the rule that rewards compares with; "": there are only prompts.
      chat_template: a file with a Jinja2 template, or the template itself; "": the tokenizer's own, where it has one.
      seq_len: tokens of prompt and answer with what ends it; 0: the model's max_len. Lines with more are left out, and
        counted in the log.
    """

    prompt_column: str = "prompt"
    answer_column: str = "answer"
    chat_template: str = ""
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not self.prompt_column:
            raise ValueError("data.prompt_column is empty: expected the name of a column")
        if self.seq_len < 0:
            raise ValueError(f"data.seq_len={self.seq_len} must be at least 1, or 0: model.max_len")


class PromptsTask(RecordTask):
    """Prompt, answer, and what ends it; the answer's tokens and that one are the targets that weigh. See PromptsConfig."""

    Config: ClassVar[type] = PromptsConfig

    def __init__(self, config: PromptsConfig):
        """Raises ValueError for a template that does not say what ends an answer, or data that can't be used."""
        # A vocabulary that is made of these texts is not there yet: they are read one by one.
        self.completions = None
        if config.chat_template or not tokenizers.made_of_text(config.tokenizer):
            self.completions = Completions(config.tokenizer, config.chat_template)
            self.end_id = self.completions.end_id()
        super().__init__(config)

    def parse(self, row: records.Row, where: str) -> records.Record:
        """Prompt and answer, which may be "".

        Raises:
          ValueError: the line has not both, or an empty prompt, or not in a form that can be read.
        """
        config = self.config
        read = reading.record_text if self.completions is None else given
        if isinstance(row, dict):
            prompt = read(row, config.prompt_column, where, "data.prompt_column")
            answer: Any = ""
            if config.answer_column:
                answer = read(row, config.answer_column, where, "data.answer_column")
        else:
            names = ("prompt", "answer") if config.answer_column else ("prompt",)
            records.check_columns(row, where, names)
            prompt, answer = (*row, "")[:2]
        if not prompt:
            raise ValueError(f"{where} has an empty prompt: nothing can be written behind it")
        if self.completions is None:
            return records.Record((prompt, answer))
        try:
            ids, start, _ = self.completions.read(prompt, answer)
            texts = _said(prompt), _said(answer)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if ids[-1] != self.end_id:
            raise ValueError(f"{where}: the chat template ends this answer otherwise than others")
        return records.Record(texts, numbers={"prompt": ids[:start], "answer": ids[start:-1]})

    def kind(self) -> list[Any]:
        kind = ["prompts", self.config.prompt_column, self.config.answer_column]
        return kind if self.completions is None else [*kind, 2, *self.completions.identity()]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {"prompt": ids[0], "answer": ids[1]}

    def prepare_splits(self) -> None:
        """Leave out what is too long.

        Raises:
          ValueError: no length, or the tokenizer marks no end of a text.
        """
        if self.completions is None:
            self.end_id = special_tokens.require_eos(self.tokenizer, self.config.tokenizer)
        else:
            self.tokenizer = self.completions.tokenizer  # with the template
        self._lines: dict[str, records.Lines] = {}
        limit = self.config.seq_len
        if not limit:
            raise ValueError("data.seq_len=0 and the model has no max_len: give a row's length")
        for name, split in self.splits.items():
            lengths = self.lengths(split)
            if left := int((lengths > limit).sum()):
                _log.info(
                    "%s: %d of %d %s lines have more tokens than data.seq_len=%d and are left out "
                    "(the longest has %d)",
                    split.table.source.path, left, len(lengths), name, limit, lengths.max(),
                )  # fmt: skip
            self.splits[name] = Split(split.table, split.rows[lengths <= limit])

    def lengths(self, split: Split) -> np.ndarray:
        columns = [split.table.columns[name] for name in ("prompt", "answer")]
        return sum(column.lengths()[split.rows] for column in columns) + 1

    def settings(self) -> list[Any]:
        return [self.config.seq_len]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"tokens", "targets" int32 [T], "weights" float32 [T]}."""
        prompt, answer = (table.columns[name][row] for name in ("prompt", "answer"))
        ids = np.concatenate([prompt, answer, [self.end_id]])
        example = {name: np.zeros(self.config.seq_len, np.int32) for name in ("tokens", "targets")}
        example["tokens"][: len(ids) - 1], example["targets"][: len(ids) - 1] = ids[:-1], ids[1:]
        places = np.arange(self.config.seq_len)
        own = (places >= len(prompt) - 1) & (places < len(ids) - 1)
        return example | {"weights": own.astype(np.float32)}

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As RecordTask.eval, with the raw texts of the lines: `input` and `reference`, str [B]."""
        table, rows = self.splits.get(split, (None, None))
        found = super().eval(split, batch_size)
        return (batch | self._raw(table, rows, batch["id"]) for batch in found)

    def _raw(self, table: records.Table, rows: np.ndarray, ids: np.ndarray) -> Batch:
        """Prompt and answer of the examples with these ids; "" for -1."""
        lines = self._lines.setdefault(table.digest, records.Lines(table.source))
        texts = [lines[int(rows[number])] if number >= 0 else ("", "") for number in ids]
        columns = np.array(texts, object)  # [B, 2]
        return {"input": columns[:, 0], "reference": columns[:, 1]}

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and prompt TAB answer, of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        texts = [self.tokenizer.decode(table.columns[name][row]) for name in ("prompt", "answer")]
        return table.source.path, "\t".join(texts)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The row as text, then its first tokens, each with its target."""
        columns = [example[name] for name in ("tokens", "targets", "weights")]
        size = int(np.flatnonzero(example["weights"])[-1]) + 1
        return [
            f"text     {self.tokenizer.decode(example['tokens'][:size])!r}",
            f"targets  {batches.show_targets(self.tokenizer, *columns, predicted)}",
        ]


def _said(value: Any) -> str:
    """A text, or what messages say."""
    return "\n".join(message["content"] for message in conversations.messages_of(value))
