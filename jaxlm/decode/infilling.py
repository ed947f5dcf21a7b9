"""The gaps of texts filled one after the other, each with what the ones before it were filled with.

What a model reads of a text with gaps is in data/infilling.py, how it writes in texts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxlm.decode.texts import Text

Push = Callable[[int, str], None] | None
_FAR = 1 << 20  # between the seeds of a text's gaps


class Filled(NamedTuple):
    """A text whose gaps have been filled."""

    text: str  # all of it
    fillings: list[Text]  # one a gap, in order


def _parts(texts: Sequence[str], blank: str, several: bool) -> list[list[str]]:
    """Each text cut where `blank` stands.

    Raises:
      ValueError: one has none, or more than a model fills; it is named.
    """
    if not isinstance(blank, str) or not blank:
        raise ValueError(f"blank={blank!r} must be a text that stands for a gap")
    cut = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{number}]={text!r} must be a text")
        parts = text.split(blank)
        if len(parts) < 2:
            raise ValueError(f"texts[{number}] has no blank={blank!r} in it: {text[:60]!r}")
        if len(parts) > 2 and not several:
            raise ValueError(
                f"texts[{number}] has {len(parts) - 1} times blank={blank!r}: "
                "fill-in-the-middle fills one gap a text"
            )
        cut.append(parts)
    return cut


def fill(
    texts: str | Sequence[str],
    gaps: Any,
    write: Callable[..., list[list[Text]]],
    *,
    blank: str = "[MASK]",
    max_tokens: int | None = None,
    seed: int = 0,
    on_text: Push = None,
    **options: Any,
) -> list[Filled]:
    """Texts with their gaps filled: the first one of each, then the second of those that have one, and so on.

    Args:
      texts: one or several, with gaps.
      gaps: what a model reads where a gap is to be filled, one of those in data/infilling.py.
      write: `LanguageModel.write`.
      blank: what stands for a gap in the texts; it is never read.
      max_tokens: of a filling, at most; None: a quarter of the model's positions. One that has not ended by then has
        `finish` "length".
      seed: text number n draws by seed + n, its further gaps by seeds far from these.
      on_text: called with a text's number and a piece of the filled text as it comes, from its beginning on.
      options: of `write`.

    Raises:
      ValueError: no gap, more of them than the model fills, or as `write`; the message says what.
    """
    if options.get("num_return", 1) != 1:
        raise ValueError(f"num_return={options['num_return']}: a gap is filled once")
    max_tokens = max(1, gaps.max_len // 4) if max_tokens is None else max_tokens
    texts = [texts] if isinstance(texts, str) else texts
    left = _parts(texts, blank, gaps.several)
    filled: list[list[Text]] = [[] for _ in left]
    push = on_text or (lambda number, piece: None)
    for number, parts in enumerate(left):
        push(number, parts[0])
    while going := [number for number, parts in enumerate(left) if len(parts) > 1]:
        found = write(
            [gaps.read(left[number], max_tokens) for number in going],
            max_tokens=max_tokens,
            seed=[seed + number + _FAR * len(filled[number]) for number in going],
            on_text=on_text and (lambda row, piece, going=going: push(going[row], piece)),
            **options,
        )
        for number, (text,) in zip(going, found, strict=True):
            before, after, *others = left[number]
            left[number] = [before + text.text + after, *others]
            filled[number].append(text)
            push(number, after)
    return [Filled(parts[0], own) for parts, own in zip(left, filled, strict=True)]
