"""Texts of images, line by line: captions; and classes, which a caption names ("a handwritten digit nine").

Not for files of images: a line holds its image's pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Batch
from jaxlm.data import corruption, images, reading, records, special_tokens
from jaxlm.data.tasks.records import RecordConfig, RecordTask, Split


@dataclasses.dataclass(frozen=True)
class CaptionsConfig(RecordConfig):
    """As RecordConfig, with *.jsonl files only; and what images and captions are.

    Attributes:
      image_column: the pixels: a flat list, row by row, or [height][width] or
        [height][width][channels]; whole numbers.
      caption_column: the text.
      image_size: pixels of the height and of the width; model.image_size is the same.
      num_channels: 1 for grey, 3 for colours.
      pixel_max: what a pixel is at most, usually 255; a model is given 0..1.
      target_len: tokens of a caption, <eos> included; longer ones are cut, and counted in the log.
    """

    path: str = "bundled:digits"
    image_column: str = "pixels"
    caption_column: str = "caption"
    image_size: int = 8
    num_channels: int = 1
    pixel_max: int = 16
    target_len: int = 32

    def __post_init__(self):
        super().__post_init__()
        for name, least in (
            ("image_size", 1),
            ("num_channels", 1),
            ("pixel_max", 1),
            ("target_len", 2),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least {least}")

    @property
    def form(self) -> images.Form:
        """What every image is."""
        return images.Form(self.image_size, self.num_channels, self.pixel_max)


class CaptionsTask(RecordTask):
    """The caption of every line, which ends with <eos>, given its image. See CaptionsConfig."""

    Config: ClassVar[type] = CaptionsConfig

    def parse(self, row: records.Row, where: str) -> records.Record:
        """Caption and pixels.

        Raises:
          ValueError: the line has not both, or an image of another size.
        """
        if isinstance(row, list):
            raise ValueError(f"{where}: images are read from *.jsonl files, not from *.tsv")
        column = self.config.image_column
        caption = reading.record_text(row, self.config.caption_column, where, "data.caption_column")
        value = reading.record_column(row, column, where, "data.image_column")
        pixels = images.parse(value, self.config.form, f"{where}: column {column!r}")
        return records.Record((caption,), numbers={"image": pixels})

    def kind(self) -> list[Any]:
        config = self.config
        return ["captions", config.image_column, config.caption_column, *config.form]

    def columns(self, ids: list[np.ndarray], labels: list[int]) -> dict[str, Any]:
        return {"caption": ids[0]}

    def prepare_splits(self) -> None:
        """Report what is cut.

        Raises:
          ValueError: the tokenizer marks no end of a text.
        """
        special_tokens.require_eos(self.tokenizer, self.config.tokenizer)
        self._lines: dict[str, records.Lines] = {}
        lengths = np.concatenate([self._full_lengths(split) for split in self.splits.values()])
        self.log_cut("data.target_len", self.config.target_len, lengths)

    def _full_lengths(self, split: Split) -> np.ndarray:
        return split.table.columns["caption"].lengths()[split.rows] + 1

    def lengths(self, split: Split) -> np.ndarray:
        return np.minimum(self._full_lengths(split), self.config.target_len)

    def settings(self) -> list[Any]:
        return [self.config.target_len]

    def make_example(self, table: records.Table, row: int) -> dict[str, np.ndarray]:
        """{"image" float32 [H, W, C], 0..1; "tokens", "targets" int32 [T]; "weights" float32 [T]}."""
        ids, length = table.columns["caption"][row], self.config.target_len
        size = min(len(ids) + 1, length)
        targets = np.zeros(length, np.int32)
        targets[:size] = [*ids[: size - 1], self.tokenizer.eos_id]
        scored = np.arange(length) < size
        return {
            "image": images.scaled(table.columns["image"][row], self.config.form),
            "tokens": np.where(scored, corruption.shifted_right(targets), 0).astype(np.int32),
            "targets": targets,
            "weights": scored.astype(np.float32),
        }

    def eval(self, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """As RecordTask.eval, with `input`, a picture of the image, and `reference`, the raw caption, str [B].

        They are for people and scores, not for a model.
        """
        table, rows = self.splits.get(split, (None, None))
        batches = super().eval(split, batch_size)
        return (batch | self._raw(table, rows, batch) for batch in batches)

    def _raw(self, table: records.Table, rows: np.ndarray, batch: Batch) -> Batch:
        """Of the examples with these ids; "" for -1."""
        lines = self._lines.setdefault(table.digest, records.Lines(table.source))
        real = batch["id"] >= 0
        pictures = [images.picture(image) for image in batch["image"][real]]
        captions = [lines[int(rows[number])][0] for number in batch["id"][real]]
        raw = {}
        for name, texts in (("input", pictures), ("reference", captions)):
            raw[name] = np.full(len(real), "", object)
            raw[name][real] = texts
        return raw

    def example(self, split: str, example_id: int) -> tuple[str, str]:
        """The path, and the caption, of the example that `eval` gave this id."""
        table, row = self.row(split, example_id)
        return table.source.path, self.tokenizer.decode(table.columns["caption"][row])

    def show_example(
        self, example: dict[str, np.ndarray], predicted: np.ndarray | None
    ) -> list[str]:
        """The image as a picture, its caption, and what was predicted at each place of that."""
        scored = example["weights"] > 0
        lines = images.picture(example["image"]).split("\n")
        lines.append(f"caption   {self.tokenizer.decode(example['targets'][scored])!r}")
        if predicted is not None:
            lines.append(f"predicted {self.tokenizer.decode(predicted[scored])!r}")
        return lines
