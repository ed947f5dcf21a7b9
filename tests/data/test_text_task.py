"""TextTask: the split to the character, each validation token once, jittered windows."""

import json

import numpy as np
import pytest

from jaxlm.data import bundled, cache, tokenizers
from jaxlm.data.corpus import train_units
from jaxlm.data.tasks.text import TextConfig, TextTask


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


def make(path, **fields):
    return TextTask(TextConfig(path=str(path), **{"seq_len": 4, **fields}))


def write(path, text):
    path.write_bytes(text.encode("utf-8"))
    return path


def counted(tmp_path, length=200, **fields):
    """A text in which the token is the position: byte i at place i."""
    assert length <= 128
    return make(write(tmp_path / "count.txt", "".join(map(chr, range(length)))), **fields)


def test_units():
    assert train_units(1_115_394, 0.1) == 1_003_854  # tiny Shakespeare, as nanoGPT cuts it
    assert [train_units(100, f) for f in (0.43, 0.29, 0.0)] == [57, 71, 100]
    assert (train_units(10, 0.1), train_units(10, 0.9)) == (9, 1)


def test_split_in_characters_not_bytes(tmp_path):
    task = make(write(tmp_path / "a.txt", "你" * 90 + "abcdefghij"))
    train, val = task.info.splits["train"], task.info.splits["val"]
    assert (train.num_bytes, train.num_tokens) == (270, 270)
    assert (val.num_bytes, val.num_tokens) == (10, 10)
    assert [task.example("val", i)[1] for i in range(3)] == ["abcd", "efgh", "ij"]


def test_split_in_lines_and_end_of_document(tmp_path):
    lines = "".join(json.dumps({"text": t}) + "\n" for t in ("ab", "c", "", "d" * 50, "efgh"))
    task = make(write(tmp_path / "a.jsonl", lines), val_fraction=0.2, seq_len=5)
    assert task.info.splits["train"].num_tokens == 2 + 1 + 0 + 50 + 4  # each with <eos>
    batch = next(task.eval("train", 1))
    assert batch["tokens"][0].tolist() == [97, 98, 256, 99, 256]
    assert batch["targets"][0].tolist() == [98, 256, 99, 256, 256]
    assert task.example("val", 0) == (str(tmp_path / "a.jsonl"), "efgh<eos>")


def test_texts_are_separated_by_eos(tmp_path):
    write(tmp_path / "a.txt", "abcdefgh")
    write(tmp_path / "b.txt", "ijklmnopqrst")
    task = make(tmp_path / "*.txt", val_fraction=0.2)
    batch = next(task.eval("train", 8))
    assert batch["targets"].reshape(-1)[:15].tolist() == [*b"bcdefgh", 256, *b"ijklmno"]
    assert task.example("val", 0)[1] == "qrst"


def test_eval_windows_literally(tmp_path):
    task = counted(tmp_path, 100)
    batches = list(task.eval("val", 2))
    assert len(batches) == 2  # 10 tokens: windows of 4, 4 and 2
    assert batches[0]["tokens"].tolist() == [[89, 90, 91, 92], [93, 94, 95, 96]]
    assert batches[0]["targets"].tolist() == [[90, 91, 92, 93], [94, 95, 96, 97]]
    assert batches[1]["tokens"].tolist() == [[97, 98, 0, 0], [0, 0, 0, 0]]
    assert batches[1]["targets"].tolist() == [[98, 99, 0, 0], [0, 0, 0, 0]]
    assert batches[1]["weights"].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert [batch["id"].tolist() for batch in batches] == [[0, 1], [2, -1]]
    for batch in batches:
        assert [batch[k].dtype for k in ("tokens", "targets", "weights", "id")] == [
            np.int32,
            np.int32,
            np.float32,
            np.int64,
        ]
    ids = [int(batch["id"][0]) for batch in counted(tmp_path, 100, eval_examples=2).eval("val", 1)]
    full = counted(tmp_path, 100).num_windows("val")
    assert ids == [0, full // 2]  # evenly spread


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_every_validation_token_is_a_target_once(tokenizer, batch_size):
    task = TextTask(TextConfig(tokenizer=tokenizer, seq_len=100))
    scored = []
    for batch in task.eval("val", batch_size):
        for row in range(batch_size):
            scored += batch["targets"][row][batch["weights"][row] > 0].tolist()
    raw = bundled.read("shakespeare").decode()
    val_text = raw[train_units(len(raw), 0.1) :]
    assert task.tokenizer.decode(scored) == val_text
    assert task.info.splits["val"].num_bytes == len(val_text.encode())
    assert task.info.splits["val"].num_tokens == len(scored)
    first = next(task.eval("val", 1))["tokens"][0, 0]
    assert task.tokenizer.decode([first]) == raw[: train_units(len(raw), 0.1)][-1:]


def starts_of(dataset, count):
    return np.array([dataset[i]["tokens"][0] for i in range(count)])


def test_training_windows_are_shifted_by_one(tmp_path):
    element = counted(tmp_path, 100).train(0)[3]
    assert (np.diff(element["tokens"]) == 1).all() and element["tokens"].dtype == np.int32
    assert (element["targets"] == element["tokens"] + 1).all()
    assert element["weights"].tolist() == [1, 1, 1, 1]


def test_an_epoch_takes_one_window_from_every_stratum(tmp_path):
    task = counted(tmp_path, 100)
    num = 22  # 90 tokens, 86 possible starts, strata of 4
    dataset = task.train(0)
    for epoch in range(3):
        starts = np.array([dataset[epoch * num + i]["tokens"][0] for i in range(num)])
        assert sorted(starts // 4) == list(range(num))
        assert (starts // 4).tolist() != list(range(num)) and starts.max() <= 85


def test_jitter_covers_every_start_evenly(tmp_path):
    dataset = counted(tmp_path, 100).train(1)
    starts = dataset._getitems(range(22 * 400))
    counts = np.bincount([row["tokens"][0] for row in starts], minlength=86)
    assert len(counts) == 86 and (counts > 0).all()
    assert counts[:84].min() > 50 and counts[:84].max() < 160  # 100 expected, 8.7 deviation
    assert counts[84:].sum() == 400  # the last stratum has two starts


def test_training_is_a_function_of_seed_and_index(tmp_path):
    first, again = counted(tmp_path, 100).train(5), counted(tmp_path, 100).train(5)
    backwards = [again[i]["tokens"][0] for i in reversed(range(100))][::-1]
    assert starts_of(first, 100).tolist() == backwards
    assert (
        starts_of(first, 100).tolist() != starts_of(counted(tmp_path, 100).train(6), 100).tolist()
    )
    epochs = starts_of(first, 66).reshape(3, 22)
    other = starts_of(counted(tmp_path, 100).train(6), 22)
    assert not any((a == b).all() for a, b in ((*epochs[:2],), (*epochs[1:],), (epochs[1], other)))


def test_mixture_weights(tmp_path):
    low = write(tmp_path / "low.txt", "a" * 100)
    high = write(tmp_path / "high.txt", "b" * 1000)
    names = f"{low}@3,{high}@1"
    for path, share in ((names, 0.75), (f"{low},{high}", 0.09)):
        rows = make(path).train(0)._getitems(range(1000))
        assert abs(np.mean([row["tokens"][0] == 97 for row in rows]) - share) < 0.02
    task = make(names)
    texts = [task.example("val", i) for i in range(task.num_windows("val"))]
    assert texts[2] == (str(low), "aa") and texts[3] == (str(high), "bbbb") and len(texts) == 28
    assert task.info.splits["val"].num_tokens == 110


def test_chars_take_the_alphabet_of_all_sources(tmp_path):
    a, b = write(tmp_path / "a.txt", "ab" * 50), write(tmp_path / "b.txt", "c" * 91 + "世" * 9)
    task = make(f"{a},{b}", tokenizer="chars")
    assert task.tokenizer.characters == "abc世" and task.info.vocab_size == 6
    assert make(f"{a},{b}", tokenizer="chars").tokenizer.digest == task.tokenizer.digest


def test_tokenised_once_and_again_when_the_text_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "abcdefghij" * 10)
    digest = make(path).info.digest
    with monkeypatch.context() as patch:
        patch.setattr(tokenizers.BytesTokenizer, "encode_batch", None)  # can't be called
        assert make(path).info.digest == digest
    digests = {digest, make(path, tokenizer="chars").info.digest, make(path, seq_len=5).info.digest}
    digests |= {make(path, val_fraction=0.2).info.digest}
    write(path, "abcdefghij" * 9 + "abcdefghiJ")
    assert len(digests | {make(path).info.digest}) == 5


def test_each_tokenizer_has_its_own_tokens(tmp_path):
    path = write(tmp_path / "a.txt", "abcdefghij" * 10)
    for tokenizer in ("bytes", "chars", "gpt2"):
        task = make(path, tokenizer=tokenizer, seq_len=3)
        assert task.example("val", 0)[1].startswith("abc")


def test_a_torn_cache_is_made_again(tmp_path):
    task = counted(tmp_path, 100)
    (tokens,) = cache.root().rglob("tokens.bin")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    again = counted(tmp_path, 100)
    assert again.info.digest == task.info.digest and tokens.stat().st_size == 200


def test_large_vocabularies_take_32_bits(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "".join(map(chr, range(0x10000, 0x10000 + 70_000))))
    task = make(tmp_path / "a.txt", tokenizer="chars")
    assert task.info.vocab_size == 70_002
    assert list(task.eval("val", 1))[-1]["targets"].max() == 69_999


def test_no_validation_part(tmp_path):
    task = counted(tmp_path, 100, val_fraction=0.0)
    assert list(task.info.splits) == ["train"] and task.info.splits["train"].num_tokens == 100
    with pytest.raises(ValueError, match='no split "val"; accepted: train'):
        next(task.eval("val", 1))


def test_show(tmp_path):
    task = make(write(tmp_path / "a.txt", "abcdefghij" * 10))
    text = task.show(next(task.eval("val", 2)), 1)
    assert text.splitlines() == [
        "example 0: 4 tokens, 4 scored",
        "  text     'jabc'",
        "  targets  106:'j' -> 97:'a'  97:'a' -> 98:'b'  98:'b' -> 99:'c'  99:'c' -> 100:'d'",
    ]
    last = list(task.eval("val", 3))[-1]
    assert "2 scored" in task.show(last, 3) and "-> ignored" in task.show(last, 3)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"seq_len": -1}, "data.seq_len=-1 must be at least 1"),
        ({"val_fraction": 1.0}, r"data.val_fraction=1.0 must be in \[0, 1\)"),
        ({"val_fraction": -0.1}, "data.val_fraction=-0.1"),
        ({"eval_examples": -1}, "data.eval_examples=-1"),
        ({"path": ""}, "data.path is empty"),
        ({"tokenizer": ""}, "data.tokenizer is empty"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TextConfig(**fields)


def test_bad_corpora_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    for text, fields, message in (
        ("", {}, "data.path=.*a.txt holds no text"),
        (
            "abcd",
            {"val_fraction": 0},
            "gives 4 training tokens: too short for one window of data.seq_",
        ),
        (
            "a" * 30,
            {},
            "the last data.val_fraction=0.1 of data.path=.*a.txt is 3 tokens: too short",
        ),
    ):
        write(path, text)
        with pytest.raises(ValueError, match=message):
            make(path, **fields)
    write(path, "a" * 39)
    make(path)  # 35 and 4: just long enough
    write(tmp_path / "a.jsonl", "\n\n")
    with pytest.raises(ValueError, match="a.jsonl holds no text"):
        make(tmp_path / "a.jsonl")
    write(tmp_path / "a.jsonl", '{"text": "one long record, but only one"}\n')
    with pytest.raises(ValueError, match="gives 0 training tokens"):
        make(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="no such file"):
        make(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="data.tokenizer=bite is not known"):
        counted(tmp_path, 100, tokenizer="bite")


def test_a_derived_task_gets_windows_of_its_length_and_random_bits(tmp_path):
    class Task(TextTask):
        def window_length(self):
            return self.config.seq_len + 2

        def make_example(self, ids, key):
            assert key.dtype == np.uint64 and key.shape == (1,)
            return {"tokens": ids[:1], "size": np.array(len(ids)), "key": key[0]}

        def settings(self):
            return ["mine"]

    path = write(tmp_path / "count.txt", "".join(map(chr, range(100))))
    tasks = [Task(TextConfig(path=str(path), seq_len=4)) for _ in range(2)]
    rows = [tasks[0].train(seed)._getitems(range(60)) for seed in (0, 1)]
    assert {int(row["size"]) for row in rows[0]} == {7}
    assert len({int(row["key"]) for row in rows[0] + rows[1]}) == 120  # other bits in each epoch
    assert [r["key"] for r in tasks[1].train(0)._getitems(range(60))] == [r["key"] for r in rows[0]]
    batches = [list(task.eval("val", 2)) for task in tasks]
    assert batches[0][0]["size"].tolist() == [7, 5]  # 10 tokens to a val split: 6 and 4
    assert (batches[0][0]["key"] == batches[1][0]["key"]).all() and batches[0][0]["key"][0] != 0
    assert tasks[0].info.digest != make(path, seq_len=4).info.digest
