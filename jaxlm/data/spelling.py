"""The bytes that each id of a vocabulary adds to a text, as its decoder writes them.

With them a text is put together token by token, which `decode` can't do: a character may be split over tokens, and
some vocabularies drop the space before a text's first word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

HIDDEN_BYTES = (*range(33), *range(127, 161), 173)
"""Bytes whose own character would not show: in a byte-level vocabulary they are chr(256), ..."""
_BYTES = {chr(byte): byte for byte in range(256) if byte not in HIDDEN_BYTES}
_BYTES |= {chr(256 + number): byte for number, byte in enumerate(HIDDEN_BYTES)}


def byte_level(token: str) -> bytes:
    """What a token of a byte-level vocabulary stands for (Radford et al. 2019).

    One that has other characters than those 256 was added as it reads; the library tells them apart in the same way.
    """
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode("utf-8")


def by_decoding(
    decode_batch: Callable[[list[list[int]]], list[str]],
    ids: Iterable[int],
    raw: Mapping[int, bytes],
    begins: bool,
    where: str,
) -> dict[int, bytes]:
    """What a decoder writes for each id.

    Args:
      decode_batch: sequences of ids to texts.
      ids: tokens that add something.
      raw: of those, the ones that stand for a single byte, which a decoder can't show.
      begins: as the first token of a text instead of a later one.
      where: names the tokenizer.

    Raises:
      ValueError: what the decoder writes for a token depends on more than whether it is the first.
    """
    # A space as a byte may be dropped like any other space at the beginning; another byte of one may not.
    ids = [i for i in ids if i not in raw or (begins and raw[i] < b"\x80")]
    alone = dict(zip(ids, decode_batch([[i] for i in ids]), strict=True))
    if begins:
        return {**raw, **_encoded(alone)}
    words = [i for i in ids if alone[i].isalnum()] or [i for i in ids if alone[i]]
    if not words:
        return {**raw, **_encoded(alone)}
    first = words[0]
    start, behind = alone[first], {}
    pairs = decode_batch([[first, i] for i in ids])
    threes = decode_batch([[first, i, first] for i in ids])
    again = pairs[ids.index(first)].removeprefix(start)
    for i, pair, three in zip(ids, pairs, threes, strict=True):
        behind[i] = pair.removeprefix(start)
        if pair != start + behind[i] or three != pair + again:
            raise ValueError(
                f"{where}: what its decoder writes for token {i} depends on the tokens beside it, so a text "
                "can't be put together token by token, as stop strings, streaming and constraints need"
            )
    return {**raw, **_encoded(behind)}


def _encoded(texts: dict[int, str]) -> dict[int, bytes]:
    return {i: text.encode("utf-8") for i, text in texts.items()}


def in_order(found: dict[int, bytes], size: int) -> Sequence[bytes]:
    """A list over all ids; those that are missing add nothing."""
    return [found.get(i, b"") for i in range(size)]
