"""Words as tokens: which are in the vocabulary, what an id means, and what is said of a name that is none."""

import pytest

from jaxlm.data import tokenizers, word_tokenizer
from jaxlm.data.cleaning import Cleaning

TEXT = "The cat saw the Cat; the dog didn't. 42 Füße, 王後 saw"


def test_the_most_frequent_words_come_first_then_unk_and_eos():
    made = tokenizers.build("words:3", [TEXT])
    assert made.words == ["the", "cat", "saw"] and made.vocab_size == 5
    assert made.encode("THE saw, unseen cat").tolist() == [0, 2, 3, 1]
    assert made.special_ids() == {"<unk>": 3, "<eos>": 4} and made.eos_id == 4
    assert made.decode([0, 3, 1, 4]) == "the <unk> cat <eos>"


def test_equally_frequent_words_are_in_the_order_of_their_spelling_and_rare_ones_left_out():
    assert word_tokenizer.most_frequent("words:9", ["b a c c"]) == ["c", "a", "b"]
    assert word_tokenizer.most_frequent("words:9,min_count=2", ["b a c c"]) == ["c"]


@pytest.mark.parametrize("text", [TEXT, "naïve cafe\u0301 Ａ１\nx_y", "孔子曰：學而時習之"])
def test_words_are_those_of_cleaning(text):
    """The fast way for lines of ASCII cuts as the slow one."""
    plain = Cleaning("any", stop_words=False, stems=False)
    assert word_tokenizer.split(text) == plain.words(text)
    assert word_tokenizer.split(text + "\nplain ASCII") == plain.words(text + "\nplain ASCII")


def test_a_chinese_word_is_a_character_or_jiebas():
    assert word_tokenizer.split("我们学习") == ["我", "们", "学", "习"]
    pytest.importorskip("jieba")
    assert word_tokenizer.split("我们学习", "chinese") == ["我们", "学习"]


def test_bytes_are_those_of_the_words_alone():
    made = tokenizers.build("words:9", ["über a"])
    assert made.token_bytes()[made.encode("über a")].tolist() == [5, 1]
    assert made.spellings(begins=False)[0] == b" a" and made.spellings(begins=True)[0] == b"a"


def test_saved_and_loaded(tmp_path):
    made = tokenizers.build("words:3,min_count=1,language=any", [TEXT])
    made.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.words, again.digest, again.name) == (made.words, made.digest, made.name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("words:none", r"N=none must be a whole number from 1"),
        ("words:5,min_count=0", "min_count=0 must be a whole number from 1"),
        ("words:5,min_cuont=2", 'no option "min_cuont" .did you mean "min_count"'),
        ("words:5,language=chines", 'language="chines" is not known .did you mean "chinese"'),
        ("words:5,min_count=9", "no word of min_count=9 .9 different words, the most frequent one"),
    ],
)
def test_what_is_wrong_with_a_name(name, said):
    with pytest.raises(ValueError, match=said):
        tokenizers.build(name, ["the cat saw the dog and a king of york"])


CHINESE, JAPANESE = "我们学习。Linux 系统", "これはペンです。漢字"


def test_where_words_end_is_asked_of_a_text_without_spaces():
    said = "words:9: most words of data.path are single .* name where words end: words:9,language=chinese"
    for text in (CHINESE, JAPANESE):
        with pytest.raises(ValueError, match=said):
            word_tokenizer.most_frequent("words:9", [text])
    assert "们" in word_tokenizer.most_frequent("words:9,language=any", [CHINESE])
    mixed = "five English words and 学习"  # few of them are
    assert "学" in word_tokenizer.most_frequent("words:9", [mixed])


@pytest.mark.parametrize(
    ("text", "added"),
    [(CHINESE, ",language=chinese"), (JAPANESE, ",language=any"), (TEXT, ""), ("42 !", ""), ("", "")],
)  # fmt: skip
def test_the_script_says_the_language_where_none_is_named(text, added):
    assert word_tokenizer.with_language("words:9", text) == f"words:9{added}"
    named = "words:9,language=english"
    assert word_tokenizer.with_language(named, text) == named


def test_no_words_at_all():
    with pytest.raises(ValueError, match="0 different words, none"):
        tokenizers.build("words:5", ["?! ... --"])
