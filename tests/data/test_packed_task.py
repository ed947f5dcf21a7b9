"""PackedTask: documents apart, every token a target once, batches by (seed, step); packed = padded."""

import json
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import config, prepare
from jaxlm.data import cache, packing, pipeline, tokenizers
from jaxlm.data.tasks.packed import PackedTask
from jaxlm.data.tasks.text import TextConfig, TextTask
from jaxlm.models.gpt import GPT, GPTConfig

EOS = tokenizers.BytesTokenizer.eos_id


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


def make(path, **fields):
    return PackedTask(TextConfig(path=str(path), **{"seq_len": 8, **fields}))


def records(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def words(rng, count, longest=30):
    return ["".join(rng.choice(list("abcdé "), rng.integers(0, longest))) for _ in range(count)]


def pieces(batches):
    """(inputs, targets) of every piece of some batches, checked for form on the way."""
    found = []
    for batch in batches:
        for row in range(len(batch["tokens"])):
            values = {name: batch[name][row] for name in batch}
            segments, real = values["segment_ids"], values["segment_ids"] > 0
            assert (values["weights"] == real).all()
            assert not values["tokens"][~real].any() and not values["targets"][~real].any()
            filled = segments[: real.sum()]
            assert (np.diff(filled) >= 0).all()  # filling is at the end, segments count up from 1
            assert sorted(set(filled.tolist())) == list(range(1, int(segments.max()) + 1))
            for segment in range(1, int(segments.max()) + 1):
                own = segments == segment
                assert values["positions"][own].tolist() == list(range(own.sum()))
                found.append((values["tokens"][own].tolist(), values["targets"][own].tolist()))
    return found


def test_a_window_literally(tmp_path):
    path = records(tmp_path / "a.jsonl", ["abcd", "", "efghijklmn", "op"])
    task = make(path, val_fraction=0.0)
    # With <eos>: abcd. (5), . (1), efghijkl (8) mn. (3), op. (3). Windows of 8: the full piece,
    # then longest first abcd. and beside it mn., the earlier one of length 3; . and op. are left.
    batch = next(task.eval("train", 4))
    a, e, m, o = b"aemo"
    assert batch["tokens"].tolist() == [
        [EOS, e, e + 1, e + 2, e + 3, e + 4, e + 5, e + 6],
        [EOS, a, a + 1, a + 2, a + 3, e + 7, m, m + 1],
        [EOS, EOS, o, o + 1, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["targets"].tolist() == [
        [e, e + 1, e + 2, e + 3, e + 4, e + 5, e + 6, e + 7],
        [a, a + 1, a + 2, a + 3, EOS, m, m + 1, EOS],
        [EOS, o, o + 1, EOS, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["segment_ids"].tolist() == [
        [1] * 8,
        [1, 1, 1, 1, 1, 2, 2, 2],
        [1, 2, 2, 2, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["positions"].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 4, 0, 1, 2],
        [0, 0, 1, 2, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["weights"].tolist() == (batch["segment_ids"] > 0).astype(float).tolist()
    assert batch["id"].tolist() == [0, 1, 2, -1]
    dtypes = {name: value.dtype.name for name, value in batch.items()}
    ints = dict.fromkeys(("tokens", "targets", "segment_ids", "positions"), "int32")
    assert dtypes == ints | {"weights": "float32", "id": "int64"}
    assert [task.example("train", i)[1] for i in range(3)] == [
        "efghijkl",
        "abcd<eos>mn<eos>",
        "<eos>op<eos>",
    ]
    info = task.info.splits["train"]
    assert (info.num_examples, info.num_tokens, info.num_bytes) == (3, 20, 16)
    assert task.fill == {"train": 20 / 24}


@pytest.mark.parametrize("seed", range(4))
def test_every_token_is_a_target_once_and_documents_stay_whole(tmp_path, seed):
    rng = np.random.default_rng(seed)
    texts = words(rng, 60)
    task = make(records(tmp_path / "a.jsonl", texts), seq_len=(seq_len := int(rng.integers(1, 50))))
    for split, own in (("train", texts[:54]), ("val", texts[54:])):
        expected = []
        for text in own:
            ids = [*text.encode(), EOS]
            cuts = range(0, len(ids), seq_len)
            expected += [
                (([EOS, *ids])[cut : cut + seq_len][: len(ids) - cut], ids[cut : cut + seq_len])
                for cut in cuts
            ]
        batches = list(task.eval(split, int(rng.integers(1, 7))))
        assert sorted(pieces(batches)) == sorted(expected)
        count = sum((batch["weights"] > 0).sum() for batch in batches)
        assert task.info.splits[split].num_tokens == count
        ids = np.concatenate([batch["id"] for batch in batches])
        assert ids[ids >= 0].tolist() == list(range(task.info.splits[split].num_examples))
        assert task.fill[split] == count / (task.num_windows(split) * seq_len)


def targets_of(task, split):
    return np.concatenate([b["targets"][b["weights"] > 0] for b in task.eval(split, 5)])


@pytest.mark.parametrize("tokenizer", ["chars", "gpt2"])
def test_same_targets_as_the_plain_task(tokenizer):
    """Splits, tokens and bytes are those of kind="text"; it misses the stream's first token only."""
    path, fields = "bundled:poetry", {"tokenizer": tokenizer, "seq_len": 128}
    packed, text = make(path, **fields), TextTask(TextConfig(path=path, **fields))
    for split in ("train", "val"):
        missing = packed.info.splits[split].num_tokens - len(targets_of(text, split))
        counts = [np.bincount(targets_of(t, split), minlength=60_000) for t in (packed, text)]
        assert np.abs(counts[0] - counts[1]).sum() == missing == (split == "train")
        for name in ("num_tokens", "num_bytes"):
            pair = [getattr(t.info.splits[split], name) for t in (packed, text)]
            assert pair[0] == pair[1]
    assert packed.fill["train"] > 0.9 and packed.info.digest != text.info.digest


def test_a_text_cut_by_the_split_keeps_its_context(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789abcdefghij")
    task = make(tmp_path / "a.txt", val_fraction=0.25)
    rows = [(bytes(i), bytes(t)) for i, t in pieces(task.eval("val", 1))]
    assert rows == [(b"efghi", b"fghij")]
    first, *_, last = sorted(pieces(task.eval("train", 1)), key=lambda piece: piece[1])
    assert first[0] == [EOS, *b"0123456"] and last == ([*b"789abcd"], [*b"89abcde"])


def test_prepared_sets_and_mixtures(tmp_path):
    rng = np.random.default_rng(0)
    low = records(tmp_path / "low.jsonl", words(rng, 40))
    high = records(tmp_path / "high.jsonl", ["z" * 20] * 400)
    prepare.run([str(low)], "bytes", str(tmp_path / "set"), shard_mb=0.0002)
    assert len(list((tmp_path / "set").glob("*.bin"))) > 2
    shards, direct = (
        make(path, val_fraction=0.0, seq_len=40) for path in (f"tokens:{tmp_path / 'set'}", low)
    )
    for a, b in zip(shards.eval("train", 3), direct.eval("train", 3), strict=True):
        assert all((a[name] == b[name]).all() for name in a)
    task = make(f"tokens:{tmp_path / 'set'}@3,{high}@1", seq_len=40)
    rows = task.train(0)._getitems(range(400))
    assert np.mean([row["targets"][0] == ord("z") for row in rows]) == pytest.approx(0.25, abs=0.02)
    ids = [task.example("val", i) for i in range(task.num_windows("val"))]
    assert [path for path, _ in ids] == sorted((path for path, _ in ids), reverse=True)
    assert len(targets_of(task, "val")) == task.info.splits["val"].num_tokens


def test_an_epoch_holds_every_window_once_in_another_order(tmp_path):
    task = make(records(tmp_path / "a.jsonl", words(np.random.default_rng(0), 80)), val_fraction=0)
    windows = [row.tobytes() for batch in task.eval("train", 1) for row in batch["targets"]]
    size = len(windows)
    epochs = [
        [task.train(3)[e * size + i]["targets"].tobytes() for i in range(size)] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(windows)
    assert epochs[0] != epochs[1] and epochs[0] != windows
    again = [make(tmp_path / "a.jsonl", val_fraction=0).train(3)[i] for i in reversed(range(size))]
    assert [row["targets"].tobytes() for row in reversed(again)] == epochs[0]
    other = [task.train(4)[i]["targets"].tobytes() for i in range(size)]
    assert other != epochs[0]


def test_batches_resume_at_any_step(tmp_path):
    task = make(records(tmp_path / "a.jsonl", words(np.random.default_rng(0), 30)))
    batches = pipeline.train_batches(task, 5, 4)
    with pipeline.BatchIterator(batches, seed=5, digest=task.info.digest) as whole:
        expected = [next(whole) for _ in range(9)]
        state = {}
    with pipeline.BatchIterator(batches, seed=5) as first:
        for _ in range(4):
            next(first)
        state = first.state()
    fresh = pipeline.train_batches(make(tmp_path / "a.jsonl"), 5, 4)
    with pipeline.BatchIterator(fresh, seed=5, start_step=state["step"]) as second:
        for step in range(4, 9):
            batch = next(second)
            assert all((batch[name] == expected[step][name]).all() for name in expected[step])
    halves = [pipeline.train_batches(task, 5, 4, index, 2)[2] for index in (0, 1)]
    for name, value in expected[2].items():
        assert (np.concatenate([half[name] for half in halves]) == value).all()


def test_odd_corpora(tmp_path):
    path = tmp_path / "a.jsonl"
    one = make(records(path, ["abc"]), val_fraction=0.0, seq_len=1000)  # longer than everything
    assert one.num_windows("train") == 1 and one.fill["train"] == 4 / 1000
    assert pieces([b for b in one.eval("train", 1)]) == [([EOS, *b"abc"], [*b"abc", EOS])]
    assert list(one.info.splits) == ["train"]
    batch = pipeline.train_batches(one, 0, 3)[0]
    assert batch["segment_ids"].sum() == 12
    exact = make(records(path, ["1234567"] * 10), seq_len=8)  # with <eos> exactly a window
    assert exact.fill == {"train": 1.0, "val": 1.0} and exact.num_windows("train") == 9
    longer = make(records(path, ["12345678"] * 10), seq_len=8)  # <eos> is a piece of its own
    assert sorted(pieces(longer.eval("val", 1))) == [
        ([*b"8"], [EOS]),
        ([EOS, *b"1234567"], [*b"12345678"]),
    ]
    empty = make(records(path, [""] * 10), seq_len=4)  # nothing but <eos>
    assert pieces(empty.eval("val", 1)) == [([EOS], [EOS])] and empty.num_windows("train") == 3


def test_what_cannot_be_packed_is_refused(tmp_path, monkeypatch):
    path = records(tmp_path / "a.jsonl", words(np.random.default_rng(0), 9))
    with pytest.raises(
        ValueError, match="data.val_fraction=0.999 leaves no train token of .*jsonl"
    ):
        make(path, val_fraction=0.999)
    with pytest.raises(ValueError, match="data.seq_len=0"):
        make(path, seq_len=0)
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="b.jsonl holds no text"):
        make(tmp_path / "b.jsonl")
    monkeypatch.setattr(tokenizers.BytesTokenizer, "eos_id", None)
    with pytest.raises(ValueError, match="data.tokenizer=bytes has no <eos> token"):
        make(path)


def test_a_torn_plan_gives_the_same_run(tmp_path, monkeypatch):
    path = records(tmp_path / "a.jsonl", words(np.random.default_rng(0), 30))
    first = make(path)
    for file in cache.root().rglob("firsts.bin"):
        file.write_bytes(file.read_bytes()[:-1])
    again = make(path)
    assert again.info.digest == first.info.digest
    batches = [pipeline.train_batches(task, 0, 4)[7] for task in (first, again)]
    assert all((batches[0][name] == batches[1][name]).all() for name in batches[0])
    monkeypatch.setattr(packing, "PACKER", "another")
    assert make(path).info.digest == first.info.digest  # made anew, and the same
    monkeypatch.setattr(packing, "PACKER", "a third, which packs nothing")
    monkeypatch.setattr(packing, "pack", lambda lengths, _: [[i] for i in range(len(lengths))])
    assert make(path).info.digest != first.info.digest


def test_show_and_log(tmp_path, caplog):
    path = records(tmp_path / "a.jsonl", ["abcd", "", "efghijklmn", "op"])
    with caplog.at_level(logging.INFO, "jaxlm"):
        task = make(path, val_fraction=0.0)
    assert caplog.messages[-1] == "packing  train: 4 documents into 3 windows of 8, 83.3 % filled"
    batch = next(task.eval("train", 4))
    row = {name: values[2:] for name, values in batch.items()}
    assert task.show(row, 2).splitlines() == [
        "example 0: 4 tokens, 4 scored",
        "  document 1: '<eos>'",
        "    targets  256:'<eos>' -> 256:'<eos>'",
        "  document 2: '<eos>op'",
        "    targets  256:'<eos>' -> 111:'o'  111:'o' -> 112:'p'  112:'p' -> 256:'<eos>'",
        "example 1: 0 tokens, 0 scored",
    ]
    assert task.show(batch, 1).splitlines()[1] == "  document 1: '<eos>efghijk'"


@pytest.mark.parametrize("positions", ["learned", "rotary", "alibi"])
def test_packed_equals_every_document_alone(tmp_path, positions):
    rng = np.random.default_rng(0)
    task = make(records(tmp_path / "a.jsonl", words(rng, 20, 24)), seq_len=32, val_fraction=0.0)
    batch = next(task.eval("train", task.num_windows("train")))
    assert batch["segment_ids"].max() > 2 and (batch["segment_ids"] == 0).any()
    model = GPT(
        GPTConfig(
            vocab_size=257, num_layers=2, d_model=16, num_heads=4, max_len=32, positions=positions
        )
    )
    variables = nn.unbox(model.init(jax.random.key(0), jnp.zeros((1, 32), jnp.int32)))
    variables = jax.tree.map(lambda x: 3 * x, variables)  # far from uniform, so that it matters

    @jax.jit
    def nll(tokens, targets, **inputs):
        return model.apply(variables, tokens, **inputs).token_nll(targets)

    inputs = {name: batch[name] for name in ("segment_ids", "positions")}
    packed = nll(batch["tokens"], batch["targets"], **inputs)
    lengths = [len(targets) for _, targets in pieces([batch])]
    alone = [  # a document a row; the model is causal, so the filling behind it changes nothing
        np.array([ids + [0] * (32 - len(ids)) for ids in column], np.int32)
        for column in zip(*pieces([batch]), strict=True)
    ]
    both = [np.concatenate(pair) for pair in zip(alone, (batch["tokens"], batch["targets"]))]
    unmasked = nll(*both)
    rows = zip(unmasked[: len(lengths)], lengths, strict=True)
    expected = np.concatenate([row[:length] for row, length in rows])
    np.testing.assert_allclose(packed[batch["segment_ids"] > 0], expected, rtol=1e-5, atol=1e-5)
    leaks = np.abs(unmasked[len(lengths) :] - packed)  # without segment ids it would differ
    assert leaks[batch["segment_ids"] > 1].max() > 0.01


@pytest.mark.slow
def test_a_packed_run_does_not_depend_on_micro_batches(tmp_path):
    texts = [text for text in words(np.random.default_rng(0), 300) if len(text) > 16]
    path = records(tmp_path / "a.jsonl", texts)  # one to a window, with filling of every size
    cfg = config.base()
    cfg.model = config.section("model", "gpt", num_layers=1, d_model=16, num_heads=2, max_len=32)
    fields = {"path": str(path), "tokenizer": "chars", "val_fraction": 0.0}
    cfg.data = config.section("data", "packed_text", **fields)
    cfg.num_steps, cfg.batch_size, cfg.log_every, cfg.sample_tokens = 2, 16, 1, 0
    losses = []
    for micro_batch_size in (16, 8):
        cfg.micro_batch_size = micro_batch_size
        workdir = tmp_path / str(micro_batch_size)
        jaxlm.run(cfg, workdir)
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 2
    np.testing.assert_allclose(*losses, rtol=1e-5)
    task = make(path, seq_len=32, **{name: fields[name] for name in ("tokenizer", "val_fraction")})
    weights = pipeline.train_batches(task, cfg.seed, 16)[1]["weights"]
    fills = [row["fill"] for row in rows if "fill" in row]
    assert fills[1] == pytest.approx(weights.mean()) and 0.5 < fills[1] < 0.9
    assert weights[:8].sum() != weights[8:].sum()  # ragged, so that means of means would differ
