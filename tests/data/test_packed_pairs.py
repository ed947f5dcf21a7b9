"""PackedPairsTask: pairs apart, each once an epoch, rows by (seed, step); evaluation as that of PairsTask."""

import logging

import numpy as np
import pytest

from jaxlm.data import packing, pipeline, tokenizers
from jaxlm.data.tasks.packed_pairs import PackedPairsTask
from jaxlm.data.tasks.pairs import PairsTask

EOS, START = tokenizers.BytesTokenizer.eos_id, 0


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


def write(path, pairs):
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return str(path)


def make(path, kind=PackedPairsTask, **fields):
    return kind(kind.Config(path=path, **{"source_len": 8, "target_len": 8, **fields}))


def some_pairs(rng, count, longest=12):
    def word():
        return "".join(rng.choice(list("abcdefg "), rng.integers(1, longest)))

    return [(f"{word()}.", f"{word()}.") for _ in range(count)]


def epoch(task, seed=0, number=0):
    """The rows of an epoch."""
    size = task.info.splits["train"].num_examples
    return list(task.train(seed)._getitems(range(number * size, (number + 1) * size)))


def pairs_of(row):
    """(source, inputs, targets) of every pair of a row, which is checked for form on the way."""
    count = int(row["segment_ids"].max())
    for ids, segments, positions in (
        ("source", "source_segment_ids", "source_positions"),
        ("targets", "segment_ids", "positions"),
    ):
        size = int((row[segments] > 0).sum())
        assert (
            np.diff(row[segments][:size]) >= 0
        ).all()  # filling is at the end, segments count up
        assert set(row[segments][:size].tolist()) == set(range(1, count + 1))
        assert not row[ids][size:].any() and not row[positions][size:].any()
        for segment in range(1, count + 1):
            own = row[positions][row[segments] == segment]
            assert own.tolist() == list(range(len(own)))
    assert row["weights"].tolist() == (row["segment_ids"] > 0).tolist()
    assert not row["tokens"][row["segment_ids"] == 0].any()
    for segment in range(1, count + 1):
        own = row["segment_ids"] == segment
        source = row["source"][row["source_segment_ids"] == segment]
        yield tuple(tuple(part.tolist()) for part in (source, row["tokens"][own], row["targets"][own]))  # fmt: skip


def test_two_pairs_in_a_row_literally(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make(write(tmp_path / "a.tsv", [("ab", "xyz"), ("c", "w")]), val_fraction=0.0)
    a, b, c, w, x, y, z = b"abcwxyz"
    (row,) = epoch(task)
    assert {name: values.tolist() for name, values in row.items()} == {
        "source": [a, b, EOS, c, EOS, 0, 0, 0],
        "source_segment_ids": [1, 1, 1, 2, 2, 0, 0, 0],
        "source_positions": [0, 1, 2, 0, 1, 0, 0, 0],
        "tokens": [START, x, y, z, START, w, 0, 0],
        "targets": [x, y, z, EOS, w, EOS, 0, 0],
        "segment_ids": [1, 1, 1, 1, 2, 2, 0, 0],
        "positions": [0, 1, 2, 3, 0, 1, 0, 0],
        "weights": [1, 1, 1, 1, 1, 1, 0, 0],
    }
    dtypes = {name: values.dtype.name for name, values in row.items()}
    assert dtypes == dict.fromkeys(row, "int32") | {"weights": "float32"}
    assert task.fill == {"source": 5 / 8, "target": 6 / 8}
    info = task.info.splits["train"]
    assert (info.num_examples, info.num_tokens, info.num_bytes) == (1, 5 + 6, 7)
    packed = "packing  train: 2 pairs into 1 rows, source 62.5 %, target 75.0 % filled"
    assert packed in caplog.text
    batch = {name: values[None] for name, values in row.items()}
    assert task.show(batch, 1, batch["targets"]).splitlines() == [
        "example 0: 6 tokens, 6 scored",
        "  pair 1:",
        "    source    'ab<eos>'",
        "    target    'xyz<eos>'",
        "    predicted 'xyz<eos>'",
        "  pair 2:",
        "    source    'c<eos>'",
        "    target    'w<eos>'",
        "    predicted 'w<eos>'",
    ]


def test_either_side_can_be_the_full_one(tmp_path, caplog):
    """Five short targets would fit in a row of 8, but two of their sources don't; one is cut."""
    lines = [("abcd", "x"), ("abcde", "y"), ("ab", "z"), ("abc", ""), ("abcdefghi", "")]
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make(write(tmp_path / "a.tsv", lines), val_fraction=0.0)
    # Sources with <eos> 5 6 3 4 and 8 (cut), targets 2 2 2 1 1. By length in all: 9 | 8 | 7, then
    # 5 (4 + 1) finds no room, 5 (3 + 2) fits beside 7 only.
    assert [task.groups.row(number).tolist() for number in range(4)] == [[4], [1], [0, 2], [3]]
    assert "1 of 5 lines are longer than data.source_len=8 and are cut" in caplog.text
    assert "2 of 5 lines have no target" in caplog.text
    assert task.fill == {"source": 26 / 32, "target": 8 / 32}


@pytest.mark.parametrize("seed", range(3))
def test_every_pair_once_an_epoch(tmp_path, seed):
    rng = np.random.default_rng(seed)
    lines = some_pairs(rng, 70)
    limits = {"source_len": int(rng.integers(4, 40)), "target_len": int(rng.integers(4, 40))}
    task = make(write(tmp_path / "a.tsv", lines), **limits)

    def ids(text, limit):
        return (*text.encode()[: limit - 1], EOS)

    expected = []
    for source, target in lines[:63]:  # the last tenth is held out
        targets = ids(target, limits["target_len"])
        expected.append((ids(source, limits["source_len"]), (START, *targets[:-1]), targets))
    for number in range(2):
        rows = epoch(task, number=number)
        assert sorted(pair for row in rows for pair in pairs_of(row)) == sorted(expected)
    tokens = sum(len(source) + len(targets) for source, _, targets in expected)
    assert task.info.splits["train"].num_tokens == tokens
    filled = sum(limits[f"{side}_len"] * fill for side, fill in task.fill.items()) * len(rows)
    np.testing.assert_allclose(filled, tokens)


def test_the_plan_is_one_and_the_seed_orders_its_rows(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tsv", some_pairs(np.random.default_rng(0), 80))
    task, again = make(path), make(path)
    batches = [pipeline.train_batches(one, 3, 4) for one in (task, again)]
    for step in (0, 5, 40):
        for name, values in batches[0][step].items():
            np.testing.assert_array_equal(values, batches[1][step][name])
    text = [[str(row) for row in epoch(task, *which)] for which in ((0, 0), (0, 1), (1, 0))]
    assert text[0] != text[1] and text[0] != text[2]
    assert sorted(text[0]) == sorted(text[1]) == sorted(text[2])
    assert task.info.digest == again.info.digest
    with monkeypatch.context() as patch:
        patch.setattr(packing, "pack", None)  # can't be called: the plan is in the cache
        make(path)
        with pytest.raises(TypeError):
            make(path, target_len=9)
    assert make(path, target_len=9).info.digest != task.info.digest
    assert make(path, PairsTask).info.digest != task.info.digest


def test_evaluation_is_that_of_padded_pairs(tmp_path):
    """One pair a row, so that what is written from it is scored against its own raw texts."""
    lines = some_pairs(np.random.default_rng(1), 40)
    path = write(tmp_path / "a.tsv", lines)
    packed, padded = make(path), make(path, PairsTask)
    for split, own in (("train", lines[:36]), ("val", lines[36:])):
        batches = list(packed.eval(split, 3))
        for ours, theirs in zip(batches, padded.eval(split, 3), strict=True):
            assert list(ours) == list(theirs)
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
        read = [
            (number, *texts)
            for batch in batches
            for number, *texts in zip(
                *(batch[n] for n in ("id", "input", "reference")), strict=True
            )
            if number >= 0
        ]
        assert read == [(number, *pair) for number, pair in enumerate(own)]
        assert packed.example(split, 2)[1] == "\t".join(own[2])
    assert packed.info.splits["val"] == padded.info.splits["val"]
    assert packed.show(batches[0], 1) == padded.show(batches[0], 1)


def test_no_training_line_is_one_clear_line(tmp_path):
    path = write(tmp_path / "a.tsv", [("a", "b")])
    with pytest.raises(ValueError, match="no line is left for split 'train'"):
        make(path, val_fraction=0.5)


@pytest.mark.slow
def test_real_pairs_fill_the_rows():
    task = PackedPairsTask(PackedPairsTask.Config(tokenizer="bytes", source_len=1024, target_len=1024))  # fmt: skip
    assert task.fill["target"] > 0.98 and task.fill["source"] > 0.8
