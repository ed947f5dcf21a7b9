"""Files of word vectors: there and back, as others write them, and what is said of torn ones. gensim: tests/parity."""

import numpy as np
import pytest

from jaxlm.interop import word2vec

TABLE = word2vec.WordTable(["the", "naïve", "王"], np.float32([[1, 0.1], [-2.5e-8, 3], [4, 1 / 3]]))


@pytest.mark.parametrize("name", ["a.txt", "a.vec", "a.bin"])
def test_there_and_back_to_the_last_bit(tmp_path, name):
    word2vec.write(tmp_path / name, TABLE)
    found = word2vec.read(tmp_path / name)
    assert found.words == TABLE.words and (found.vectors == TABLE.vectors).all()


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_as_the_c_tools_write_them(tmp_path):
    """word2vec.c ends a text line with a space and a binary vector with a line break, gensim's binary has none; GloVe has no header."""
    numbers = np.float32([[1, 2], [3, 4]])
    text = write(tmp_path / "a.txt", "2 2\n</s> 1 2 \nof 3 4 \n")
    with_breaks = b"2 2\n</s> " + numbers[0].tobytes() + b"\nof " + numbers[1].tobytes() + b"\n"
    glove = write(tmp_path / "g.txt", "</s> 1 2\nof 3.0 4.0\n")
    for path in (
        text,
        glove,
        write(tmp_path / "a.bin", with_breaks),
        write(tmp_path / "b.bin", with_breaks.replace(b"\nof", b"of").rstrip(b"\n")),
    ):
        found = word2vec.read(path)
        assert found.words == ["</s>", "of"] and (found.vectors == numbers).all()


def test_a_word_with_a_space_in_it_as_glove_840b_has(tmp_path):
    found = word2vec.read(write(tmp_path / "g.txt", "of 1 2\n. . . 3 4\n"))
    assert found.words == ["of", ". . ."]


def test_a_word_that_stands_twice_counts_once(tmp_path, caplog):
    with caplog.at_level("WARNING"):
        found = word2vec.read(write(tmp_path / "g.txt", "of 1 2\nto 3 4\nof 5 6\n"))
    assert (
        found.words == ["of", "to"] and found.vectors[0, 0] == 1 and "1 words stand" in caplog.text
    )


def test_an_array_and_its_words(tmp_path):
    np.save(tmp_path / "a.npy", TABLE.vectors)
    write(tmp_path / "words.txt", "\n".join(TABLE.words))
    found = word2vec.read(tmp_path / "a.npy", tmp_path / "words.txt")
    assert found.words == TABLE.words and (found.vectors == TABLE.vectors).all()
    write(tmp_path / "few.txt", "the")
    with pytest.raises(ValueError, match=r"shape \(3, 2\), and .*few.txt 1 words"):
        word2vec.read(tmp_path / "a.npy", tmp_path / "few.txt")
    with pytest.raises(ValueError, match="has no words in it: name the file that has"):
        word2vec.read(tmp_path / "a.npy")


TORN = {
    "a.txt": [
        ("3 2\nof 1 2\nto 3 4\n", "its header says 3 words, and it holds 2"),
        ("of 1 2\nto 3\n", "line 2: 1 numbers behind a word, expected 2"),
        ("of 1 2\nto 3 x\n", "line 2: expected a word and 2 numbers"),
        ("of 1 nan\n", "line 1: the vector of 'of' is not finite"),
        ("of\n", "line 1: 0 numbers behind a word"),
        (b"of 1 2\n\xff 1 2\n", "line 2: expected a word and 2 numbers"),
        ("", "holds no word"),
    ],
    "a.bin": [
        (b"2 2\nof 12345678to 1234", "is torn: .* 2 words of 2 numbers, and word 2 is not whole"),
        (b"1 1\nof \x00\x00\x80\x3f\x00\x00\x80\x3f", "4 bytes behind the 1 words"),
        (b"of 1 2\n", "does not begin with the number of words"),
        ((793712314).to_bytes(4, "little") + b"\x0c\x00\x00\x00", "a model of fastText's own"),
    ],
}


@pytest.mark.parametrize(
    ("name", "content", "said"), [(name, *case) for name, cases in TORN.items() for case in cases]
)
def test_a_torn_file_gives_one_clear_line(tmp_path, name, content, said):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=said) as caught:
        word2vec.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_names_and_words_that_can_not_be(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        word2vec.read(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="expected a name with .txt, .vec, .bin"):
        word2vec.write(tmp_path / "a.gz", TABLE)
    with pytest.raises(ValueError, match="'a b' is empty or has a space in it"):
        word2vec.write(tmp_path / "a.txt", word2vec.WordTable(["a b"], np.ones((1, 2), np.float32)))
