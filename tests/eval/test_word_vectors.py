"""Neighbours and analogies in the plane, where they can be seen; correlations by scipy; files of questions."""

import numpy as np
import pytest

from jaxlm.eval import word_vectors as scores
from jaxlm.eval.word_pairs import WordPairs

WORDS = ["east", "north", "northeast", "west", "far_east", "nowhere"]
PLANE = scores.Vectors(WORDS, [[1, 0], [0, 1], [1, 1], [-1, 0], [9, 0], [0, 0]])


def test_neighbours_are_by_angle_and_never_the_word_itself():
    assert PLANE.neighbours("east", 2) == [
        ("far_east", pytest.approx(1)),
        ("northeast", pytest.approx(0.5**0.5)),
    ]
    assert len(PLANE.neighbours("east", 99)) == 5
    assert PLANE.similarity("east", "west") == pytest.approx(-1)
    assert PLANE.similarity("east", "nowhere") == 0


def test_an_analogy_is_of_vectors_of_length_one_and_none_of_its_words_the_answer():
    """far_east - east + north is north by length one; it is asked with, so the next is the answer."""
    assert PLANE.analogy("far_east", "east", "north", 1)[0][0] == "northeast"
    # (0.71, 0.71) - (1, 0) + (-1, 0) = (-1.29, 0.71): what is subtracted and what is added are not the same.
    assert PLANE.analogy("northeast", "east", "west", 1)[0][0] == "north"
    with_long = PLANE.vectors_VD[4] - PLANE.vectors_VD[0] + PLANE.vectors_VD[1]
    assert with_long.tolist() == [8, 1]  # of the vectors as they are it would have been east


def test_a_word_that_is_none_is_named_with_its_nearest():
    with pytest.raises(ValueError, match='"noth" is not among the 6 words .did you mean "north"'):
        PLANE.neighbours("noth")
    made = scores.Vectors(
        WORDS, PLANE.vectors_VD, lambda word: np.ones(2) if word == "ne" else None
    )
    assert made.neighbours("ne", 1)[0][0] == "northeast" and "ne" in made and "x" not in made


def test_words_are_shown_with_what_is_near():
    assert PLANE.show(["east", "up"], 2) == "east: far_east northeast\nup: not among the 6 words"
    assert PLANE.show(k=1) == "east: far_east"  # too few words to leave out the most frequent
    many = scores.Vectors([f"w{n}" for n in range(500)], np.eye(500) + 1)
    assert [line.partition(":")[0] for line in many.show(k=1).splitlines()] == [
        "w100",
        "w200",
        "w400",
    ]


def test_vectors_of_tables():
    """Input vectors alone; with biases the sum of both; with n-grams a mean, and of nothing no vector."""
    tables = {
        "input/embedding": np.float32([[1], [2], [9]]),
        "output/embedding": np.float32([[3], [5], [9]]),
    }
    assert scores.Vectors.of_tables(["a", "b"], tables).vectors_VD.tolist() == [[1], [2]]
    biased = tables | {"output/bias": np.zeros(3)}
    assert scores.Vectors.of_tables(["a", "b"], biased).vectors_VD.tolist() == [[4], [7]]
    tables["subwords/embedding"] = np.float32([[10], [20]])
    pieces = {"a": [0, 1], "b": [], "c": [1], "d": []}.__getitem__
    found = scores.Vectors.of_tables(["a", "b"], tables, lambda word: np.int32(pieces(word)))
    np.testing.assert_allclose(found.vectors_VD[:, 0], [(1 + 10 + 20) / 3, 2], rtol=1e-6)
    assert found.vector("c").tolist() == [20] and "d" not in found


def test_spearman_is_scipys_and_unknown_words_are_counted():
    stats = pytest.importorskip("scipy.stats")
    pairs = [
        ("east", "west", 1.0),
        ("east", "north", 4.0),
        ("east", "northeast", 3.0),
        ("east", "south", 9.0),
    ]
    (row,) = scores.similarity_rows(PLANE, pairs)
    assert row.value == pytest.approx(stats.spearmanr([-1, 0, 0.7], [1, 4, 3]).statistic)
    assert "left out=1" in row.signature
    with pytest.raises(ValueError, match="of 1 pairs 0 have vectors"):
        scores.similarity_rows(PLANE, [("south", "east", 1.0)])


def test_analogies_are_counted_right_and_wrong():
    questions = [
        ("east", "far_east", "north", "northeast"),
        ("east", "west", "north", "far_east"),
        ("a", "b", "c", "d"),
    ]
    (row,), examples = scores.analogy_rows(PLANE, questions)
    assert [one["score"] for one in examples] == [1.0, 0.0] and row.value == 0.5
    assert "questions=2|left out=1" in row.signature
    with pytest.raises(ValueError, match="none of 1 analogies has all of its words"):
        scores.analogy_rows(PLANE, questions[2:])


def test_files_of_questions(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("# a remark\neast\twest\t1.5\nnorth,east,3\neast north 2 more\n")
    assert scores.read_pairs(path) == [
        ("east", "west", 1.5),
        ("north", "east", 3.0),
        ("east", "north", 2.0),
    ]
    path.write_text("east west\n")
    with pytest.raises(ValueError, match="line 1: expected two words and a number"):
        scores.read_pairs(path)
    path.write_text(": capitals\nathens greece oslo norway\n")
    assert scores.read_analogies(path) == [("athens", "greece", "oslo", "norway")]
    path.write_text("a b c\n")
    with pytest.raises(ValueError, match="line 1: expected four words"):
        scores.read_analogies(path)


def test_the_held_out_loss_is_of_these_objectives_alone():
    with pytest.raises(
        ValueError, match='"word_pairs" scores objective.kind="negative_sampling" or "glove"'
    ):
        WordPairs(None, 8, "causal_lm")
