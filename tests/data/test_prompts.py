"""Prompts with answers: what a row holds literally, sums whose held-out operands are never seen, and what is refused."""

import re

import numpy as np
import pytest

from jaxlm.data import arithmetic, records
from jaxlm.data.tasks.prompts import PromptsConfig, PromptsTask


def sums(path):
    source = records.Source(
        "data.path", path, lambda row, where: records.Record(tuple(row.values())), []
    )
    return [record.texts for record in source.records()]


def operands(lines):
    return {int(number) for prompt, _ in lines for number in re.findall(r"\d+", prompt)}


def test_held_out_operands_are_never_seen():
    train, held_out = sums("arithmetic:add2@train"), sums("arithmetic:add2@held_out")
    assert (len(train), len(held_out)) == (72 * 72, 18 * 18)
    assert not operands(train) & operands(held_out)
    assert operands(train) | operands(held_out) == set(range(10, 100))
    assert len({prompt for prompt, _ in train}) == len(train)
    for prompt, answer in held_out:
        left, right = re.fullmatch(r"(\d\d)\+(\d\d)=", prompt).groups()
        assert int(answer) == int(left) + int(right)


@pytest.mark.parametrize(
    ("path", "check"),
    [
        ("arithmetic:sub1", lambda left, right, answer: left - right == answer),
        ("arithmetic:mul3", lambda left, right, answer: left * right == answer),
    ],
)
def test_other_operations(path, check):
    lines = sums(f"{path}@held_out")
    for prompt, answer in lines:
        left, right = re.fullmatch(r"(\d+)[-*](\d+)=", prompt).groups()
        assert check(int(left), int(right), int(answer))
    assert len(lines) == {"1": 4, "3": 1000}[path[-1]]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("arithmetic:add", "as in arithmetic:add2"),
        ("arithmetic:pow2", "add, sub, mul"),
        ("arithmetic:add2@test", "@train or @held_out"),
        ("arithmetic:add2", "names no part: add it, as in arithmetic:add2@held_out"),
    ],
)
def test_sums_that_there_are_not(path, message):
    with pytest.raises(ValueError, match=message):
        arithmetic.open_rows("data.val_path", path)


def task(tmp_path, content, name="own.tsv", **config):
    (tmp_path / name).write_text(content)
    config = {"tokenizer": "bytes", "val_fraction": 0.0, "seq_len": 8} | config
    return PromptsTask(PromptsConfig(path=str(tmp_path / name), **config))


def test_a_row_literally(tmp_path):
    batch = next(task(tmp_path, "ab\tcd\nx\t\n").eval("train", 3))
    a, b, c, d, x = b"abcdx"
    np.testing.assert_array_equal(batch["tokens"][:2], [[a, b, c, d, 0, 0, 0, 0], [x] + [0] * 7])
    np.testing.assert_array_equal(
        batch["targets"][:2], [[b, c, d, 256, 0, 0, 0, 0], [256] + [0] * 7]
    )
    np.testing.assert_array_equal(batch["weights"][:2], [[0, 1, 1, 1, 0, 0, 0, 0], [1] + [0] * 7])
    assert batch["input"].tolist() == ["ab", "x", ""] and batch["reference"].tolist() == [
        "cd",
        "",
        "",
    ]
    assert batch["id"].tolist() == [0, 1, -1]


def test_columns_are_named(tmp_path):
    content = "question,right\nab,cd\n"
    own = task(tmp_path, content, "own.csv", prompt_column="question", answer_column="right")
    assert own.example("train", 0)[1] == "ab\tcd"
    only = task(tmp_path, content, "own.csv", prompt_column="question", answer_column="")
    assert only.example("train", 0)[1] == "ab\t"
    with pytest.raises(ValueError, match="data.prompt_column"):
        task(tmp_path, content, "own.csv")


def test_what_does_not_fit_is_left_out_and_counted(tmp_path, caplog):
    with caplog.at_level("INFO"):
        found = task(tmp_path, "abcde\tfg\nabcde\tfgh\n")
    assert found.info.splits["train"].num_examples == 1
    assert "1 of 2 train lines have more tokens than data.seq_len=8 and are left out" in caplog.text


def test_an_empty_prompt_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 1 has an empty prompt"):
        task(tmp_path, "\tcd\n")
