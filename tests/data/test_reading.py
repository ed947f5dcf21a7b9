"""Pieces can be tokenised apart: what that promises, on text made to break it."""

import random

import numpy as np
import pytest

from jaxlm.data import bundled, reading, tokenizers

NASTY = [
    *("a", "B", "é", "你", "，", "🙂", "0", "7", "'", "'s", "'ll", "!", "--", "#"),
    *(" ", " ", "  ", "\n", "\n", "\n\n", "\r\n", "\t", "\u3000", "\u00a0", "\x1c", "\u2028"),
]


@pytest.mark.parametrize(
    "text, cut",
    [
        ("one two\nthree", 8),  # after a line break between words
        ("a\nb\nc d", 4),  # the last one
        ("one two", 3),  # else before a space
        ("one\n\ntwo three", 8),  # an empty line is no place
        ("one\n two", 0),  # nor is an indented one
        ("one\n\u3000two", 0),
        ("one  two", 0),
        ("one\n", 0),  # what follows isn't known
        ("你好", 0),
        ("", 0),
    ],
)
def test_cut_point(text, cut):
    assert reading.cut_point(text) == cut


def test_cutting_anywhere_allowed_keeps_the_tokens_of_gpt2():
    gpt2, random_ = tokenizers.build("gpt2"), random.Random(0)
    cuts = 0
    for _ in range(1500):
        text = "".join(random_.choices(NASTY, k=12))
        if cut := reading.cut_point(text):
            cuts += 1
            whole = gpt2.encode(text).tolist()
            assert gpt2.encode(text[:cut]).tolist() + gpt2.encode(text[cut:]).tolist() == whole, (
                text
            )
    assert cuts > 300


def test_pieces_have_the_tokens_of_the_whole():
    text = bundled.read("technical").decode()[:400_000] + bundled.read("poetry").decode()[:100_000]
    pieces = list(reading.document_pieces(text))
    assert "".join(pieces) == text and len(pieces) > 8
    gpt2 = tokenizers.build("gpt2")
    np.testing.assert_array_equal(np.concatenate(gpt2.encode_batch(pieces)), gpt2.encode(text))


def test_text_without_a_place_to_cut_is_cut_all_the_same():
    pieces = list(reading.document_pieces("x" * 3_000_000))
    assert sum(map(len, pieces)) == 3_000_000 and max(map(len, pieces)) < 1_200_000


def test_characters_may_lie_across_blocks():
    raw = "\ufeff你🙂é\n".encode()
    for size in range(1, 6):
        blocks = (raw[start : start + size] for start in range(0, len(raw), size))
        assert "".join(reading.decoded(blocks, "x")) == "你🙂é\n"
    assert "".join(reading.decoded([raw], "x", offset=7)) == "\ufeff你🙂é\n"
