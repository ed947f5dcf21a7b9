"""Tokenizers: encodings known from elsewhere, round trips, byte counts, saving, refusals."""

import json

import numpy as np
import pytest

from jaxlm import train_tokenizer
from jaxlm.data import bundled, tokenizers

MIXED = "Hello, 世界! 🙂 naïve\r\n\ttab  two spaces\u3000ideographic\n\nend"


@pytest.fixture(scope="module")
def bpe_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_tokenizer.train(["bundled:trivia"], 400, str(path), text_field="question")
    return path


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sp")
    text = bundled.read("shakespeare").decode()[:50_000]
    (folder / "in.txt").write_text(text, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "in.txt"),
        model_prefix=str(folder / "m"),
        vocab_size=400,
        byte_fallback=True,
        minloglevel=2,
    )
    return folder / "m.model"


# ids as published with GPT-2 (encoder.json, vocab.bpe) and repeated in countless tests of others
@pytest.mark.parametrize(
    "text, ids",
    [
        ("Hello world", [15496, 995]),
        (" the", [262]),
        ("Hello, world!", [15496, 11, 995, 0]),
        ("\n\n", [628]),
        ("\n", [198]),
        ("", []),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
    ],
)
def test_gpt2_gives_the_published_ids(text, ids):
    assert tokenizers.build("gpt2").encode(text).tolist() == ids


def test_gpt2_facts():
    gpt2 = tokenizers.build("gpt2")
    assert (gpt2.vocab_size, gpt2.eos_id) == (50257, 50256)
    assert gpt2.decode([50256]) == "<|endoftext|>"
    # "Hello" 5 bytes, " world" 6, " the" 4, the special token 0, one byte each for the first 256
    assert gpt2.token_bytes()[[15496, 995, 262, 50256]].tolist() == [5, 6, 4, 0]
    assert gpt2.token_bytes()[:256].tolist() == [1] * 256


def test_bytes_are_utf8_bytes():
    tokenizer = tokenizers.build("bytes")
    assert tokenizer.encode("é🙂").tolist() == [0xC3, 0xA9, 0xF0, 0x9F, 0x99, 0x82]
    assert tokenizer.encode("é").dtype == np.int32
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (257, 256)
    assert tokenizer.decode([0xC3, 65, 256, 66]) == "\ufffdA<eos>B"
    assert tokenizer.token_bytes().tolist() == [1] * 256 + [0]


def test_chars_are_sorted_and_unseen_ones_are_unknown():
    tokenizer = tokenizers.build("chars", ["b世", "a"])
    assert tokenizer.characters == "ab世"
    assert tokenizer.encode("世ab").tolist() == [2, 0, 1]
    assert tokenizer.encode("c🙂\U0010ffff").tolist() == [3, 3, 3]  # <unk>
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.eos_id) == (5, 3, 4)
    assert tokenizer.decode([0, 3, 4]) == "a\ufffd<eos>"
    assert tokenizer.token_bytes().tolist() == [1, 1, 3, 0, 0]


def _all(bpe_json, sentencepiece_model):
    return [
        tokenizers.build("bytes"),
        tokenizers.build("chars", [MIXED, "<|endoftext|>"]),
        tokenizers.build("gpt2"),
        tokenizers.build(str(bpe_json)),
        tokenizers.build(str(sentencepiece_model)),
    ]


def test_round_trips_and_byte_counts(bpe_json, sentencepiece_model):
    for tokenizer in _all(bpe_json, sentencepiece_model)[:4]:
        ids = tokenizer.encode(MIXED)
        assert tokenizer.decode(ids) == MIXED, tokenizer.name
        assert tokenizer.token_bytes()[ids].sum() == len(MIXED.encode()), tokenizer.name
        assert ids.max() < tokenizer.vocab_size == len(tokenizer.token_bytes())


def test_sentencepiece(sentencepiece_model):
    tokenizer = tokenizers.build(str(sentencepiece_model))
    ids = tokenizer.encode("Enter the 王 </s>")
    assert tokenizer.decode(ids) == "Enter the 王 </s>"
    assert tokenizer.eos_id == 2 and 2 not in ids
    # the model puts one space before the first word; 王 falls back to its three bytes
    assert tokenizer.token_bytes()[ids].sum() == len(" Enter the 王 </s>".encode())


def test_special_tokens_in_a_text_are_only_text(bpe_json, sentencepiece_model):
    for tokenizer in _all(bpe_json, sentencepiece_model):
        ids = tokenizer.encode("a<|endoftext|></s>b")
        assert tokenizer.eos_id not in ids.tolist(), tokenizer.name
    json_tokenizer = tokenizers.build(str(bpe_json))
    assert json_tokenizer.eos_id == 0 and json_tokenizer.token_bytes()[0] == 0


def test_a_batch_is_encoded_as_its_members(bpe_json, sentencepiece_model):
    for tokenizer in _all(bpe_json, sentencepiece_model):
        texts = ["", "one two", MIXED]
        for one, many in zip(texts, tokenizer.encode_batch(texts), strict=True):
            np.testing.assert_array_equal(tokenizer.encode(one), many)
            assert many.dtype == np.int32


def test_saved_and_loaded(tmp_path, bpe_json, sentencepiece_model):
    for number, tokenizer in enumerate(_all(bpe_json, sentencepiece_model)):
        tokenizer.save(tmp_path / str(number))
        again = tokenizers.load(tmp_path / str(number))
        assert (again.digest, again.name, again.eos_id) == (
            tokenizer.digest,
            tokenizer.name,
            tokenizer.eos_id,
        )
        np.testing.assert_array_equal(again.encode(MIXED), tokenizer.encode(MIXED))


def test_digests_differ(bpe_json, sentencepiece_model):
    digests = {t.digest for t in _all(bpe_json, sentencepiece_model)}
    digests |= {tokenizers.build("chars", ["ab"]).digest, tokenizers.build("chars", ["abc"]).digest}
    assert len(digests) == 7


def test_eos_comes_from_the_config_beside_it(tmp_path, bpe_json):
    (tmp_path / "tokenizer.json").write_bytes(bpe_json.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "e"}}')
    tokenizer = tokenizers.build(str(tmp_path / "tokenizer.json"))
    assert tokenizer.decode([tokenizer.eos_id]) == "e"
    tokenizer.save(tmp_path / "saved")  # which doesn't have that config beside it
    assert tokenizers.load(tmp_path / "saved").eos_id == tokenizer.eos_id
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "nosuch"}')
    with pytest.raises(ValueError, match='eos_token "nosuch" is not in its vocabulary'):
        tokenizers.build(str(tmp_path / "tokenizer.json"))


def test_a_folder_with_a_plain_tokenizer_json_loads(bpe_json):
    assert tokenizers.load(bpe_json.parent).vocab_size == 400


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("gpt3", None, 'data.tokenizer=gpt3 is not known .did you mean "gpt2".*accepted: bytes'),
        ("missing.json", None, "data.tokenizer=.*missing.json: no such file"),
        ("bad.json", b"{}", "data.tokenizer=.*bad.json is not a tokenizer.json"),
        ("latin.json", b'{"a": "\xe9"}', "data.tokenizer=.*latin.json is not a tokenizer.json"),
        ("bad.model", b"no model", "data.tokenizer=.*bad.model is not a SentencePiece model"),
    ],
)
def test_what_is_no_tokenizer_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        tokenizers.build(name if name == "gpt3" else str(tmp_path / name))


def test_bad_calls_are_refused(tmp_path):
    with pytest.raises(ValueError, match="chars needs a text"):
        tokenizers.build("chars", [])
    with pytest.raises(ValueError, match="bytes has no id 300; accepted: 0 to 256"):
        tokenizers.build("bytes").decode([1, 300])
    with pytest.raises(ValueError, match="no tokenizer in"):
        tokenizers.load(tmp_path)
    tokenizers.build("chars", ["ab"]).save(tmp_path)
    meta = json.loads((tmp_path / tokenizers.META_FILE).read_text())
    (tmp_path / tokenizers.META_FILE).write_text(json.dumps({**meta, "characters": "ac"}))
    with pytest.raises(ValueError, match="is not the one saved"):
        tokenizers.load(tmp_path)
    (tmp_path / tokenizers.META_FILE).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        tokenizers.load(tmp_path)


def test_train_tokenizer_command(tmp_path, capsys):
    text = tmp_path / "in.txt"
    text.write_text("low lower lowest " * 50, encoding="utf-8")
    out = tmp_path / "new" / "tokenizer.json"
    args = ["--input", str(text), "--vocab_size", "260", "--out", str(out)]
    assert train_tokenizer.main(args) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 260
    first = out.read_bytes()
    # <eos>, 256 bytes, then by hand: "l"+"o", "lo"+"w", and "space"+"low" are the commonest pairs
    tokenizer = tokenizers.build(str(out))
    assert [tokenizer.decode([i]) for i in (257, 258, 259)] == ["lo", "low", " low"]
    assert train_tokenizer.main(args) == 0 and out.read_bytes() == first
    for wrong, message in (
        (["--vocab_size", "100"], "--vocab_size=100 must be at least 257"),
        (["--out", str(tmp_path / "x.txt")], "must end in .json"),
        (["--input", str(tmp_path / "none.txt")], "no such file"),
    ):
        assert train_tokenizer.main(args + wrong) == 2
        assert message in capsys.readouterr().err
