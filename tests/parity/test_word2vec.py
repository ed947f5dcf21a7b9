"""Word vectors against gensim: files both ways, neighbours and analogies, ids of n-grams, and fastText's rule for a word."""

import numpy as np
import pytest

gensim = pytest.importorskip("gensim")

from gensim.models import FastText, KeyedVectors, Word2Vec  # noqa: E402
from gensim.models.fasttext_inner import compute_ngrams_bytes, ft_hash_bytes  # noqa: E402

from jaxlm.data import subwords, word_stream  # noqa: E402
from jaxlm.eval.word_vectors import Vectors  # noqa: E402
from jaxlm.interop import word2vec  # noqa: E402

WORDS = ["the", "naïve", "王後", "x" * 40, "king", "queen", "a.b", "42"]


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return word2vec.WordTable(WORDS, rng.normal(size=(len(WORDS), 5)).astype(np.float32))


@pytest.mark.parametrize("name", ["a.txt", "a.bin"])
def test_gensim_reads_what_we_write(table, tmp_path, name):
    word2vec.write(tmp_path / name, table)
    theirs = KeyedVectors.load_word2vec_format(str(tmp_path / name), binary=name.endswith("bin"))
    assert theirs.index_to_key == table.words and (theirs.vectors == table.vectors).all()


@pytest.mark.parametrize("name", ["a.txt", "a.bin", "no_header.txt"])
def test_we_read_what_gensim_writes(table, tmp_path, name):
    theirs = KeyedVectors(5)
    theirs.add_vectors(table.words, table.vectors)
    header = not name.startswith("no")
    theirs.save_word2vec_format(
        str(tmp_path / name), binary=name.endswith("bin"), write_header=header
    )
    found = word2vec.read(tmp_path / name)
    assert found.words == table.words and (found.vectors == table.vectors).all()


def test_neighbours_and_analogies_are_gensims(table):
    theirs = KeyedVectors(5)
    theirs.add_vectors(table.words, table.vectors)
    ours = Vectors(*table)
    both = (
        (ours.neighbours("king", 7), theirs.most_similar("king", topn=7)),
        (
            ours.analogy("king", "the", "queen", 5),
            theirs.most_similar(positive=["king", "queen"], negative=["the"], topn=5),
        ),
    )
    for found, expected in both:
        assert [word for word, _ in found] == [word for word, _ in expected]
        np.testing.assert_allclose([c for _, c in found], [c for _, c in expected], atol=1e-6)


@pytest.mark.parametrize("word", [*WORDS, "a", "ö", "fußgängerübergänge", "😀b"])
@pytest.mark.parametrize("sizes", [(3, 6), (1, 2), (2, 5)])
def test_ngrams_and_their_hashes_are_gensims(word, sizes):
    expected = compute_ngrams_bytes(word, *sizes)
    assert sorted(gram.encode() for gram in subwords.ngrams(word, *sizes)) == sorted(expected)
    for gram in expected:
        assert subwords.fnv1a(gram) == ft_hash_bytes(gram)


def test_the_vector_of_an_unseen_word_is_gensims():
    """The mean of its n-grams' rows."""
    model = FastText(
        [["king", "queen", "kingdom"]] * 5, vector_size=4, min_count=1, bucket=50, epochs=1
    )
    ids = subwords.bucket_ids("kingliness", 50, 3, 6)
    np.testing.assert_allclose(
        model.wv.vectors_ngrams[ids].mean(0), model.wv["kingliness"], atol=1e-6
    )


def test_words_are_thinned_out_as_gensim_does():
    """Its chances are whole numbers of 2^32."""
    counts = {"often": 900, "now": 90, "once": 10}
    model = Word2Vec(vector_size=2, min_count=1, sample=1e-2)
    model.build_vocab_from_freq(counts)
    keep = word_stream.keep_probability(np.array(list(counts.values())), 1e-2)
    for (word, _), chance in zip(counts.items(), keep, strict=True):
        assert model.wv.get_vecattr(word, "sample_int") / 2**32 == pytest.approx(chance, abs=1e-6)
