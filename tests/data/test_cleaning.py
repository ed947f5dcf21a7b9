"""Words for BM25 and classical baselines: literal examples in several languages."""

import pytest

from jaxlm.data.cleaning import LANGUAGES, STEMMED, Cleaning


@pytest.fixture(autouse=True)
def libraries():
    for name in ("bm25s", "snowballstemmer"):
        pytest.importorskip(name)


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("english", "The foxes were RUNNING, weren't they?", ["fox", "were", "run", "weren", "t"]),
        ("german", "Die Häuser der Städte", ["haus", "stadt"]),
        ("french", "Les pommes sont mangées.", ["pomm", "mang"]),
        (
            "any",
            "Größe: 漢字 e\u0301té, a1-b2 かな",
            ["größe", "漢", "字", "été", "a1", "b2", "か", "な"],
        ),
    ],
)
def test_words_of_a_language(language, text, words):
    assert Cleaning(language).words(text) == words


def test_full_width_letters_are_letters():
    assert Cleaning("any").words("ＡＢＣ　１２") == ["abc", "12"]


def test_chinese_is_cut_into_words():
    pytest.importorskip("jieba")
    words = Cleaning("chinese").words("我来到北京清华大学，学习 Python 编程。")
    assert words == ["来到", "北京", "清华大学", "学习", "python", "编程"]


def test_each_part_can_be_left_out():
    text = "The foxes"
    assert Cleaning("english", stop_words=False).words(text) == ["the", "fox"]
    assert Cleaning("english", stems=False).words(text) == ["foxes"]


def test_every_language_that_is_named_has_its_stemmer_and_its_stop_words():
    import snowballstemmer

    assert set(STEMMED) <= set(snowballstemmer.algorithms())
    for language in (*STEMMED, "chinese"):
        Cleaning(language, stems=False).words("")
        assert language in LANGUAGES


def test_a_language_is_named():
    with pytest.raises(ValueError, match='did you mean "english".*accepted: any, chinese, danish'):
        Cleaning("englisch")
