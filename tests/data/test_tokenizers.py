"""Tokenizers: encodings known from elsewhere, round trips, byte counts, saving, refusals."""

import json

import numpy as np
import pytest

from jaxlm import train_tokenizer
from jaxlm.data import bundled, corruption, special_tokens, tokenizer_json, tokenizers

MIXED = "Hello, 世界! 🙂 naïve\r\n\ttab  two spaces\u3000ideographic\n\nend"


@pytest.fixture(scope="module")
def bpe_json(tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_tokenizer.train(["bundled:trivia"], 400, str(path), text_column="question")
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


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    """As BERT's: [CLS] is among its own special tokens, "##" continues a word."""
    import tokenizers as library

    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##do", "it", ".", "##s", "cap"]
    ids = {piece: number for number, piece in enumerate(vocab)}
    made = library.Tokenizer(library.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.decoder = library.decoders.WordPiece()
    made.add_special_tokens(vocab[:5])
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    made.save(str(path))
    return tokenizers.build(str(path))


def test_special_tokens_of_its_own(wordpiece):
    assert special_tokens.token_id(wordpiece, "[MASK]") == 4
    assert special_tokens.token_id(wordpiece, "<mask>") is None
    assert special_tokens.with_special_tokens(wordpiece, special_tokens.BERT) is wordpiece
    assert wordpiece.eos_id == 3 and wordpiece.token_bytes()[[2, 3, 5, 6]].tolist() == [0, 0, 2, 2]
    assert special_tokens.special_table(wordpiece).tolist() == [True] * 5 + [False] * 6


def test_special_tokens_are_appended(bpe_json, sentencepiece_model, tmp_path):
    for number, tokenizer in enumerate(_all(bpe_json, sentencepiece_model)):
        size = tokenizer.vocab_size
        longer = special_tokens.with_special_tokens(tokenizer, special_tokens.BERT)
        longer = special_tokens.with_special_tokens(longer, ["[MASK]", "<extra_id_0>"])
        assert longer.vocab_size == size + 5 == len(longer.token_bytes()) == len(longer.pieces())
        ids = {name: i for name, i in longer.special_ids().items() if i >= size}
        names = [*special_tokens.BERT, "<extra_id_0>"]
        assert ids == dict(zip(names, range(size, size + 5), strict=True))
        # text is only ever text, and what was there stays as it was
        text = "a [MASK] b<extra_id_0>"
        np.testing.assert_array_equal(longer.encode(text), tokenizer.encode(text))
        assert longer.encode(text).max() < size and longer.eos_id == tokenizer.eos_id
        assert longer.token_bytes()[size:].sum() == 0 and longer.digest != tokenizer.digest
        word = tokenizer.encode("then").tolist()
        text = "[CLS]" + tokenizer.decode(word) + "[MASK][SEP]"
        assert longer.decode([size + 1, *word, size + 3, size + 2]) == text
        longer.save(tmp_path / str(number))
        again = tokenizers.build(str(tmp_path / str(number)))
        assert (again.digest, again.special_ids()) == (longer.digest, longer.special_ids())
    bytes_and_more = special_tokens.with_special_tokens(tokenizers.build("bytes"), ["[MASK]"])
    with pytest.raises(ValueError, match="bytes has no id 258; accepted: 0 to 257"):
        bytes_and_more.decode([258])


def test_sentinels_behind_a_vocabulary_are_in_t5s_order():
    longer = special_tokens.with_special_tokens(tokenizers.build("bytes"), special_tokens.SENTINELS)
    ids = longer.special_ids()  # T5: 32,000 pieces, <extra_id_99> is 32000, <extra_id_0> 32099
    assert ids["<extra_id_99>"] == 257 and ids["<extra_id_0>"] == 257 + 99


def test_pieces_say_where_words_begin(wordpiece, bpe_json, sentencepiece_model):
    def words(tokenizer, text):
        ids = tokenizer.encode(text)
        numbers = corruption.word_numbers(ids, corruption.word_table(tokenizer.pieces()))
        parts = [tokenizer.decode(ids[numbers == n]).strip() for n in range(numbers.max() + 1)]
        return [part for part in parts if part]

    assert wordpiece.pieces()[5:9] == [" un", "do", " it", " ."]
    assert words(wordpiece, "undo caps.") == ["undo", "caps", "."]
    for tokenizer in _all(bpe_json, sentencepiece_model):
        found = words(tokenizer, "end, tab\n spaces")
        assert found == ["end", ",", "tab", "spaces"], tokenizer.name
    assert words(tokenizers.build("gpt2"), "Undoubtedly naïve") == ["Undoubtedly", "naïve"]


def test_written_as_a_tokenizer_json(wordpiece, bpe_json, sentencepiece_model):
    import tokenizers as library

    *writable, sentencepiece = _all(bpe_json, sentencepiece_model)
    for tokenizer in [*writable, wordpiece]:
        names = [*special_tokens.BERT, *special_tokens.SENTINELS]
        for one in (tokenizer, special_tokens.with_special_tokens(tokenizer, names)):
            other = library.Tokenizer.from_str(tokenizer_json.to_json(one).decode())
            assert other.get_vocab_size() == one.vocab_size
            for text in (MIXED, "", " unseen: \x00\x7f\xad\u0416"):
                ids = other.encode(text, add_special_tokens=False).ids
                assert ids == one.encode(text).tolist(), one.name
            for name, number in one.special_ids().items():
                assert other.token_to_id(name) == number, (one.name, name)
                assert other.encode(name, add_special_tokens=False).ids == [number]
    longer = special_tokens.with_special_tokens(sentencepiece, ["[MASK]"])
    assert tokenizer_json.to_json(sentencepiece) is None is tokenizer_json.to_json(longer)
    data = tokenizer_json.to_json(writable[2])
    reread = tokenizers.JsonTokenizer("memory", data, None, "here")
    assert reread.encode(MIXED).tolist() == writable[2].encode(MIXED).tolist()
    assert reread.eos_id == 50256


def test_a_vocabulary_with_gaps_has_no_longer_tokenizer_json():
    gaps = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 5}, "unk_token": "a"}}
    tokenizer = tokenizers.JsonTokenizer("gaps", json.dumps(gaps).encode(), None, "here")
    longer = special_tokens.with_special_tokens(tokenizer, ["[MASK]"])
    assert longer.special_ids() == {"[MASK]": 6}
    with pytest.raises(ValueError, match="gaps: its ids have gaps"):
        tokenizer_json.to_json(longer)
