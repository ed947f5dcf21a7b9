"""Images as arrays: from the numbers of a line or an .npy file, and as a picture of characters for people.

Not for captions (tasks/captions.py) or for patches (models/vlm.py).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxlm.data import reading

RAMP = " .:-=+*#%@"
_WIDEST = 32  # columns of a picture, each two characters wide


class Form(NamedTuple):
    """What all images of a dataset are: squares of `size` x `size` pixels, whole numbers 0..pixel_max in each channel."""

    size: int
    channels: int
    pixel_max: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, self.channels)

    def __str__(self) -> str:
        height, width, channels = self.shape
        return f"{height} x {width} x {channels} (data.image_size={height}, data.num_channels={channels})"


def parse(value: Any, form: Form, where: str) -> np.ndarray:
    """The pixels of one image, flat and row by row, uint8 (int32 where pixel_max is beyond it).

    Args:
      value: of a JSON line: a flat list, or one nested as [height][width] or [height][width][channels].
      form: what is expected.
      where: what messages call it.

    Raises:
      ValueError: something else; what was found and what is expected are named.
    """
    if not isinstance(value, list):
        raise ValueError(f"{where} is {type(value).__name__}, not a list of pixels")
    try:
        array = np.array(value)
    except ValueError as error:
        raise ValueError(f"{where} has rows of different lengths: expected {form}") from error
    expected = math.prod(form.shape)
    if array.size != expected:
        raise ValueError(f"{where} has {array.size} pixels: expected {expected}, {form}")
    if array.shape not in ((expected,), form.shape, form.shape[: 3 - (form.channels == 1)]):
        found = " x ".join(map(str, array.shape))
        raise ValueError(f"{where} is {found}: expected a flat list or {form}")
    if array.dtype.kind not in "iu":
        wrong = max(_flat(value), key=lambda one: abs(one) if type(one) is int else math.inf)
        raise ValueError(f"{where} holds {wrong!r}: expected whole numbers 0..{form.pixel_max}")
    low, high = array.min(), array.max()
    if low < 0 or high > form.pixel_max:
        wrong = low if low < 0 else high
        raise ValueError(f"{where} holds {wrong}: expected 0..{form.pixel_max}, data.pixel_max")
    return array.reshape(-1).astype(np.uint8 if form.pixel_max < 256 else np.int32)


def scaled(pixels: np.ndarray, form: Form) -> np.ndarray:
    """What a model reads: float32 [..., height, width, channels], 0..1."""
    return (pixels.astype(np.float32) / form.pixel_max).reshape(*pixels.shape[:-1], *form.shape)


def read(path: str, form: Form, column: str) -> np.ndarray:
    """The images of a file, float32 [N, height, width, channels], 0..1.

    Args:
      path: *.jsonl, an image a line; or *.npy, one image or several, whole numbers 0..pixel_max or floats 0..1.
      form: what is expected.
      column: of a line, that with the pixels.

    Raises:
      ValueError: another kind of file, or an image that is not as expected.
    """
    suffix = Path(path).suffix
    if suffix not in (".jsonl", ".npy"):
        raise ValueError(f"{path}: expected images as *.jsonl or *.npy")
    with open(path, "rb") as file:
        if suffix == ".jsonl":
            found = _of_lines(file, path, form, column)
        else:
            found = batch(_array(file, path), form.shape, path, form.pixel_max)
    if not len(found):
        raise ValueError(f"{path} has no image in it")
    return found


def _of_lines(file: BinaryIO, path: str, form: Form, column: str) -> np.ndarray:
    found = []
    for where, record in reading.objects(file, path):
        value = reading.record_column(record, column, where, "data.image_column")
        found.append(scaled(parse(value, form, f"{where}: column {column!r}"), form))
    return np.array(found)


def _array(file: BinaryIO, path: str) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers") from error


def batch(array: Any, shape: tuple[int, int, int], where: str, pixel_max: int = 1) -> np.ndarray:
    """One image or several, float32 [N, height, width, channels], 0..1.

    Args:
      array: [height, width, channels] or [N, height, width, channels]; of a single channel also without that axis.
        Floats 0..1, or whole numbers 0..pixel_max.
      shape: that of one image.
      where: what messages call it.

    Raises:
      ValueError: another shape, or values out of range.
    """
    array = np.asarray(array)
    grey = shape[2] == 1 and array.ndim > 1 and array.shape[-2:] == shape[:2]
    inner = shape[:2] if grey else shape
    if array.shape[-len(inner) :] != inner or array.ndim - len(inner) not in (0, 1):
        found, wanted = (" x ".join(map(str, one)) for one in (array.shape, shape))
        raise ValueError(
            f"{where}: {found or 'one number'}, expected images of {wanted} (one, or N of them)"
        )
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: {array.dtype}, expected whole numbers 0..{pixel_max} or floats 0..1"
        )
    limit = pixel_max if array.dtype.kind in "iu" else 1
    if not 0 <= array.min(initial=0) <= array.max(initial=0) <= limit:
        raise ValueError(
            f"{where}: values from {array.min()} to {array.max()} ({array.dtype}), expected 0..{limit}"
        )
    return (array.astype(np.float32) / limit).reshape(-1, *shape)


def for_prompts(images: Any, prompts: list[Any], model: Any) -> tuple[list[Any], np.ndarray | None]:
    """As many prompts as images, which are as the model reads them; None for a model that reads none.

    Raises:
      ValueError: images that it can't read, or another number than of the prompts.
    """
    expected = getattr(model, "input_shapes", {}).get("image")
    if (images is None) != (expected is None):
        takes = (
            "reads no images"
            if expected is None
            else "writes from images: give one for each prompt"
        )
        raise ValueError(f"images: {type(model).__name__} {takes}")
    if images is None:
        return prompts, None
    found = batch(images, expected.shape[1:], "images")
    prompts = prompts * len(found) if len(prompts) == 1 else prompts
    if len(prompts) != len(found):
        raise ValueError(f"images: {len(found)} for {len(prompts)} prompts")
    return prompts, found


def picture(image: np.ndarray) -> str:
    """An image, float [height, width, channels], 0..1, as lines of characters, dark to bright; large ones in coarse."""
    step = -(-image.shape[1] // _WIDEST)
    grey = np.clip(image[::step, ::step].mean(-1), 0.0, 1.0)
    places = np.rint(grey * (len(RAMP) - 1)).astype(int)
    return "\n".join("".join(2 * RAMP[place] for place in row).rstrip() for row in places)


def _flat(value: Any) -> list[Any]:
    """The entries of a nested list."""
    return [one for part in value for one in _flat(part)] if isinstance(value, list) else [value]
