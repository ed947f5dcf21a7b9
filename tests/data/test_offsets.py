"""Characters of tokens as literals: Chinese, emoji, combining marks; answers in characters to places and back."""

import numpy as np
import pytest

from jaxlm.data import special_tokens, subword_tokenizers, tokenizers
from jaxlm.data.offsets import located, token_offsets, token_span
from jaxlm.data.tokenizers import BytesTokenizer, CharsTokenizer

CAFE = "cafe\u0301"  # é as e and a combining acute accent: five characters, four to the eye
FAMILY = "👩\u200d👧"  # three characters, one to the eye
THUMB = "👍🏽"  # with a colour of skin: two
FLAGS = "🇩🇪🇫🇷"  # four characters, two flags


def parts(tokenizer, text):
    return [text[start:end] for start, end in token_offsets(tokenizer, text)]


def wordpiece():
    """Lower case and without accents, as uncased BERT reads; words that it doesn't know are [UNK]."""
    import tokenizers as library

    vocab = ["[UNK]", "cafe", "我", "北", "na", "##ive", "ok", "."]
    model = library.models.WordPiece({piece: i for i, piece in enumerate(vocab)}, unk_token="[UNK]")
    made = library.Tokenizer(model)
    made.normalizer = library.normalizers.BertNormalizer()
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return subword_tokenizers.JsonTokenizer("w", made.to_str().encode(), None, "w")


def test_bytes_of_one_character_have_its_span():
    assert parts(BytesTokenizer(), "aé我") == ["a", "é", "é", "我", "我", "我"]
    assert token_offsets(BytesTokenizer(), "").shape == (0, 2)


def test_a_character_is_never_cut():
    """Whatever tokens it is of: the span is that of what a person sees as one."""
    everything = CAFE + FAMILY + THUMB + FLAGS
    tokenizer = CharsTokenizer("".join(sorted(set(everything))))
    assert parts(tokenizer, everything) == [
        "c", "a", "f", "e\u0301", "e\u0301", *[FAMILY] * 3, *[THUMB] * 2, *["🇩🇪"] * 2, *["🇫🇷"] * 2,
    ]  # fmt: skip
    # A mark behind a space is no part of the space.
    assert parts(CharsTokenizer(" \u0301a"), " \u0301a")[1:] == ["\u0301", "a"]


def test_gpt2_spreads_a_character_over_tokens():
    tokenizer = tokenizers.build("gpt2")
    assert parts(tokenizer, "我 ok 🙂x") == ["我", "我", "ok", "🙂", "x"]
    assert parts(tokenizer, f"a {CAFE}!") == ["a", CAFE, "e\u0301", "e\u0301", "!"]
    assert len(parts(tokenizer, FAMILY)) == len(tokenizer.encode(FAMILY)) > 3
    assert set(parts(tokenizer, FAMILY)) == {FAMILY}


def test_wordpiece_drops_accents_but_the_text_keeps_them():
    tokenizer = wordpiece()
    text = f"我 北 {CAFE} naïve 🙂k {FAMILY} OK."
    assert parts(tokenizer, text) == ["我", "北", CAFE, "na", "ïve", "🙂k", FAMILY, "OK", "."]
    extended = special_tokens.with_special_tokens(tokenizer, special_tokens.BERT)
    assert parts(extended, text) == parts(tokenizer, text)


def test_a_tokenizer_that_cannot_say_it():
    class Mute:
        name = "mute"

    with pytest.raises(ValueError, match="data.tokenizer=mute can't say which characters"):
        token_offsets(Mute(), "a")


@pytest.mark.parametrize("name", ["bytes", "chars", "gpt2", "wordpiece"])
@pytest.mark.parametrize("answer", ["北京", CAFE, "🙂", FAMILY, "naïve", "在北京的 café"])
def test_answers_come_back_from_their_tokens(name, answer):
    """Characters to tokens and back: the answer itself, or more where a token has more in it."""
    text = f"她在北京的 café 喝咖啡 🙂 {FAMILY} {CAFE} naïve."
    tokenizer = (
        wordpiece()
        if name == "wordpiece"
        else CharsTokenizer("".join(sorted(set(text))))
        if name == "chars"
        else tokenizers.build(name)
    )
    span = located(text, answer, None, "w")
    offsets = token_offsets(tokenizer, text)
    first, last = token_span(offsets, np.array([span]), 0)
    assert text[offsets[first, 0] : offsets[last, 1]] == answer


def test_where_an_answer_stands():
    assert located("aba", "a", 2, "w") == (2, 3)
    assert located("aba", "a", None, "w") == (0, 1)
    assert located("我爱北京", "北京", "2", "w") == (2, 4)
    offsets = np.array([[0, 3], [4, 7], [8, 9]])
    assert token_span(offsets, np.array([[4, 9]]), 10).tolist() == [11, 12]
    assert token_span(offsets, np.array([[5, 6]]), 10).tolist() == [11, 11]  # a part of a token
    assert token_span(offsets, np.array([[8, 12], [0, 3]]), 10).tolist() == [10, 10]
    assert token_span(offsets[1:], np.array([[0, 7]]), 10).tolist() == [0, 0]  # not whole in it
    assert token_span(offsets[:0], np.array([[0, 1]]), 10).tolist() == [0, 0]
    assert token_span(offsets, np.array([[3, 4]]), 10).tolist() == [0, 0]  # of no token


@pytest.mark.parametrize(
    "answer, start, message",
    [
        (
            "b",
            0,
            r"^w: the answer 'b' does not begin at character 0 of its context: there stands 'a'$",
        ),
        ("a", 9, r"character 9 of its context: it has 3$"),
        ("a", -3, r"character -3 of its context: it has 3$"),
        ("ab", 2, r"there stands 'a'$"),
        ("c", None, r"^w: the answer 'c' does not stand in its context$"),
        ("a", "x", r"^w: the start 'x' of an answer is no number; set data.starts_column$"),
        (3, 0, r"^w: the answer 3 is no text; set data.answers_column$"),
    ],
)
def test_a_span_outside_its_text_is_one_clear_line(answer, start, message):
    with pytest.raises(ValueError, match=message):
        located("aba", answer, start, "w")
