"""What may be written: literal masks of a tiny vocabulary, and whatever is drawn satisfies what was asked."""

import json
import random
import re

import made_tokenizers
import numpy as np
import pytest

from jaxlm.data import tokenizers
from jaxlm.decode import constrained, writable
from jaxlm.decode.stopping import text_of

END = 9


class Tiny:
    """Nine tokens; a word may be spelt in several ways, é takes two tokens or one."""

    name, vocab_size, eos_id = "tiny", 10, END
    words = (b"a", b"b", b"ab", b"a", b"\xc3", b"\xa9", b"1", b"12", "é".encode(), b"")

    def spellings(self, begins):
        return list(self.words)


class Whole(Tiny):
    """The same with every byte behind, so that every text can be written."""

    name, vocab_size = "whole", 266
    words = (*Tiny.words, *(bytes([byte]) for byte in range(256)))


def ids(mask, limit=10):
    return np.flatnonzero(mask)[np.flatnonzero(mask) < limit].tolist()


def follow(constraint, tokens, limit=10):
    """The mask before each token, and after the last; then whether it is finished."""
    masks = []
    for token in tokens:
        masks.append(ids(constraint.mask(), limit))
        constraint.accept(token)
    return [*masks, ids(constraint.mask(), limit), constraint.finished]


# Tokens: 0 a, 1 b, 2 ab, 3 a, 4 and 5 the bytes of é, 6 1, 7 12, 8 é, 9 end. 4 breaks a character: without all
# bytes it may only be used where the vocabulary has what completes it.
LITERAL = [
    # choices: an end exactly where one is complete; both a's
    ({"choices": ["ab", "aab", "b"]}, [0, 0, 1], [[0, 1, 2, 3], [0, 1, 2, 3], [1], [9], True]),
    ({"choices": ["a", "ab"]}, [3, 1], [[0, 2, 3], [1, 9], [9], True]),
    ({"choices": ["a", "ab"]}, [3, END], [[0, 2, 3], [1, 9], [], True]),
    ({"choices": ["12"]}, [7], [[7], [9], True]),  # after 6 there would be no 2
    ({"choices": ["é1"]}, [4, 5, 6], [[4, 8], [5], [6], [9], True]),
    ({"regex": "(ab)+"}, [0, 1, 2], [[0, 2, 3], [1], [0, 2, 3, 9], [0, 2, 3, 9], False]),
    ({"regex": "a{1,2}b?"}, [0, 2], [[0, 2, 3], [0, 1, 2, 3, 9], [9], True]),
    ({"regex": "^[0-9]{2}$"}, [6, 6], [[6, 7], [6], [9], True]),
    ({"regex": "[é1]*"}, [8, END], [[6, 8, 9], [6, 8, 9], [], True]),
    ({"json_schema": {"enum": [1, 12, 11]}}, [6, 6], [[6, 7], [6, 9], [9], True]),
]  # fmt: skip


@pytest.mark.parametrize("asked, tokens, expected", LITERAL, ids=str)
def test_literal_masks(asked, tokens, expected):
    assert follow(constrained.build(asked, Tiny(), [END])(), tokens) == expected


def test_what_leads_nowhere_is_not_allowed():
    """There is no x: after "a" only b can follow, and é is not begun by a half that nothing may complete."""
    assert follow(constrained.build({"regex": "ab|ax1"}, Tiny(), [END])(), [0]) == [
        [0, 2, 3], [1], False,
    ]  # fmt: skip
    assert ids(constrained.build({"regex": "é|ax1"}, Tiny(), [END])().mask()) == [8]
    # with every byte there, halves of a character are as good as any token, and x can follow
    whole = constrained.build({"regex": "é|ax1"}, Whole(), [END])
    assert follow(whole(), [4])[:2] == [[0, 3, 4, 8], [5]]
    assert follow(whole(), [0], limit=300)[:2] == [[0, 3, 4, 8, 10 + 97, 10 + 0xC3], [10 + 120]]


def test_rows_do_not_share_what_they_wrote():
    for asked in ({"choices": ["ab", "b"]}, {"regex": "ab|b"}, {"json_schema": {"enum": [1, 11]}}):
        make = constrained.build(asked, Tiny(), [END])
        first, second = make(), make()
        start = ids(first.mask())
        first.accept(start[0])
        assert ids(second.mask()) == start != ids(first.mask()), asked
        assert ids(make().mask()) == start


def test_masks_are_as_long_as_the_logits_and_any_end_token_counts():
    assert len(constrained.build({"choices": ["a"]}, Tiny(), [9, 12])().mask()) == 13
    make = constrained.build({"regex": "a*"}, Tiny(), [9, 12], size=16)
    mask = make().mask()
    assert mask.shape == (16,) and np.flatnonzero(mask).tolist() == [0, 3, 9, 12]
    without = constrained.build({"choices": ["a"]}, Tiny())()
    without.accept(0)
    assert without.finished and not without.mask().any()
    empty = constrained.build({"regex": "x?"}, Tiny(), [9])()
    assert empty.finished and ids(empty.mask()) == [9]  # the empty text is all that can be written
    with pytest.raises(ValueError, match="token 1 is not allowed here"):
        make().accept(1)


def test_choices_are_what_the_same_regex_allows():
    gpt2 = tokenizers.build("gpt2")
    texts = ["yes", "no", " maybe", "yesterday", "naïve 世"]
    one = constrained.build({"choices": texts}, gpt2, [50256])()
    other = constrained.build({"regex": "|".join(texts)}, gpt2, [50256])()
    drawn = random.Random(0)
    while not one.finished:
        mask = one.mask()
        np.testing.assert_array_equal(mask, other.mask())
        token = drawn.choice(ids(mask, 50257))
        one.accept(token)
        other.accept(token)
    assert other.finished


def drawn(make, tokenizer, end, seed, begins, most=300):
    """A text of random tokens; None where it did not end in time."""
    constraint, chance, tokens = make(), random.Random(seed), []
    while not constraint.finished:
        allowed = ids(constraint.mask(), 10**6)
        if end in allowed and (chance.random() < 0.3 or len(allowed) == 1):
            break
        tokens.append(chance.choice([token for token in allowed if token != end]))
        constraint.accept(tokens[-1])
        if len(tokens) == most:
            return None
    return text_of(tokenizer, tokens, begins)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return made_tokenizers.every_kind(tmp_path_factory.mktemp("kinds"))


ASKED = ["(ab|it|世)+", "a{2,3}", r"[a-z ]{1,10}", " ?a b?", r"(do|it|un|cap)*\.?", r"\d{2}-\d"]
SCHEMA = {
    "type": "object",
    "properties": {
        "at": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1, "maxItems": 3},
        "b": {"enum": ["a it", "é", None]},
        "c": {"type": "boolean"},
    },
    "required": ["at", "b"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("begins", [True, False])
def test_whatever_is_drawn_matches(kinds, begins):
    for tokenizer in kinds:
        end = tokenizer.vocab_size if tokenizer.eos_id is None else tokenizer.eos_id
        size, written = max(end + 1, tokenizer.vocab_size), 0
        for regex in ASKED:
            try:
                make = constrained.build({"regex": regex}, tokenizer, [end], begins=begins, size=size)  # fmt: skip
            except ValueError as error:
                assert "can write nothing that fits it" in str(error)
                continue
            for seed in range(8):
                text = drawn(make, tokenizer, end, seed, begins)
                assert re.fullmatch(regex, text, re.ASCII), (tokenizer.name, regex, text)
                written += 1
        assert written, tokenizer.name


def test_whatever_is_drawn_is_json_of_the_schema(kinds):
    for tokenizer in kinds[:6]:
        end = tokenizer.vocab_size if tokenizer.eos_id is None else tokenizer.eos_id
        size = max(end + 1, tokenizer.vocab_size)
        for schema in (SCHEMA, json.dumps(SCHEMA)):
            make = constrained.build({"json_schema": schema}, tokenizer, [end], size=size)
            for seed in range(6):
                value = json.loads(drawn(make, tokenizer, end, seed, True))
                assert set(value) in ({"at", "b"}, {"at", "b", "c"})
                assert value["b"] in ("a it", "é", None) and 1 <= len(value["at"]) <= 3
                assert set(value["at"]) <= {1, 2} and value.get("c", True) in (True, False)


def test_choices_of_every_kind(kinds):
    for tokenizer in kinds:
        end = tokenizer.vocab_size if tokenizer.eos_id is None else tokenizer.eos_id
        size = max(end + 1, tokenizer.vocab_size)
        texts = ["a a", "a"] if tokenizer.name != "wordpiece" else ["it undo", "it"]
        make = constrained.build({"choices": texts}, tokenizer, [end], size=size)
        found = {drawn(make, tokenizer, end, seed, True) for seed in range(12)}
        assert found == set(texts), tokenizer.name


def test_blanks_between_the_parts_of_a_json_text_come_to_an_end():
    make = constrained.build({"json_schema": {"type": "array"}}, tokenizers.build("bytes"), [256])
    one, count = make(), 0
    one.accept(ord("["))
    while one.mask()[ord(" ")] or one.mask()[ord("\n")]:
        one.accept(ord("\n") if one.mask()[ord("\n")] else ord(" "))
        count += 1
        assert count < 50
    assert one.mask()[ord("]")]


def test_a_vocabulary_without_what_a_schema_needs():
    letters = tokenizers.build("chars", ['{}:"ab'])
    one = constrained.build({"json_schema": {"type": "object", "required": ["xa"]}}, letters, [7])()
    with pytest.raises(ValueError, match=r"""chars can write nothing that may follow '\{"'"""):
        for text in '{"':
            one.accept(letters.encode(text)[0])
        one.mask()


@pytest.mark.parametrize(
    "asked, message",
    [
        ({}, "must have one key, of choices, regex, json_schema"),
        ("yes", "must have one key"),
        ({"choice": ["a"]}, 'constraint "choice" is not known (did you mean "choices"?)'),
        ({"choices": []}, "must be one text or more, none of them empty"),
        ({"choices": ["a", ""]}, "none of them empty"),
        ({"choices": ["a", "xyz"]}, "tiny can't write the choice 'xyz'"),
        ({"regex": "a("}, "constraint regex: unclosed group"),
        (
            {"regex": "a(?=b)"},
            "look-around, including look-ahead and look-behind, is not supported",
        ),
        ({"regex": r"[^\s\S]"}, "tiny can write nothing that fits it"),
        ({"regex": "xyz"}, "tiny can write nothing that fits it"),
        ({"regex": 3}, "constraint regex=3 must be a text"),
        ({"json_schema": "{"}, "constraint json_schema is not JSON: Expecting property name"),
        ({"json_schema": [1]}, "must be an object, true or false"),
        ({"json_schema": {"enum": [object]}}, "constraint json_schema is no JSON"),
        (
            {"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}},
            "minimum (5) is greater",
        ),
        ({"json_schema": {"type": "text"}}, "constraint json_schema: Invalid type: text"),
        ({"json_schema": {"not": {}}}, 'constraint json_schema: Unimplemented keys: ["not"]'),
        ({"json_schema": False}, "Unsatisfiable schema: schema is false"),
    ],
    ids=str,
)
def test_an_impossible_constraint_is_one_clear_line(asked, message):
    with pytest.raises(ValueError) as raised:
        constrained.build(asked, Tiny(), [END])
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxlm\[constrain\]'"):
        constrained.build({"regex": "a"}, made_tokenizers.wordpiece(), [1])


def test_texts_that_tokens_make_together():
    """What can be spelt is the smallest tokens in any order, those of a beginning first."""
    first, later = [b"a", b"ab", b"xyz"], [b"a", b"b", b"ba", b" c", b"\xc3"]
    pattern = writable.pattern(*writable.usable(first, later))
    for text in ("", "a", "ab", "abba", "a c", "xyz", "xyz cab"):
        assert re.fullmatch(pattern.replace("\\x{", "\\x").replace("}", ""), text), text
    for text in ("b", "c", "a ", "xy", "ac", " c"):
        assert not re.fullmatch(pattern.replace("\\x{", "\\x").replace("}", ""), text), text
    every = [bytes([byte]) for byte in range(256)]
    assert writable.pattern(every, every) is None
