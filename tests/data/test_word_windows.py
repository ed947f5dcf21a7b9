"""Windows of words: what stays of a text, who sees whom, which negatives are drawn, and that all of it is the seed's."""

import json

import numpy as np
import pytest

from jaxlm import config as configs
from jaxlm.data import pipeline, shuffle, word_stream
from jaxlm.data.tasks.word_windows import WordWindowsConfig, WordWindowsTask

SMALL = {"tokenizer": "words:50", "seq_len": 16, "block": 4, "shared_negatives": 3, "window": 2}


def text(path, documents):
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    """Ten documents of ten words; every word says where it stands."""
    documents = [" ".join(f"w{10 * d + n}" for n in range(10)) for d in range(10)]
    return text(tmp_path / "corpus.jsonl", documents)


def make(path, **more):
    return WordWindowsTask(WordWindowsConfig(path=path, **SMALL | {"val_fraction": 0.0} | more))


def rows_of(task, seed=0, epochs=1):
    data = task.train(seed)
    return [data[number] for number in range(epochs * task.info.splits["train"].num_examples)]


def test_keep_probability_in_closed_form():
    """A word that is a hundredth of the text, at 1e-4: sqrt(0.01) + 0.01; one at the threshold stays."""
    keep = word_stream.keep_probability(np.array([100, 9899, 1]), 1e-4)
    assert keep[0] == pytest.approx(0.11) and keep[2] == 1.0
    assert keep[1] == pytest.approx((1e-4 / 0.9899) ** 0.5 + 1e-4 / 0.9899)
    assert word_stream.keep_probability(np.array([5, 1]), 0.0).tolist() == [1.0, 1.0]


def test_frequent_words_are_thinned_out_as_often_as_that():
    ids = np.zeros(100_000, np.int32)
    keep = np.array([0.11])
    kept = word_stream.thin(ids, 0, keep, 2, shuffle.make_key(0)).words
    assert len(kept) == pytest.approx(11_000, abs=4 * (100_000 * 0.11 * 0.89) ** 0.5)


def test_negatives_are_drawn_by_the_power_three_quarters(corpus, tmp_path):
    """16^0.75 = 8 and 1: eight of nine are the frequent word; a word that is not in the text is never drawn."""
    assert np.diff(word_stream.noise(np.array([16, 0, 1]), 0.75), prepend=0) == pytest.approx(
        [8 / 9, 0, 1 / 9]
    )
    path = text(tmp_path / "two.jsonl", [" ".join(["often"] * 16 + ["once"])] * 64)
    task = make(path, sample=0.0, shared_negatives=40)
    drawn = np.concatenate([row["negatives"].ravel() for row in rows_of(task)])
    assert len(drawn) > 10_000
    assert (drawn == 0).mean() == pytest.approx(8 / 9, abs=0.012)


def test_every_word_is_a_centre_once_an_epoch_and_sees_its_own_document(corpus):
    task = make(corpus, sample=0.0)
    words = task.tokenizer.words
    assert len(words) == 50 < 100  # half of the text is unknown, and leaves no gap
    for epoch in np.split(np.array(rows_of(task, epochs=2), object), 2):
        seen = []
        for row in epoch:
            T, W = len(row["tokens"]), (len(row["contexts"]) - len(row["tokens"])) // 2
            assert (row["tokens"] == row["contexts"][W : W + T]).all()
            for place in np.flatnonzero(row["radius"]):
                assert 1 <= row["radius"][place] <= 2
                own = row["segment_ids"][place + W]
                around = slice(place, place + 2 * W + 1)
                same = row["segment_ids"][around] == own
                numbers = [int(words[w][1:]) // 10 for w in row["contexts"][around][same]]
                assert len(set(numbers)) == 1
            seen += row["tokens"][row["radius"] > 0].tolist()
        assert sorted(seen) == list(range(50))


def test_radii_are_equally_likely(tmp_path):
    task = make(text(tmp_path / "long.jsonl", ["a b"] * 2000), sample=0.0, window=4)
    radii = np.concatenate([row["radius"] for row in rows_of(task)])
    counts = np.bincount(radii[radii > 0], minlength=5)[1:]
    assert counts == pytest.approx([1000] * 4, abs=4 * (4000 * 3 / 16) ** 0.5)


def test_same_seed_same_batch_other_seed_other_batch(corpus):
    batches = [pipeline.train_batches(make(corpus), seed, 2) for seed in (3, 3, 4)]
    first, again, other = ([one[step] for step in (7, 0, 7)] for one in batches)
    for left, right in zip(first, again, strict=True):
        assert all((left[name] == right[name]).all() for name in left)
    for left, right in ((first[0], first[2]),):
        assert all((left[name] == right[name]).all() for name in left)
    assert any((first[0][name] != other[0][name]).any() for name in first[0])


def test_epochs_are_thinned_out_anew(tmp_path):
    task = make(
        text(tmp_path / "a.jsonl", [" ".join(f"a b w{n}" for n in range(300))]), sample=0.01
    )
    half = task.info.splits["train"].num_examples
    rows = rows_of(task, epochs=2)
    one, two = (
        np.concatenate([row["tokens"][row["radius"] > 0] for row in part])
        for part in (rows[:half], rows[half:])
    )
    assert sorted(one.tolist()) != sorted(two.tolist())


def test_blocks_of_a_long_stream_hold_the_same_words(corpus):
    task = make(corpus, sample=0.0)
    part, cfg = task.parts[0], task.config
    found = []
    for block in (1 << 20, 37):
        rows = word_stream.Rows(
            part.tokens,
            0,
            part.num_train,
            cfg.seq_len,
            task.keep_V,
            task.tokenizer.eos_id,
            (0,),
            block,
        )
        words = []
        for index in range(len(rows)):
            frame = rows.row(*rows.locate(index), cfg.window)
            words += frame.words[cfg.window :][: frame.num_centres].tolist()
        found.append(sorted(words))
    assert found[0] == found[1] == list(range(50))


def test_evaluation_gives_every_row_once_and_always_the_same(tmp_path):
    lines = [" ".join(f"w{n}" for n in range(40))] * 8
    task = make(text(tmp_path / "same.jsonl", lines), val_fraction=0.5, sample=0.0)
    twice = [list(task.eval("val", 2)) for _ in range(2)]
    for one, other in zip(*twice, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
    ids = np.concatenate([batch["id"] for batch in twice[0]])
    assert sorted(ids[ids >= 0].tolist()) == list(range(task.info.splits["val"].num_examples))
    assert "->" in task.show(next(task.eval("train", 2)), 1)


def test_pieces_of_words_come_with_the_row(corpus):
    row = rows_of(make(corpus, num_buckets=100))[0]
    assert {"words", "places", "pieces", "owners"} <= row.keys()
    assert (row["words"][row["places"]] == row["contexts"]).all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tokenizer": "bytes"}, 'data.tokenizer="bytes" has no words: expected words:N'),
        ({"window": 0}, "data.window=0 must be at least 1"),
        ({"seq_len": 18}, "data.seq_len=18 must be a multiple of data.block=4"),
        ({"min_n": 5, "max_n": 4}, "data.max_n=4 must be at least data.min_n=5"),
        ({"sample": -1.0}, "data.sample=-1.0 must be 0"),
    ],
)
def test_wrong_settings(more, said):
    with pytest.raises(ValueError, match=said):
        WordWindowsConfig(**SMALL | more)


def test_a_text_of_one_symbol_and_an_empty_one(tmp_path):
    with pytest.raises(ValueError, match="has 1 different words: a window needs two"):
        make(text(tmp_path / "one.jsonl", ["a a a a a a a a"] * 4))
    with pytest.raises(ValueError, match="val_fraction=0.5 .* has no known word"):
        make(text(tmp_path / "apart.jsonl", ["a b c"] * 4 + ["d e f"] * 4), val_fraction=0.5)
    with pytest.raises(ValueError, match="no word of min_count=1 .0 different words, none"):
        make(text(tmp_path / "none.jsonl", ["... !"] * 4))


def test_a_row_counts_for_all_words_that_it_was_made_of(tmp_path):
    """2 documents of 40 words, most of them left out as too frequent, and their ends: in one row of 16."""
    task = make(text(tmp_path / "often.jsonl", [" ".join(["often"] * 39 + ["once"])] * 2))
    rows = task.info.splits["train"].num_examples
    assert rows == 1 and task.info.row_tokens == 82


def test_chinese_by_characters(tmp_path):
    path = text(tmp_path / "zh.jsonl", ["學而時習之，不亦說乎"] * 8)
    with pytest.raises(ValueError, match="language=any .each character is one"):
        make(path)
    task = make(path, sample=0.0, tokenizer="words:50,language=any")
    assert set(task.tokenizer.words) == set("學而時習之不亦說乎")


def test_sources_with_weights_are_refused(corpus):
    with pytest.raises(ValueError, match="leave out the @weights"):
        make(f"{corpus}@0.5,{corpus}@0.5")


def test_the_section_is_a_configs():
    assert configs.section("data", "word_windows").window == 5
