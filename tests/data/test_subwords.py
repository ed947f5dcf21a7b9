"""Character n-grams: which there are, and the rows that they are hashed to. Against gensim: tests/parity/test_word2vec.py."""

import numpy as np
import pytest

from jaxlm.data import subwords


def test_fnv1a_by_its_published_values_and_signed_bytes_beyond_ascii():
    """http://www.isthe.com/chongo/tech/comp/fnv: of "", "a" and "foobar"."""
    assert [subwords.fnv1a(text) for text in (b"", b"a", b"foobar")] == [
        0x811C9DC5,
        0xE40C292C,
        0xBF9CF968,
    ]
    # One byte 0xE4 is -28 to fastText: all upper bits are flipped before the product.
    assert subwords.fnv1a(b"\xe4") == ((0x811C9DC5 ^ 0xFFFFFFE4) * 16777619) % 2**32


def test_ngrams_of_where_as_in_the_paper():
    """Section 3.2: the 3-grams of "where" are <wh, whe, her, ere, re>."""
    assert subwords.ngrams("where", 3, 3) == ["<wh", "whe", "her", "ere", "re>"]
    assert subwords.ngrams("人", 3, 6) == ["<人>"]
    assert subwords.ngrams("ab", 1, 2) == ["<a", "a", "ab", "b", "b>"]
    assert subwords.ngrams("a", 4, 6) == []


def test_the_lists_of_a_vocabulary_are_those_of_its_words():
    made = subwords.Subwords(["a", "king", "queen"], 1000, 3, 4)
    pieces, owners = made.of(np.array([2, 0, 2]))
    expected = [subwords.bucket_ids(word, 1000, 3, 4) for word in ("queen", "a", "queen")]
    assert pieces.tolist() == np.concatenate(expected).tolist()
    assert owners.tolist() == np.repeat([0, 1, 2], [len(ids) for ids in expected]).tolist()


def test_every_word_of_a_row_finds_its_own_pieces():
    made = subwords.Subwords(["king", "of", "queens"], 1000, 3, 6)
    row = np.array([2, 0, 2, 1], np.int32)
    found, words, documents = subwords.RowPieces(made, [row]).of(row, np.ones(4, np.int32))
    assert words.tolist() == row.tolist() and documents.tolist() == [1, 1, 1, 1]
    assert found["words"][found["places"]].tolist() == row.tolist()
    for number, word in enumerate(found["words"][:3]):
        own = found["pieces"][found["owners"] == number]
        assert own.tolist() == made.of(np.array([word]))[0].tolist()
    assert (found["owners"][sum(made.num_V) :] == 4).all()  # the rest is nobody's


def test_a_row_with_more_pieces_than_room_ends_earlier(caplog):
    made = subwords.Subwords(["king", "of", "queens"], 1000, 3, 6)
    rows = subwords.RowPieces(made, [np.array([0, 0, 0], np.int32)])
    with caplog.at_level("WARNING"):
        found, words, documents = rows.of(np.array([0, 1, 2], np.int32), np.ones(3, np.int32))
    assert documents.tolist() == [1, 1, 0] and "left out" in caplog.text
    assert found["words"][found["places"]].tolist() == words.tolist() == [0, 1, 0]


@pytest.mark.parametrize("word", ["kingliness", "ß", "後宮"])
def test_ids_are_below_the_number_of_buckets(word):
    ids = subwords.bucket_ids(word, 7, 2, 5)
    assert len(ids) == len(subwords.ngrams(word, 2, 5)) and ids.min() >= 0 and ids.max() < 7
