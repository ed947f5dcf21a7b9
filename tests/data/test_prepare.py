"""jaxlm.prepare: the same tokens as without it, for any number of processes, killed or not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxlm import prepare
from jaxlm.data import bundled, prepared, special_tokens, store, tokenizers
from jaxlm.data.tasks.text import TextConfig, TextTask


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    raw = bundled.read("shakespeare").decode()
    (folder / "a.txt").write_text(raw[:400_000], encoding="utf-8")
    (folder / "b.txt").write_text("你好。" * 30_000 + raw[400_000:500_000], encoding="utf-8")
    return folder / "*.txt"


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(bundled.read("glosses")[:300_000].rpartition(b"\n")[0] + b"\n")
    return path


def tokens_of(directory):
    opened = prepared.load(str(directory))
    tokens = store.Store(opened.files, opened.tokenizer().vocab_size)
    ids = np.empty(len(tokens), np.int32)
    tokens.fill(0, ids)
    return ids


def direct(path, tokenizer, **fields):
    """All tokens of a source as the task makes them without prepare."""
    task = TextTask(
        TextConfig(path=str(path), tokenizer=tokenizer, seq_len=8, val_fraction=0.0, **fields)
    )
    rows = [(b["tokens"], b["targets"], b["weights"]) for b in task.eval("train", 64)]
    tokens, targets, weights = (np.concatenate(part) for part in zip(*rows, strict=True))
    return np.concatenate([tokens[0, :1], targets[weights > 0]])


def contents(folder):
    """Every file of a folder; the lock is none of the set."""
    return {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != "lock"}


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "gpt2"])
def test_texts_have_the_tokens_of_direct_training(texts, tmp_path, tokenizer):
    summary = prepare.run([str(texts)], tokenizer, str(tmp_path / "out"), shard_mb=0.05)
    ids = tokens_of(tmp_path / "out")
    np.testing.assert_array_equal(ids, direct(texts, tokenizer))
    assert summary["num_shards"] > 8 and summary["num_documents"] == 2
    raw = b"".join(f.read_bytes() for f in sorted(texts.parent.iterdir()))
    assert summary["num_bytes"] == len(raw) and summary["num_tokens"] == len(ids)


def test_shards_are_not_cut_at_empty_lines(tmp_path):
    (tmp_path / "a.txt").write_text("\n\none two\n\n\n three  four" * 20_000, encoding="utf-8")
    prepare.run([str(tmp_path / "a.txt")], "gpt2", str(tmp_path / "out"), shard_mb=0.06)
    opened = prepared.load(str(tmp_path / "out"))
    whole = opened.tokenizer().encode((tmp_path / "a.txt").read_text(encoding="utf-8"))
    assert len(opened.files) > 4
    np.testing.assert_array_equal(tokens_of(tmp_path / "out"), whole)


def test_records_have_the_tokens_of_direct_training(lines, tmp_path):
    out = str(tmp_path / "out")
    summary = prepare.run([str(lines)], "gpt2", out, text_column="answer", shard_mb=0.05)
    np.testing.assert_array_equal(
        tokens_of(tmp_path / "out"), direct(lines, "gpt2", text_column="answer")
    )
    assert summary["num_shards"] > 4
    assert summary["num_documents"] == len(lines.read_bytes().splitlines())


def test_the_number_of_processes_changes_nothing(texts, tmp_path):
    for count in (1, 2):
        prepare.run([str(texts)], "gpt2", str(tmp_path / f"out{count}"), count, shard_mb=0.1)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def start(texts, out, processes="2"):
    command = [sys.executable, "-m", "jaxlm.prepare", "--path", str(texts), "--tokenizer", "gpt2"]
    command += ["--out", str(out), "--num_processes", processes, "--shard_mb", "0.02"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def test_killed_and_resumed_equals_uninterrupted(texts, tmp_path):
    out = tmp_path / "out"
    process = start(texts, out)
    deadline = time.monotonic() + 60
    while len(list(out.glob("shard-*.json"))) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "meta.json").exists()
    with pytest.raises(ValueError, match="is not finished: run the same jaxlm.prepare again"):
        prepared.load(str(out))
    time.sleep(0.5)  # its workers end with it
    finished = len(list(out.glob("shard-*.json")))
    (out / "shard-00099.123.tmp").write_bytes(b"left over")
    process = start(texts, out, "1")
    stdout, stderr = process.communicate(timeout=100)
    summary = json.loads(stdout.splitlines()[-1])
    assert process.returncode == 0 and b"MB/s" in stderr
    assert summary["kept_shards"] == finished >= 3 and summary["num_shards"] > finished
    prepare.run([str(texts)], "gpt2", str(tmp_path / "whole"), shard_mb=0.02)
    assert contents(out) == contents(tmp_path / "whole")


def test_damaged_shards_and_changed_input_are_made_again(texts, tmp_path):
    args = ([str(texts)], "bytes", str(tmp_path / "out"))
    first = prepare.run(*args, shard_mb=0.1)
    assert prepare.run(*args, shard_mb=0.1)["kept_shards"] == first["num_shards"]
    good = contents(tmp_path / "out")
    shard = tmp_path / "out" / "shard-00001.bin"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    (tmp_path / "out" / "shard-00002.json").write_bytes(b"{")
    assert prepare.run(*args, shard_mb=0.1)["kept_shards"] == first["num_shards"] - 2
    assert contents(tmp_path / "out") == good
    source = texts.parent / "a.txt"
    source.write_bytes(source.read_bytes().replace(b"OTHELLO", b"othello", 1))
    assert prepare.run(*args, shard_mb=0.1)["kept_shards"] == first["num_shards"] - 1
    assert prepared.load(args[2]).digest != first["digest"]


def test_training_on_a_set(texts, tmp_path):
    prepare.run([str(texts)], "gpt2", str(tmp_path / "out"), shard_mb=0.1)
    path = f"tokens:{tmp_path / 'out'}"
    task = TextTask(TextConfig(path=path, tokenizer="gpt2", seq_len=32))
    ids = tokens_of(tmp_path / "out")
    num_train = int(len(ids) * 0.9)
    assert task.info.splits["train"].num_tokens == num_train
    scored = [b["targets"][b["weights"] > 0] for b in task.eval("val", 16)]
    np.testing.assert_array_equal(np.concatenate(scored), ids[num_train:])
    dataset = task.train(0)
    seen = [
        dataset[i]["tokens"].tobytes() for i in range(20)
    ]  # windows of the stream, shards or not
    stream = ids[:num_train].tobytes()
    assert all(window in stream for window in seen)
    mixed = TextTask(TextConfig(path=f"{path}@1,bundled:poetry@1", tokenizer="gpt2", seq_len=32))
    assert len(mixed.info.splits) == 2
    assert mixed.info.digest != task.info.digest


def test_windows_across_shards(tmp_path):
    for number, part in enumerate(([0, 1, 2], [], [3], [4, 5])):
        (tmp_path / str(number)).write_bytes(np.array(part, "<u2").tobytes())
    tokens = store.Store([tmp_path / str(number) for number in range(4)], 300)
    assert len(tokens) == 6
    for start_, length in ((0, 6), (2, 3), (3, 1), (4, 2)):
        ids = np.empty(length, np.int32)
        tokens.fill(start_, ids)
        assert ids.tolist() == list(range(start_, start_ + length))


def test_sets_that_do_not_fit_are_refused(texts, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="tokens:.*out is no token set: make one with python -m"):
        TextTask(TextConfig(path=f"tokens:{out}"))
    prepare.run([str(texts)], "gpt2", str(out), shard_mb=0.1)
    with pytest.raises(
        ValueError, match="data.tokenizer=bytes is not the one .* prepared with .gpt2"
    ):
        TextTask(TextConfig(path=f"tokens:{out}", tokenizer="bytes"))
    shard = out / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(
        ValueError, match="shard-00001.bin is torn: run the same jaxlm.prepare again"
    ):
        TextTask(TextConfig(path=f"tokens:{out}", tokenizer="gpt2"))
    shard.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        prepared.load(str(out))


def test_the_alphabet_of_a_set_is_used_with_it(texts, tmp_path):
    prepare.run([str(texts)], "chars", str(tmp_path / "out"))
    path = f"tokens:{tmp_path / 'out'},{texts.parent / 'a.txt'}"
    task = TextTask(TextConfig(path=path, tokenizer="chars", seq_len=8))
    assert "你" in task.tokenizer.characters
    assert task.tokenizer.digest == prepared.load(str(tmp_path / "out")).tokenizer_digest


def test_bad_input_is_one_line_and_exit_code_2(texts, lines, tmp_path, capsys):
    out = str(tmp_path / "out")
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"ok " * 50_000 + b"\xff")
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b'{"text": "a word"}\n' * 10_000 + b"{\n")
    (tmp_path / "empty.txt").touch()
    base = ["--tokenizer", "bytes", "--shard_mb", "0.05", "--num_processes"]
    for count in "12":
        for path, message in (
            (tmp_path / "none.txt", "--path="),
            (bad, "bad.txt is not UTF-8: byte 150000 can't be decoded"),
            (broken, "broken.jsonl line 10001 is not JSON"),
            (tmp_path / "empty.txt", "empty.txt is empty"),
            (tmp_path / "*", "name them as two parts"),
        ):
            assert prepare.main([*base, count, "--out", out, "--path", str(path)]) == 2
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert message in error, error
            shutil.rmtree(out, ignore_errors=True)
    prepare.run([str(texts)], "bytes", out)
    assert prepare.main([*base, "1", "--out", out, "--path", str(lines)]) == 2
    assert "holds a set made from something else (it differs in files, " in capsys.readouterr().err
    assert prepare.main([*base, "1", "--out", str(tmp_path), "--path", str(lines)]) == 2
    assert "is not empty and holds no token set" in capsys.readouterr().err
    assert prepare.main([*base, "0", "--out", out, "--path", str(texts)]) == 2
    assert "--num_processes=0" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_memory_stays_flat(tmp_path):
    """40 MB through one process, within 15 MB of what 4 MB takes: a megabyte or two are held."""
    code = (
        "import sys; from jaxlm import prepare;"
        "prepare.run([sys.argv[1]], 'bytes', sys.argv[2], 1);"
        "status = open('/proc/self/status').read();"  # ru_maxrss would be pytest's: exec keeps it
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)"
    )
    peaks = []
    for size in (4, 40):
        path = tmp_path / f"{size}.txt"
        path.write_bytes(b"one line of text\n" * (size * 1_000_000 // 17))
        command = [sys.executable, "-c", code, str(path), str(tmp_path / f"out{size}")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 15, peaks


def test_appended_special_tokens_change_no_file(tmp_path):
    """65,535 ids fit into 16 bits, with [PAD] and the like behind them they don't."""
    characters = "".join(chr(i) for i in range(32, 67_613) if not 0xD800 <= i < 0xE000)
    plain = tokenizers.CharsTokenizer(characters)
    extended = special_tokens.Extended(plain, special_tokens.BERT)
    assert (plain.vocab_size, extended.vocab_size) == (65_535, 65_539)
    plain.save(tmp_path / "plain")
    extended.save(tmp_path / "extended")
    (tmp_path / "a.txt").write_text("hello world " * 20)
    prepare.run([str(tmp_path / "a.txt")], str(tmp_path / "extended"), str(tmp_path / "set"))
    rows = []
    for name in ("plain", "extended"):
        for path in ("a.txt", "set"):
            where = f"{tmp_path / path}" if path == "a.txt" else f"tokens:{tmp_path / path}"
            fields = {"path": where, "tokenizer": str(tmp_path / name), "seq_len": 12}
            rows.append(next(TextTask(TextConfig(**fields)).eval("val", 2))["targets"])
    assert plain.decode(rows[0][0]) == "hello world "
    assert all((row == rows[0]).all() for row in rows)
