"""Pairs, labels and tags: literal batches, splits, what is cut or dropped, refusals."""

import json
import logging

import numpy as np
import pytest

from jaxlm.data.tasks import classes
from jaxlm.data.tasks.labelled import LabelledTask
from jaxlm.data.tasks.pairs import PairsTask
from jaxlm.data.tasks.tagged import TaggedTask

EOS, PAD, CLS, SEP = 256, 257, 258, 259  # of bytes with BERT's special tokens


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path):
    def to_file(name, rows):
        lines = rows
        if name.endswith(".jsonl"):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(tmp_path / name)

    return to_file


def make(kind, path, **fields):
    return kind(kind.Config(path=path, **fields))


def pairs(write, **fields):
    lines = ["ab\txyz", "c\tw", "abcdef\tu", "", *["d\tv"] * 6, "last\tone"]
    return make(PairsTask, write("a.tsv", lines), **{"source_len": 5, "target_len": 4, **fields})


def test_pairs_literally(write, caplog):
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = pairs(write)
    batch = next(task.eval("train", 3))
    assert batch["source"].tolist() == [
        [97, 98, EOS, 0, 0],
        [99, EOS, 0, 0, 0],
        [97, 98, 99, 100, EOS],  # cut
    ]
    assert batch["source_segment_ids"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1] * 5]
    assert batch["targets"].tolist() == [[120, 121, 122, EOS], [119, EOS, 0, 0], [117, EOS, 0, 0]]
    assert batch["tokens"].tolist() == [[0, 120, 121, 122], [0, 119, 0, 0], [0, 117, 0, 0]]
    assert batch["weights"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert "1 of 10 lines are longer than data.source_len=5 and are cut" in caplog.text
    assert "7 tokens" in caplog.text and "target_len" not in caplog.text
    # nine lines and the last tenth; tokens as they are after the cut
    train, val = task.info.splits["train"], task.info.splits["val"]
    assert (train.num_examples, val.num_examples) == (9, 1)
    assert (train.num_tokens, train.num_bytes) == (3 + 2 + 5 + 12 + 4 + 2 + 2 + 12, 5 + 2 + 7 + 12)
    assert task.example("val", 0) == (task.config.path, "last\tone")
    assert task.show(batch, 1, batch["targets"]).splitlines() == [
        "example 0: 4 tokens, 4 scored",
        "  source    'ab<eos>'",
        "  target    'xyz<eos>'",
        "  predicted 'xyz<eos>'",
    ]


def test_pairs_of_a_jsonl_file(write):
    rows = [{"de": "ja", "en": "yes"}, {"de": "nein", "en": "no"}]
    task = make(
        PairsTask, write("a.jsonl", rows), source_column="de", target_column="en", val_fraction=0.5
    )
    assert task.example("train", 0)[1] == "ja\tyes" and task.example("val", 0)[1] == "nein\tno"
    assert make(PairsTask, task.config.path, source_column="en", target_column="de", tokenizer="chars",
                val_fraction=0.5).example("val", 0)[1] == "no\tnein"  # fmt: skip


def test_the_first_of_several_targets_is_learnt_and_scores_are_told_all(write):
    rows = [{"q": "a", "found": ["xy", "z"]}, {"q": "b", "found": "w"}, {"q": "c", "found": ["v"]}]
    columns = {"source_column": "q", "target_column": "found", "val_fraction": 0.0}
    (batch,) = make(PairsTask, write("a.jsonl", rows), **columns).eval("train", 4)
    assert batch["targets"][:3, :3].tolist() == [[*b"xy", EOS], [*b"w", EOS, 0], [*b"v", EOS, 0]]
    assert batch["reference"].tolist() == [["xy", "z"], "w", "v", ""]
    for wrong, said in (([], "is an empty list, no target"), (["x", 3], "is int, not text")):
        with pytest.raises(ValueError, match=f"line 1: column 'found' {said}"):
            make(PairsTask, write("b.jsonl", [{"q": "a", "found": wrong}]), **columns)


def test_lines_of_pairs_as_files_have_them(tmp_path, caplog):
    """A byte-order mark, CRLF, blank lines, empty texts, spaces, no line break at the end."""
    content = b"\xef\xbb\xbfa\tb\r\n\r\n\tno source\r\nno target\t\r\n \t\n a \t b \nlast\tone"
    (tmp_path / "a.tsv").write_bytes(content)
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make(PairsTask, str(tmp_path / "a.tsv"), val_fraction=0.0)
    read = [task.example("train", number)[1] for number in range(len(task.splits["train"].rows))]
    assert read == ["a\tb", "\tno source", "no target\t", " a \t b ", "last\tone"]
    assert "1 of 5 lines have no source" in caplog.text
    assert "1 of 5 lines have no target" in caplog.text
    empty = next(task.eval("train", 3))
    assert empty["source"][1, :2].tolist() == [EOS, 0] and empty["targets"][2, 0] == EOS
    assert (empty["weights"][2] > 0).sum() == 1  # that nothing follows is learnt, too


def test_a_line_without_its_tab_is_one_clear_line(write, tmp_path, capsys):
    from jaxlm import launch

    lines = "from jaxlm import config\n\ndef get_config():\n    cfg = config.base()\n"
    lines += '    cfg.data = config.section("data", "pairs")\n    return cfg\n'
    (tmp_path / "exp.py").write_text(lines)
    path = write("a.tsv", ["one\teins", "", "two zwei", "three\tdrei"])
    assert launch.main(["--config", f"{tmp_path}/exp.py", "--show_batch", f"--config.data.path={path}"]) == 2  # fmt: skip
    said = capsys.readouterr()
    assert said.err.strip().endswith(
        f"data.path={path} line 3 has 1 column: expected source TAB target"
    )
    assert len(said.err.strip().splitlines()) == 1 and not said.out


def labelled(write, **fields):
    rows = [(f"text {n}", label) for n, label in enumerate("baab" * 4 + "cba")]
    path = write("a.jsonl", [{"text": text, "label": label} for text, label in rows])
    return make(LabelledTask, path, **{"seq_len": 8, "min_count": 2, **fields})


def test_labelled_literally(write, caplog):
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = labelled(write)
    assert (
        "1 labels with fewer than data.min_count=2 lines are dropped, with 1 lines of all splits: c"
        in caplog.text
    )
    assert "8 of 18 lines are longer than data.seq_len=8 and are cut" in caplog.text  # from 10 on
    assert task.info.labels == ("a", "b") and task.info.vocab_size == 261
    assert (len(task.splits["train"].rows), len(task.splits["val"].rows)) == (16, 2)
    batch = next(task.eval("train", 2))
    assert batch["tokens"].tolist() == [
        [CLS, *b"text 0", SEP],
        [CLS, *b"text 1", SEP],
    ]
    assert batch["targets"].tolist() == [[1], [0]] and batch["weights"].tolist() == [[1], [1]]
    assert task.show(batch, 1, np.array([[0], [0]])).splitlines() == [
        "example 0: 8 tokens, 1 scored",
        "  text     '[CLS]text 0[SEP]'",
        "  label    b",
        "  predicted a",
    ]


def test_no_label_of_one_s_own_file_is_dropped(write, caplog):
    rows = [f"text {n}\t{label}" for n, label in enumerate("abc" + "b" * 7)]
    task = make(LabelledTask, write("a.tsv", rows), seq_len=8, val_fraction=0.2)
    assert task.info.labels == ("a", "b", "c")
    assert "all val lines have one label, b (the last lines are held out: shuffle" in caplog.text


def test_labelled_pairs_and_cuts(write):
    lines = ["abc\tdefgh\t1", "a\tdefgh\t10", "abcdefgh\td\t2", "a\tb\t1"]
    task = make(
        LabelledTask, write("a.tsv", lines), pair_column="second", seq_len=8, val_fraction=0.25
    )
    assert task.info.labels == ("1", "2", "10")  # by value
    (batch,) = task.eval("train", 3)
    assert batch["tokens"].tolist() == [
        [CLS, *b"abc", SEP, *b"de", SEP],  # five places for both: the longer one is cut first
        [CLS, *b"a", SEP, *b"defg", SEP],
        [CLS, *b"abcd", SEP, *b"d", SEP],
    ]
    assert batch["token_types"].tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 1],
    ]
    (batch,) = task.eval("val", 2)
    assert batch["tokens"].tolist()[0] == [CLS, *b"a", SEP, *b"b", SEP, PAD, PAD, PAD]
    assert batch["segment_ids"].tolist() == [[1] * 5 + [0] * 3, [0] * 8]
    assert batch["token_types"][0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert batch["weights"].tolist() == [[1], [0]] and batch["id"].tolist() == [0, -1]


def test_numbers_that_are_equal_keep_one_order(write, monkeypatch):
    """In every process: the order of a set of texts is another one in each."""
    path = write("a.tsv", ["a\t01", "b\t1", "c\t001", "d\t10", "e\t2", "f\t0001"])
    for order in ((0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0)):
        monkeypatch.setattr(
            classes, "_labels",
            lambda split, _, order=order: dict.fromkeys(split.table.labels[n] for n in order).keys(),
        )  # fmt: skip
        task = make(LabelledTask, path, seq_len=8, val_fraction=0.0)
        assert task.info.labels == ("0001", "001", "01", "1", "2", "10")


def test_labelled_files_for_every_split(write):
    paths = {
        "path": write("train.tsv", ["one\t1", "two\t0", "three\t1"]),
        "val_path": write("dev.tsv", ["four\t0"]),
        "test_path": write("test.tsv", ["five\t1", "six\t0"]),
    }
    task = LabelledTask(LabelledTask.Config(seq_len=16, **paths))
    sizes = {name: split.num_examples for name, split in task.info.splits.items()}
    assert sizes == {"train": 3, "val": 1, "test": 2}
    assert task.example("test", 1) == (paths["test_path"], "six")
    (batch,) = task.eval("test", 2)  # labels are numbered by training, whatever a file's order
    assert batch["targets"].tolist() == [[1], [0]]


def test_labels_that_are_named(write, caplog):
    """In the order given; one that no line has is said, one that is not named refused."""
    path = write("a.tsv", ["one\tb", "two\ta", "three\tb"])
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make(LabelledTask, path, seq_len=8, labels=("b", "none", "a"), val_fraction=0.0)
    assert task.info.labels == ("b", "none", "a")
    assert "a.tsv: no training line has the label: none" in caplog.text
    assert next(task.eval("train", 3))["targets"].tolist() == [[0], [2], [0]]
    # A label of validation alone is no mistake where it is named.
    split = make(
        LabelledTask, path, seq_len=8, labels=("a", "b"), val_path=write("v.tsv", ["x\ta"])
    )
    assert next(split.eval("val", 1))["targets"].tolist() == [[0]]
    with pytest.raises(
        ValueError, match="the train lines have labels that are not in data.labels: b"
    ):
        make(LabelledTask, path, seq_len=8, labels=("a", "c"), val_fraction=0.0)
    with pytest.raises(ValueError, match="data.labels=.* must be texts, each of them once"):
        make(LabelledTask, path, seq_len=8, labels=("a", "a"))


def tagged(write, **fields):
    rows = [
        {"tokens": ["Ann", "in", "NY"], "tags": ["PER", "O", "LOC"]},
        {"tokens": ["a", "b"], "tags": ["O", "O"]},
    ]
    return make(
        TaggedTask, write("a.jsonl", rows), **{"seq_len": 12, "val_fraction": 0.5, **fields}
    )


def test_tagged_literally(write):
    task = tagged(write)
    assert task.info.labels == ("LOC", "O", "PER")
    batch = next(task.eval("train", 1))
    assert batch["tokens"].tolist() == [[CLS, *b"Ann in NY", SEP, PAD]]
    #                                      A        i        N     (the space is a piece of its own)
    assert batch["weights"].tolist() == [[0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0]]
    assert batch["targets"].tolist() == [[0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1] * 11 + [0]]
    predictions = np.ones((1, 12), np.int32)
    assert task.show(batch, 1, predictions).splitlines() == [
        "example 0: 11 tokens, 3 scored",
        "  text     '[CLS]Ann in NY[SEP]'",
        "  tags     'Ann' PER (predicted O)  'in' O  'NY' LOC (predicted O)",
    ]
    filled = next(task.eval("train", 2))
    assert task.show(filled, 2).splitlines()[-2:] == ["  text     ''", "  tags     "]
    cut = next(tagged(write, seq_len=6).eval("train", 1))
    assert cut["tokens"].tolist() == [[CLS, *b"Ann ", SEP]] and cut["weights"].sum() == 1


def test_tags_stand_on_the_first_piece_of_a_bpe_word(write):
    task = tagged(write, tokenizer="gpt2")
    batch = next(task.eval("train", 1))
    pieces = [task.tokenizer.decode([i]) for i in batch["tokens"][0]]
    assert pieces[:6] == ["[CLS]", "Ann", " in", " NY", "[SEP]", "[PAD]"]
    assert np.flatnonzero(batch["weights"][0]).tolist() == [1, 2, 3]


@pytest.mark.parametrize("tokenizer, first", [
    # The first piece of each word: bytes behind its space; GPT-2 has that in the piece.
    ("bytes", [1, 8, 15, 22, 27]),
    ("gpt2", [1, 6, 11, 14, 15]),
])  # fmt: skip
def test_tags_of_words_beyond_ascii(write, tokenizer, first):
    """Chinese, a letter with a combining mark, an emoji of several characters: one tag a word, at its first piece."""
    words = ["我爱", "北京", "café", "🙂", "👩‍👧"]
    rows = [{"tokens": words, "tags": ["B", "I", "O", "B", "O"]}] * 2
    path = write("a.jsonl", rows)
    task = make(TaggedTask, path, seq_len=48, tokenizer=tokenizer, val_fraction=0.5)
    batch = next(task.eval("train", 1))
    places = np.flatnonzero(batch["weights"][0]).tolist()
    assert places == first
    assert [task.info.labels[n] for n in batch["targets"][0, places]] == ["B", "I", "O", "B", "O"]
    end = int(batch["segment_ids"].sum()) - 1
    spelt = [
        task.tokenizer.decode(batch["tokens"][0, a:b]).strip()
        for a, b in zip(places, [*places[1:], end], strict=True)
    ]
    assert spelt == words


@pytest.mark.parametrize("maker", [pairs, labelled, tagged])
def test_orders_epochs_and_digests(write, maker):
    task, again = maker(write), maker(write)
    size = task.info.splits["train"].num_examples
    rows = [str(row) for row in task.train(0)._getitems(range(3 * size))]
    assert rows == [str(row) for row in again.train(0)._getitems(range(3 * size))]
    everything = sorted(rows[:size])
    for epoch in (1, 2):
        assert sorted(rows[epoch * size : (epoch + 1) * size]) == everything
    if size > 8:
        assert rows != [str(row) for row in task.train(1)._getitems(range(3 * size))]
        assert rows[:size] != rows[size : 2 * size]
    ids = [i for batch in task.eval("train", 4) for i in batch["id"].tolist()]
    assert ids == [*range(size), *[-1] * (-size % 4)]
    assert task.info.digest == again.info.digest
    changed = {"target_len": 3} if maker is pairs else {"seq_len": 9}
    assert maker(write, **changed).info.digest != task.info.digest
    with pytest.raises(ValueError, match='no split "dev"; accepted: train, val'):
        task.eval("dev", 1)
    with pytest.raises(ValueError, match='split "val" has no example 99'):
        task.example("val", 99)


def test_tokenised_once(write, monkeypatch):
    from jaxlm.data import tokenizers

    pairs(write)
    monkeypatch.setattr(tokenizers.BytesTokenizer, "encode_batch", None)  # can't be called
    pairs(write, source_len=9)  # cut when it is read: not part of the cache's key
    with pytest.raises(TypeError):
        pairs(write, tokenizer="bytes", val_fraction=0.5, source_column="other")


@pytest.mark.parametrize(
    "kind, name, rows, fields, message",
    [
        (PairsTask, "a.tsv", ["a\tb", "a"], {}, "a.tsv line 2 has 1 column: expected source TAB target$"),
        (PairsTask, "a.jsonl", [{"source": "a"}], {}, "line 1 has no column 'target' .*data.target_c"),
        (PairsTask, "a.tsv", [], {}, "data.path=.*a.tsv is empty: no line in it"),
        (PairsTask, "a.txt", ["a"], {}, r"a.txt is txt: expected \*.jsonl, \*.json, \*.csv or \*.tsv"),
        (PairsTask, "a.tsv", ["a\tb"], {}, "no line is left for split 'train'"),
        (PairsTask, "a.tsv", ["a\tb"], {"source_len": 1}, "data.source_len=1 must be at least 2"),
        (LabelledTask, "a.tsv", ["a\t1", "b\t1"], {}, "fewer than two labels .* lines: 1"),
        (LabelledTask, "a.tsv", ["a\t1", "b\t"], {}, "line 2 has no label: its last column is ''"),
        (LabelledTask, "a.jsonl", [{"text": "a", "label": None}], {}, "has no label: column 'label'"),
        (LabelledTask, "a.jsonl", [{"text": "a"}], {}, "no column 'label' .*set data.label_column"),
        (LabelledTask, "a.jsonl", [{"text": 3, "label": 1}], {}, "is int, not text; set data.text_"),
        (LabelledTask, "a.tsv", ["a\t1", "b\t2", "c\t3"], {"val_fraction": 0.3},
         r"the val lines have labels that no training line has: 3 \(the last lines .*: shuffle them, or name data.val_"),
        (LabelledTask, "a.tsv", ["a\t1"], {"min_count": -1}, "data.min_count=-1 must be 0 or more"),
        (LabelledTask, "a.tsv", ["a\t1"], {"seq_len": 3}, "data.seq_len=3 must be at least 4"),
        (LabelledTask, "a.tsv", ["a\t1"], {"seq_len": 0}, "data.seq_len=0 and the model has no max"),
        (LabelledTask, "a.tsv", ["a\t1", "b\t2"], {"test_path": "none.tsv"},
         "data.test_path=none.tsv: no such file"),
        (TaggedTask, "a.jsonl", [{"tokens": ["a", "b"], "tags": ["O"]}], {}, "2 words and 1 tags"),
        (TaggedTask, "a.jsonl", [{"tokens": 7, "tags": ["O"]}], {}, "'tokens' is int, no list; set data.tokens_column"),
        (TaggedTask, "a.jsonl", [{"tags": ["O"]}], {}, "no column 'tokens' .*set data.tokens_column"),
        (TaggedTask, "a.tsv", ["a\tO"], {}, "line 1: words with tags are read by the names"),
        (PairsTask, "a.jsonl", ["\ufeff"], {}, "a.jsonl is empty: no line in it"),
        (PairsTask, "s3:imdb", None, {}, "data.path=s3:imdb: .* a file or glob, bundled:NAME, tfds:NAME"),
        (PairsTask, "a.tsv", ["a\tb", "", "a\tb\tc"], {}, "line 3 has 3 columns: expected source TAB t"),
        (PairsTask, "a.tsv", ["", "  ", ""], {}, "data.path=.*a.tsv is empty: no line in it"),
        (LabelledTask, "a.tsv", ["a\t1", "b"], {}, "data.path=.*a.tsv line 2 has 1 column:"),
        (LabelledTask, "a.tsv", ["a\tb\t1"], {}, r"text TAB label \(data.pair_column=''\)"),
        (LabelledTask, "a.jsonl", [{"text": "a", "label": True}], {}, "is True, not text or a whole"),
        (LabelledTask, "a.jsonl", [{"text": "a", "label": "\ud800"}], {}, "half a surrogate pair"),
        (LabelledTask, "a.jsonl", ["[" * 100_000], {}, "line 1 is not JSON that can be read"),
        (LabelledTask, "a.jsonl", ["9" * 5_000], {}, "line 1 is not JSON that can be read"),
        (TaggedTask, "a.jsonl", [{"tokens": ["\udc00"], "tags": ["O"]}], {"tokenizer": "gpt2"},
         "data.path=.*a.jsonl line 1: column 'tokens' holds half a surrogate pair"),
        (TaggedTask, "a.jsonl", [{"tokens": ["a"], "tags": [""]}], {}, "has no label: an entry of"),
    ],
)  # fmt: skip
def test_what_is_refused(write, kind, name, rows, fields, message):
    length = {} if kind is PairsTask or "seq_len" in fields else {"seq_len": 8}
    with pytest.raises(ValueError, match=message):
        make(kind, name if rows is None else write(name, rows), **fields, **length)


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="data.path is empty"):
        LabelledTask.Config()
    with pytest.raises(ValueError, match='"bundled:pakages" is not bundled'):
        make(LabelledTask, "bundled:pakages", seq_len=8)


def test_bundled_sets_have_the_known_sizes():
    packages = make(
        LabelledTask, "bundled:packages", text_column="synopsis+description",
        label_column="section", seq_len=32,
    )  # fmt: skip
    assert len(packages.info.labels) == 29  # bundled.FEWEST
    assert packages.example("train", 0)[1].startswith("peak identification for mass spectrometry")
    entities = TaggedTask(TaggedTask.Config(seq_len=64))
    assert sum(split.num_examples for split in entities.info.splits.values()) == 898
    assert {"O", "B-PER", "I-ORG", "B-LOC"} < set(entities.info.labels)
