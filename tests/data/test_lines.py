"""data.kind="lines": one short text a row, from <eos> to <eos>."""

import json

import numpy as np
import pytest

from jaxlm.data.tasks.lines import LinesConfig, LinesTask

TEXTS = ["ab", "abc", "", "c"]


@pytest.fixture
def path(tmp_path):
    lines = [json.dumps({"text": text, "n": 1}) for text in [*TEXTS, *["b"] * 16]]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path / "texts.jsonl"


def task(path, **config):
    given = {"tokenizer": "chars", "seq_len": 4, "val_fraction": 0.2} | config
    return LinesTask(LinesConfig(path=str(path), **given))


def test_a_text_is_read_from_eos_to_eos(path):
    found = task(path)
    eos = found.tokenizer.eos_id
    batch = next(iter(found.eval("train", 4)))
    np.testing.assert_array_equal(batch["tokens"][0], [eos, 0, 1, 0])
    np.testing.assert_array_equal(batch["targets"][0], [0, 1, eos, 0])
    np.testing.assert_array_equal(batch["weights"].sum(1), [3, 4, 1, 2])
    np.testing.assert_array_equal(batch["targets"][2], [eos, 0, 0, 0])
    assert found.info.splits["train"].num_examples == 16 and found.info.whole_texts
    assert found.example("train", 1)[1] == "abc" and "'ab<eos>'" in found.show(batch, 1)


def test_a_longer_text_is_cut_before_its_end(path):
    batch = next(iter(task(path, seq_len=4, val_fraction=0.0).eval("train", 2)))
    assert batch["targets"][1, 3] != 0  # "abc" has room for its <eos>
    (path.parent / "long.jsonl").write_text(json.dumps({"text": "abcabc"}) + "\n")
    cut = next(iter(task(path.parent / "long.jsonl", val_fraction=0.0).eval("train", 1)))
    np.testing.assert_array_equal(cut["targets"], [[0, 1, 2, 0]])
    np.testing.assert_array_equal(cut["weights"], [[1, 1, 1, 1]])


def test_a_tsv_s_first_column_is_the_text(tmp_path):
    (tmp_path / "pairs.tsv").write_text("".join(f"a{n}\tb\n" for n in range(9)))
    found = task(tmp_path / "pairs.tsv")
    assert found.example("train", 3)[1] == "a3"


def test_every_line_comes_once_an_epoch(path):
    data = task(path).train(seed=0)
    epoch = [tuple(data[n]["targets"]) for n in range(16)]
    again = [tuple(data[n]["targets"]) for n in range(16, 32)]
    assert sorted(epoch) == sorted(again) and epoch != again


def test_what_is_refused(path):
    with pytest.raises(ValueError, match="data.text_column is empty"):
        task(path, text_column="")
    with pytest.raises(ValueError, match="data.seq_len=3 must be at least 4"):
        task(path, seq_len=3)
    with pytest.raises(ValueError, match="set data.text_column"):
        task(path, text_column="txt")
