"""`data.tokenizer=bpe:N`: merges by hand, of the training part only, the same each time, in any script."""

import os
import subprocess
import sys

import pytest

from jaxlm.data import bpe, cache, special_tokens, tokenizer_json, tokenizers
from jaxlm.data.tasks.pairs import PairsTask
from jaxlm.data.tasks.text import TextConfig, TextTask

CHINESE = "他说：今天天气很好，我们去公园吧。今天天气不好，我们不去公园。"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def pairs(path, **fields):
    return PairsTask(PairsTask.Config(path=path, **fields))


def pieces(tokenizer, text):
    return [tokenizer.decode([number]) for number in tokenizer.encode(text)]


def test_merges_by_hand():
    # Words: hug, " hug" twice, " pug". Pairs: u g 4; h ug 3, then " " hug 2; " " p and p ug come once.
    texts = ["hug hug hug pug"]
    for size, found in (
        (257, ["h", "u", "g", " ", "p", "u", "g"]),
        (258, ["h", "ug", " ", "p", "ug"]),
        (259, ["hug", " ", "p", "ug"]),
        (260, ["hug", " ", "p", "ug"]),
    ):
        tokenizer = tokenizers.build(f"bpe:{size}", texts)
        assert pieces(tokenizer, "hug pug") == found
        assert tokenizer.vocab_size == size and tokenizer.name == f"bpe:{size}"
        assert tokenizer.eos_id == tokenizer.special_ids()["<|endoftext|>"] == 0
    assert pieces(tokenizer, " hug") == [" hug"]
    with pytest.raises(ValueError, match="gives 260 ids only .* take bpe:260 or fewer$"):
        tokenizers.build("bpe:261", texts)


@pytest.mark.parametrize("name", ["bpe:", "bpe:x", "bpe:256", "bpe:-300", "bpe:1e4", "bpe:３００", "bpe:8_000"])  # fmt: skip
def test_a_bad_number_is_one_clear_line(name):
    with pytest.raises(ValueError, match=f"^data.tokenizer={name}: expected bpe:N, as in bpe:8000"):
        tokenizers.build(name)


def test_any_script_comes_back(tmp_path):
    tokenizer = tokenizers.build("bpe:290", [CHINESE * 3])
    assert len(tokenizer.encode("今天天气")) < len("今天天气".encode()) // 2
    for text in (CHINESE, "Grüße, 你好 🙂\n\ta\u2028b", "", "<|endoftext|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert 0 not in tokenizer.encode(text)  # <eos> that is spelt out is text
    tokenizer.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert (again.digest, again.name, again.eos_id) == (tokenizer.digest, "bpe:290", 0)
    assert again.encode(CHINESE).tolist() == tokenizer.encode(CHINESE).tolist()
    assert tokenizer_json.to_json(tokenizer) == (tmp_path / "tokenizer.json").read_bytes()


def test_the_same_in_every_process_and_with_any_number_of_threads():
    code = "from jaxlm.data import bundled, bpe, tokenizers; print(tokenizers.build('bpe:600', "
    code += "bundled.read('trivia').decode().splitlines()).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "3")
    }
    assert len(digests) == 1


def test_pairs_train_it_on_their_training_lines(tmp_path, monkeypatch):
    own = ["aaab bbba\tcdcd cdcd"] * 9
    path = write(tmp_path / "a.tsv", "\n".join([*own, "zq " * 60 + "\tzq"]))
    task = pairs(path, tokenizer="bpe:262")
    alone = pairs(write(tmp_path / "b.tsv", "\n".join(own)), tokenizer="bpe:262", val_fraction=0.0)
    assert task.tokenizer.digest == alone.tokenizer.digest
    assert pieces(task.tokenizer, "cdcd") == ["cdcd"]  # of the targets, too
    assert pieces(task.tokenizer, "zq") == ["z", "q"]
    everything = pairs(path, tokenizer="bpe:262", val_path=path)  # then all lines are for training
    assert pieces(everything.tokenizer, "zq") == ["zq"]
    monkeypatch.setattr(bpe, "train", None)  # can't be called: it is in the cache
    assert pairs(path, tokenizer="bpe:262").tokenizer.digest == task.tokenizer.digest
    assert pairs(path, tokenizer="bpe:262", source_len=4).info.digest != task.info.digest
    with pytest.raises(TypeError):
        pairs(path, tokenizer="bpe:261")


def test_text_trains_it_on_its_training_part(tmp_path):
    first, last = "once upon a time there was a king " * 27, "zq " * 34
    path = write(tmp_path / "a.txt", (first + last)[:1000])
    task = TextTask(TextConfig(path=path, tokenizer="bpe:270", seq_len=8))
    alone = tokenizers.build("bpe:270", [first[:900]])
    assert task.tokenizer.digest == alone.digest
    assert pieces(task.tokenizer, " zq") == [" ", "z", "q"]
    text = "".join(task.tokenizer.decode(part.tokens._arrays[0]) for part in task.parts)
    assert text == (first + last)[:1000]
    assert task.info.vocab_size == 270
    mixed = TextTask(TextConfig(path=f"{path},bundled:trivia", tokenizer="bpe:300", seq_len=8, text_column="question"))  # fmt: skip
    assert pieces(mixed.tokenizer, " the") == [" the"]


def test_special_tokens_go_behind_it(tmp_path):
    tokenizer = tokenizers.build("bpe:260", ["hug hug hug pug"])
    more = special_tokens.with_special_tokens(tokenizer, ("[MASK]",))
    assert more.special_ids() == {"<|endoftext|>": 0, "[MASK]": 260}
    more.save(tmp_path)
    assert tokenizers.load(tmp_path).digest == more.digest


def test_too_many_ids_leave_nothing_in_the_cache(tmp_path):
    path = write(tmp_path / "a.tsv", "ab ab\tab\n" * 10)
    with pytest.raises(
        ValueError, match="data.tokenizer=bpe:5000: the training text gives 259 ids"
    ):
        pairs(path, tokenizer="bpe:5000")
    assert not list(cache.root().rglob("tokenizer.json"))


def test_a_prepared_set_brings_its_own(tmp_path):
    from jaxlm import prepare

    text = "once upon a time there was a king " * 30
    path = write(tmp_path / "a.txt", text)
    made = prepare.run([path], "bpe:270", str(tmp_path / "set"))
    task = TextTask(TextConfig(path=f"tokens:{made['out']}", tokenizer="bpe:270", seq_len=8))
    assert task.tokenizer.digest == tokenizers.build("bpe:270", [text]).digest  # of all of it
    with pytest.raises(ValueError, match="bpe:271 is not the one .*set was prepared with .bpe:270"):
        TextTask(TextConfig(path=f"tokens:{made['out']}", tokenizer="bpe:271", seq_len=8))
