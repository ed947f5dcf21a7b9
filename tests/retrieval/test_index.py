"""Indexes: scores by the formula, exact neighbours, rankings fused, and folders that are what they were made from."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jaxlm import answer, retrieve
from jaxlm.data.cleaning import Cleaning
from jaxlm.retrieval import index
from jaxlm.retrieval.vectors import Dense, fused
from jaxlm.retrieval.words import BM25

pytest.importorskip("bm25s")
pytest.importorskip("faiss")
TEXTS = ["red fox", "red red cat and dog", "blue bird"]


class Letters(NamedTuple):
    """A sentence encoder that counts letters."""

    path: str = "letters"
    digest: str = "1"

    def embed(self, texts):
        counts = np.array(
            [[text.count(one) for one in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        )
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_bm25_is_lucenes_formula():
    words = [Cleaning("english").words(text) for text in TEXTS]
    assert words == [["red", "fox"], ["red", "red", "cat", "dog"], ["blue", "bird"]]
    mean = np.mean([len(own) for own in words])

    def weight(word, own):
        document_frequency = sum(word in other for other in words)
        idf = math.log(1 + (len(words) - document_frequency + 0.5) / (document_frequency + 0.5))
        count = own.count(word)
        return idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(own) / mean))

    numbers, scores = BM25.build(TEXTS, Cleaning("english")).rank(
        ["Red dogs!", "none of it", "the"], 3
    )
    assert numbers.tolist() == [[1, 0, -1], [-1, -1, -1], [-1, -1, -1]]
    expected = [weight("red", words[1]) + weight("dog", words[1]), weight("red", words[0]), 0]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-6)


def test_of_equal_scores_the_earlier_text_is_first():
    numbers, _ = BM25.build(["x", "y"] * 200, Cleaning("any")).rank(["x"], 4)
    assert numbers.tolist() == [[0, 2, 4, 6]]


def test_flat_vectors_are_compared_exactly():
    generator = np.random.default_rng(0)
    vectors, questions = generator.normal(size=(50, 8)), generator.normal(size=(5, 8))
    numbers, scores = Dense.build(vectors).rank(questions, 7)
    products = questions @ vectors.T
    assert numbers.tolist() == np.argsort(-products, axis=1)[:, :7].tolist()
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :7], rtol=1e-5)
    few, _ = Dense.build(vectors[:2]).rank(questions, 3)
    assert (few[:, 2] == -1).all()
    with pytest.raises(ValueError, match="--vector_index Flt: faiss can't make it"):
        Dense.build(vectors, "Flt")


def test_rankings_are_fused_by_reciprocal_ranks():
    numbers, scores = fused([np.array([[5, 3, 7]]), np.array([[3, 9, -1]])], 4)
    assert numbers.tolist() == [[3, 5, 9, 7]]
    np.testing.assert_allclose(scores[0], [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63], rtol=1e-6)


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def built(tmp_path, documents, encoder=None, **options):
    folder = tmp_path / "made" / "index"
    return folder, index.build(folder, index.Settings(str(documents), **options), encoder)


def test_a_loaded_index_finds_what_the_built_one_found(tmp_path, documents):
    folder, made = built(tmp_path, documents, Letters(), language="english")
    again = index.load(folder, Letters())
    assert again.methods == made.methods == ["bm25", "dense", "hybrid"]
    for method in ("", *made.methods):
        assert again.search(["a red dog"], 3, method) == made.search(["a red dog"], 3, method)
    (hits,) = again.search(["bird"], 1)
    assert hits[0].passage.text == "blue bird" and hits[0].passage.source == f"{documents} line 3"
    assert index.load(folder).methods == ["bm25"]
    with pytest.raises(ValueError, match="--method dense: this index has bm25"):
        index.load(folder).search(["a"], 1, "dense")
    with pytest.raises(ValueError, match="is there already"):
        built(tmp_path, documents, language="english")


def test_stale_damaged_and_foreign_indexes_are_refused_in_a_line(tmp_path, documents):
    folder, _ = built(tmp_path, documents, Letters(), language="english")
    with pytest.raises(
        ValueError, match="was made by letters as it was then, not by the encoder l2"
    ):
        index.load(folder, Letters("l2", "2"))
    kept = documents.read_text()
    documents.write_text(kept + '{"text": "more"}\n')
    with pytest.raises(
        ValueError, match="is stale: .*notes.jsonl has changed since; build it again"
    ):
        index.load(folder)
    documents.unlink()  # an index alone can be searched
    assert len(index.load(folder).passages) == 3
    (folder / "passages.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="is damaged .passages.jsonl has"):
        index.load(folder)
    with pytest.raises(ValueError, match="no index there; make one with"):
        index.load(tmp_path)


def test_a_build_that_fails_leaves_nothing(tmp_path, documents):
    with pytest.raises(ValueError, match="no column 'body'"):
        built(tmp_path, documents, language="english", text_column="body")
    with pytest.raises(ValueError, match="--vector_index Flt"):
        built(tmp_path, documents, Letters(), vector_index="Flt")
    assert not list((tmp_path / "made").glob("*")) if (tmp_path / "made").exists() else True
    with pytest.raises(ValueError, match="name --encoder PATH, --language NAME"):
        built(tmp_path, documents)
    with pytest.raises(ValueError, match="--vector_index HNSW32 needs --encoder PATH"):
        built(tmp_path, documents, language="english", vector_index="HNSW32")


def test_the_commands(tmp_path, documents, capsys):
    folder = str(tmp_path / "index")
    build = ["build", "--documents", str(documents), "--index", folder, "--language", "english"]
    assert retrieve.main(build) == 0
    assert "3 passages, found by bm25" in capsys.readouterr().out
    assert retrieve.main(["search", "--index", folder, "--question", "foxes", "--k", "2"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["question"] == "foxes"
    assert [one["text"] for one in found["passages"]] == ["red fox"]
    assert retrieve.main(["search", "--index", folder, "--question", "x", "--method", "dense"]) == 2
    assert "--method dense: this index has bm25" in capsys.readouterr().err
    assert retrieve.main(["search", "--index", folder, "--question", "x", "--question", " "]) == 2
    assert "no question: give --question TEXT" in capsys.readouterr().err
    assert (
        answer.main(["--index", str(Path(folder) / "no"), "--reader", "x", "--question", "y"]) == 2
    )
    assert "no index there" in capsys.readouterr().err
