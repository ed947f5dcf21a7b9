"""What the tasks about whole texts share: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP] (labels, sets of labels, scores)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jaxlm.data import reading, records, special_tokens
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split, check_seq_len


@dataclasses.dataclass(frozen=True)
class SequenceConfig(RecordConfig):
    """As RecordConfig; a *.tsv file without a header is text TAB (pair TAB) and what is learnt of them.

    Attributes:
      text_column: the text; several columns, joined by +, make lines of one text.
      pair_column: a second text; "": none. For a *.tsv file without a header anything else than ""
        means that its second column is one.
      seq_len: tokens of an example, [CLS] and [SEP] included; longer ones are cut, and counted in
        the log; 0: the model's max_len, which the loop fills in.
    """

    text_column: str = "text"
    pair_column: str = ""
    seq_len: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_seq_len(self.seq_len)


class SequenceTask(RecordTask):
    """A text, or two, and something to learn of them, which a task says: `target_column`, `record`, `make_target`."""

    Config: ClassVar[type] = SequenceConfig
    special_tokens: ClassVar[tuple[str, ...]] = special_tokens.BERT
    target_column: ClassVar[str]  # the option that says which column is to be learnt

    def __init__(self, config: SequenceConfig):
        """As RecordTask; also raises ValueError where no length is known."""
        self._length = check_seq_len(config.seq_len, known=True)
        super().__init__(config)

    def parse(self, row: records.Row, where: str) -> records.Record:
        """The text, or both, and what is to be learnt.

        Raises:
          ValueError: the line has not all of them.
        """
        config = self.config
        if isinstance(row, list):
            names = ("text", "pair") if config.pair_column else ("text",)
            because = f" (data.pair_column={config.pair_column!r})"
            records.check_columns(row, where, (*names, self.target), because)
            return self.record(tuple(row[:-1]), row[-1], where, "its last column")
        columns = config.text_column.split("+")
        texts = ["\n".join(reading.record_text(row, name, where) for name in columns)]
        if config.pair_column:
            texts.append(reading.record_text(row, config.pair_column, where, "data.pair_column"))
        column = getattr(config, self.target_column)
        value = reading.record_column(row, column, where, f"data.{self.target_column}")
        return self.record(tuple(texts), value, where, f"column {column!r}")

    def record(self, texts: tuple[str, ...], value: Any, where: str, what: str) -> records.Record:
        """A line's texts with what its last column holds, which messages call `what`."""
        raise NotImplementedError

    def make_target(self, table: records.Table, row: int) -> np.ndarray:
        """What is to be learnt of a line; its places weigh 1 each."""
        raise NotImplementedError

    def show_target(self, target: np.ndarray) -> str:
        """A target, or a prediction, as a person reads it."""
        raise NotImplementedError

    def kind(self) -> list[Any]:
        config = self.config
        column = getattr(config, self.target_column)
        return [self.target, config.text_column, column, config.pair_column]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return dict(zip(("text", "pair"), ids, strict=False))

    def prepare_splits(self) -> None:
        """Report what is cut."""
        lengths = [self._full_lengths(split) for split in self.splits.values()]
        self.log_cut("data.seq_len", self._length, np.concatenate(lengths))

    @property
    def target(self) -> str:
        """What messages call it that is to be learnt."""
        return self.target_column.removesuffix("_column")

    @property
    def _texts(self) -> tuple[str, ...]:
        return ("text", "pair") if self.config.pair_column else ("text",)

    def _full_lengths(self, split: Split) -> np.ndarray:
        texts = sum(split.table.columns[name].lengths()[split.rows] for name in self._texts)
        return texts + 1 + len(self._texts)

    def lengths(self, split: Split) -> np.ndarray:
        return np.minimum(self._full_lengths(split), self._length)

    def settings(self) -> list[Any]:
        return [self._length, *self.labels()]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"tokens", "segment_ids" int32 [T], "targets", "weights"}; of a pair also "token_types" int32 [T].

        Token types are 1 for the pair and its [SEP].
        """
        text = table.columns["text"][row]
        pair = table.columns["pair"][row] if self.config.pair_column else text[:0]
        room = self._length - 1 - len(self._texts)
        pair = pair[: max(room - len(text), room // 2)]  # the longer text is cut first
        text = text[: room - len(pair)]
        ids = self.special_ids
        parts = [[ids["[CLS]"]], text, [ids["[SEP]"]]]
        if self.config.pair_column:
            parts += [pair, [ids["[SEP]"]]]
        tokens = np.full(self._length, ids["[PAD]"], np.int32)
        size = sum(map(len, parts))
        tokens[:size] = np.concatenate(parts)
        places = np.arange(self._length)
        target = self.make_target(table, row)
        example = {
            "tokens": tokens,
            "segment_ids": (places < size).astype(np.int32),
            "targets": target,
            "weights": np.ones(len(target), np.float32),
        }
        if self.config.pair_column:
            second = (places >= len(text) + 2) & (places < size)
            example["token_types"] = second.astype(np.int32)
        return example

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and the text (TAB the pair) of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        texts = [self.tokenizer.decode(table.columns[name][row]) for name in self._texts]
        return table.source.path, "\t".join(texts)

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The text as the model gets it, what is to be learnt, and what was predicted."""
        ids = example["tokens"][example["segment_ids"] > 0]
        lines = [f"text     {self.tokenizer.decode(ids)!r}"]
        if example["weights"][0]:
            lines += [f"{self.target:<8} {self.show_target(example['targets'])}"]
            if predicted is not None:
                lines += [f"predicted {self.show_target(predicted)}"]
        return lines
