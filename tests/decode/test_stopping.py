"""Texts from tokens as they come: whole characters, spaces, special tokens, stop strings over borders of tokens."""

import random

import made_tokenizers
import pytest

from jaxlm.data import tokenizers
from jaxlm.decode.stopping import StopStrings, TextStream, text_of


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return made_tokenizers.every_kind(tmp_path_factory.mktemp("kinds"))


def pushed(tokenizer, tokens, stop=(), begins=True):
    """What each token lets through, and the rest."""
    stream = TextStream(tokenizer, stop, begins)
    return [*(stream.push([token]) for token in tokens), stream.finish()]


def test_only_whole_characters_come_out():
    tokenizer = tokenizers.build("bytes")
    ids = list("a世!".encode())  # 世 is E4 B8 96
    assert pushed(tokenizer, ids) == ["a", "", "", "世", "!", ""]
    assert pushed(tokenizer, ids[:3]) == ["a", "", "", "\ufffd"]
    # not a beginning of a character any more: known at once
    assert pushed(tokenizer, [0xE4, ord("b")]) == ["", "\ufffdb", ""]


def test_special_tokens_and_ids_beyond_the_vocabulary_write_nothing():
    tokenizer = tokenizers.build("bytes")
    assert pushed(tokenizer, [97, 256, 98, 257, 5000, -1, 99]) == [
        "a",
        "",
        "b",
        "",
        "",
        "",
        "c",
        "",
    ]
    assert text_of(tokenizer, [97, 256, 0xC3, 257, 0xA9, 5000, 99]) == "aéc"


def test_a_space_before_the_first_word():
    wordpiece, llama = made_tokenizers.wordpiece(), made_tokenizers.unigram(llama=True)
    un, do, it = 2, 3, 4
    assert pushed(wordpiece, [un, do, it]) == ["un", "do", " it", ""]
    assert pushed(wordpiece, [un, do, it], begins=False) == [" un", "do", " it", ""]
    space, a = llama.encode("a b")[0], llama._tokenizer.token_to_id("▁a")
    assert pushed(llama, [a, a]) == ["a", " a", ""] and space == a
    assert pushed(llama, [a, a], begins=False) == [" a", " a", ""]
    byte = 2 + ord(" ")  # a space as a byte is one as well
    assert pushed(llama, [byte, a]) == ["", " a", ""]
    assert pushed(llama, [byte, a], begins=False) == [" ", " a", ""]


def test_the_pieces_make_what_decode_makes(kinds):
    for tokenizer in kinds:
        special = set(tokenizer.special_ids().values())
        texts = [made_tokenizers.MIXED, "  two", "", "it is. a", "\n\na"]
        rows = [tokenizer.encode(text).tolist() for text in texts]
        for seed in range(300):
            drawn = random.Random(seed)
            length = drawn.randrange(1, 8)
            rows.append([drawn.randrange(tokenizer.vocab_size) for _ in range(length)])
        compared = 0
        for row in rows:
            expected = tokenizer.decode([token for token in row if token not in special])
            found = pushed(tokenizer, row)
            assert "".join(found) == text_of(tokenizer, row)
            if "\ufffd" not in expected:  # of torn characters, libraries show one mark or several
                compared += 1
                assert "".join(found) == expected, (tokenizer.name, row)
        assert compared > 20, tokenizer.name


def test_a_text_that_goes_on_keeps_its_space(kinds):
    for tokenizer in kinds:
        ids = tokenizer.encode("it a it").tolist()
        special = set(tokenizer.special_ids().values())
        ids = [token for token in ids if token not in special]
        for cut in range(1, len(ids)):
            start, rest = ids[:cut], ids[cut:]
            joined = text_of(tokenizer, start) + text_of(tokenizer, rest, begins=False)
            assert joined == tokenizer.decode(ids), tokenizer.name


def test_what_may_begin_a_stop_string_is_held_back():
    tokenizer = tokenizers.build("chars", ["abcdxy\n"])

    def came(text, *stop):
        return pushed(tokenizer, tokenizer.encode(text).tolist(), stop)

    assert came("aab", "ab") == ["", "a", "", ""]  # the first a is one only when no b follows
    assert came("abx", "abc") == ["", "", "abx", ""]
    assert came("ab", "abc") == ["", "", "ab"]  # nothing more comes: it was none
    assert came("xabcy", "abc") == ["x", "", "", "", "", ""]
    assert came("aabab", "abab") == ["", "a", "", "", "", ""]
    # of several the one that is complete first; beginnings of the longer ones are given up
    assert "".join(came("abcd", "abcd", "bc")) == "a"


@pytest.mark.parametrize("cuts", ["a|b|c|d", "ab|cd", "abcd", "a|bcd", "abc|d"])
def test_how_a_text_is_cut_into_tokens_does_not_matter(cuts):
    import tokenizers as library

    parts = cuts.split("|")
    vocab = {part: i for i, part in enumerate([*parts, "zz"])}
    made = library.Tokenizer(library.models.WordLevel(vocab, unk_token="zz"))
    made.decoder = library.decoders.Fuse()
    tokenizer, ids = made_tokenizers.of(made, "parts"), list(range(len(parts)))
    watcher = StopStrings(tokenizer, ["abcd", "bc"])
    watched = [watcher.watch(0, ids[: n + 1]) for n in range(len(ids))]
    first = next(n for n in range(len(parts)) if "bc" in "".join(parts[: n + 1]))
    assert watched == [n >= first for n in range(len(parts))]
    assert watcher.cut("abcd") == "a" == "".join(pushed(tokenizer, ids, ["abcd", "bc"]))


def test_watched_streamed_and_cut_agree(kinds):
    for tokenizer in kinds:
        for seed in range(60):
            drawn = random.Random(seed)
            row = [drawn.randrange(min(tokenizer.vocab_size, 400)) for _ in range(12)]
            whole = text_of(tokenizer, row)
            if len(whole) < 4:
                continue
            place = drawn.randrange(len(whole) - 2)
            stop = [whole[place : place + 2], whole[place + 1 : place + 3], "never"]
            watcher, stream, came = StopStrings(tokenizer, stop), TextStream(tokenizer, stop), ""
            for length in range(1, len(row) + 1):
                came += stream.push(row[length - 1 : length])
                before = text_of(tokenizer, row[:length])
                assert whole.startswith(watcher.cut(whole)) and whole.startswith(came)
                if watcher.watch(0, row[:length]):
                    assert watcher.cut(before) == watcher.cut(whole) == came
                    break
            assert came + stream.finish() == watcher.cut(whole)


def test_rows_and_batches_are_kept_apart():
    tokenizer = tokenizers.build("bytes")
    watcher = StopStrings(tokenizer, "END")
    assert not watcher.watch(0, list(b"E")) and not watcher.watch(1, list(b"ND"))
    assert not watcher.watch(0, list(b"EN")) and watcher.watch(0, list(b"ENDE"))
    # the next batch has the same row numbers
    assert not watcher.watch(0, list(b"xxxD")) and not watcher.watch(0, list(b"xxxDE"))
    assert StopStrings(tokenizer, ()).watch(0, [1]) is False
    assert StopStrings(tokenizer, ()).cut("all of it") == "all of it"


def test_only_new_tokens_are_decoded(monkeypatch):
    tokenizer, counted = tokenizers.build("bytes"), []
    push = TextStream.push
    monkeypatch.setattr(TextStream, "push", lambda self, t: (counted.append(len(t)), push(self, t))[1])  # fmt: skip
    watcher, row = StopStrings(tokenizer, "END"), []
    for byte in b"no stop string in here":
        row.append(byte)
        assert not watcher.watch(0, row)
    assert counted == [1] * len(row)


def test_what_is_refused():
    tokenizer = tokenizers.build("bytes")
    for stop in ("", ["a", ""], [3]):
        with pytest.raises(ValueError, match="must be a string with at least one character"):
            StopStrings(tokenizer, stop)
    with pytest.raises(ValueError, match="depends on the tokens beside it"):
        text_of(made_tokenizers.dependent(), [0, 1])
