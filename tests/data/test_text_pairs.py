"""Texts that belong together: what a row holds, as literal examples."""

import json

import numpy as np
import pytest

from jaxlm.data.prompts import Reader
from jaxlm.data.tasks.text_pairs import TextPairsConfig, TextPairsTask


def task(tmp_path, lines, **options):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TextPairsTask(
        TextPairsConfig(**{"path": str(path), "seq_len": 5, "val_fraction": 0.0} | options)
    )


def first(made):
    return next(iter(made.eval("train", 1)))


def ids(text):
    return list(text.encode())


def test_a_row_holds_the_texts_of_a_line_each_from_position_0(tmp_path):
    made = task(
        tmp_path, [{"anchor": "ab", "positive": "c", "hard": "defg"}], negative_column="hard"
    )
    special = made.tokenizer.special_ids()
    begin, end, pad = (special[name] for name in ("[CLS]", "[SEP]", "[PAD]"))
    batch = first(made)
    assert batch["tokens"].tolist() == [
        [begin, *ids("ab"), end, pad, begin, *ids("c"), end, pad, pad, begin, *ids("def"), end]
    ]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 0, 2, 2, 2, 0, 0, 3, 3, 3, 3, 3]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 0, 0, 1, 2, 0, 0, 0, 1, 2, 3, 4]]
    assert batch["weights"].tolist() == [[1.0]]
    assert batch["input"].tolist() == ["ab"] and batch["reference"].tolist() == ["c"]


def test_equal_texts_have_equal_numbers(tmp_path):
    lines = [{"anchor": "ab", "positive": "c"}, {"anchor": "c", "positive": "x"}]
    batch = next(iter(task(tmp_path, lines).eval("train", 2)))
    numbers = batch["text_ids"]
    assert numbers[0, 1] == numbers[1, 0]
    assert len(np.unique(numbers)) == 3 and numbers.min() >= 0


def test_a_text_alone_is_read_twice(tmp_path):
    made = task(tmp_path, [{"anchor": "ab"}], positive_column="")
    batch = first(made)
    assert batch["tokens"][0, :5].tolist() == batch["tokens"][0, 5:].tolist()
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 0, 2, 2, 2, 2, 0]]
    assert batch["input"].tolist() == batch["reference"].tolist() == ["ab"]
    assert made.info.splits["train"].num_tokens == 8


def test_a_history_and_several_columns_are_lines_of_one_text(tmp_path):
    lines = [{"history": ["a", "b"], "title": "c", "text": "d"}]
    made = task(tmp_path, lines, anchor_column="history", positive_column="title+text", seq_len=9)
    batch = first(made)
    assert batch["input"].tolist() == ["a\nb"] and batch["reference"].tolist() == ["c\nd"]


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="line 1 has no column 'positive' .*data.positive_column"):
        task(tmp_path, [{"anchor": "a", "positve": "b"}])


def test_lines_without_names_are_anchor_and_positive(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("ab\tc\n")
    made = TextPairsTask(TextPairsConfig(path=str(path), seq_len=5, val_fraction=0.0))
    assert first(made)["reference"].tolist() == ["c"]
    assert made.show(first(made), 1).splitlines()[1:] == [
        "  anchor    '[CLS]ab[SEP]'",
        "  positive  '[CLS]c[SEP]'",
    ]


@pytest.mark.parametrize("text", ["ab", "", "much longer than a row"])
def test_an_encoder_reads_a_text_as_it_was_trained_to(tmp_path, text):
    made = task(tmp_path, [{"anchor": text or "x", "positive": text}], positive_column="positive")
    batch = first(made)
    trained = batch["tokens"][batch["segment_ids"] == 2].tolist()
    reader = Reader(made.tokenizer, made.info.vocab_size, template=False, is_source=False)
    assert reader.sentences([text], 5) == [trained]
