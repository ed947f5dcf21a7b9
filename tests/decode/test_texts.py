"""Texts of many prompts: batches, seeds, stop strings, streams, the methods' settings by name; and where the time went."""

from types import SimpleNamespace

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import made_tokenizers
import numpy as np
import pytest

from jaxlm import decode
from jaxlm.core.outputs import NeuralOutput
from jaxlm.data import tokenizers
from jaxlm.decode import buckets, timing
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.texts import Writer

LETTERS = tokenizers.build("chars", ["abcdefghijklmnopqrstuvwxyz ."])  # and <unk>, <eos>
A, SIZE = int(LETTERS.encode("a")[0]), LETTERS.vocab_size


@flax.struct.dataclass
class Held:
    lengths_B: jax.Array


class NextLetter(nn.Module):
    """Writes the alphabet; behind z the text ends. Anything else is e^-9 as likely."""

    def init_cache(self, params, batch_size, max_len):
        return Held(jnp.zeros((batch_size,), jnp.int32))

    def extend(self, params, cache, tokens_BT, lengths_B):
        following = jnp.where(tokens_BT == A + 25, LETTERS.eos_id, tokens_BT + 1)
        hidden = 9 * jax.nn.one_hot(following, SIZE)
        return NeuralOutput(hidden, jnp.eye(SIZE), {}, SIZE), Held(cache.lengths_B + lengths_B)


WRITER = Writer(NextLetter(), {}, LETTERS, max_len=64, end_ids=(LETTERS.eos_id,))


def write(prompts, settings=None, **options):
    ids = [LETTERS.encode(prompt).tolist() for prompt in prompts]
    method = decode.settings("sample", settings or {"temperature": 0.0})
    return WRITER.write(method, ids, **{"max_tokens": 6} | options)


def test_a_text_that_begins_stands_beside_one_that_goes_on():
    """A vocabulary that drops a text's first space drops it in the first one only; stops and constraints alike."""
    writer = Writer(NextLetter(), {}, made_tokenizers.wordpiece(), max_len=64)
    greedy, pair = decode.settings("sample", {"temperature": 0.0}), [[1], [1]]  # token 2 is "un"

    def texts(**options):
        found = writer.write(greedy, pair, begins=[True, False], **{"max_tokens": 1} | options)
        return [(best.text, best.finish) for (best,) in found]

    assert texts() == [("un", "length"), (" un", "length")]
    assert texts(stop=" un") == [("un", "length"), ("", "stop")]
    heard = ["", ""]
    texts(on_text=lambda number, piece: heard.__setitem__(number, heard[number] + piece))
    assert heard == ["un", " un"]
    assert texts(constraint={"regex": " ?un"}) == [("un", "end"), (" un", "end")]


def test_texts_come_in_the_order_of_their_prompts_whatever_the_batches_are():
    prompts = ["hello w", "b", "xx", "abcde", "u"]
    expected = ["xyz", "cdefgh", "yz", "fghijk", "vwxyz"]
    for batch_size in (1, 2, 8):
        found = write(prompts, batch_size=batch_size)
        assert [best.text for (best,) in found] == expected
        assert [best.finish for (best,) in found] == ["end", "length", "end", "length", "end"]
    assert [len(best.tokens) for (best,) in found] == [3, 6, 2, 6, 5]
    step = -np.log1p((SIZE - 1) * np.exp(-9))  # of the likeliest token
    np.testing.assert_allclose(
        [best.score for (best,) in found], step * np.array([4, 6, 3, 6, 6]), atol=1e-5
    )
    assert write([]) == []


def test_a_prompts_seed_is_its_number_and_follows_it_into_any_batch():
    hot = {"temperature": 4.0}
    together = write(["a", "b", "a"], hot, seed=3, batch_size=2)
    alone = [write([prompt], hot, seed=seed) for prompt, seed in zip("aba", (3, 4, 5), strict=True)]
    assert together == [one for (one,) in alone]
    assert together[0] != together[2]


def test_stop_strings_end_a_text_and_do_not_belong_to_it():
    ((found,),) = write(["b"], stop=("xy", "fg"))
    assert (found.text, found.finish) == ("cde", "stop")
    assert LETTERS.decode(found.tokens) == "cdefg"
    step = -np.log1p((SIZE - 1) * np.exp(-9))
    assert found.score == pytest.approx(
        5 * step, abs=1e-5
    )  # what was written behind it has no part in it
    for batch_size in (1, 4):
        many = write(["b", "m", "e", "x"], stop="fg", max_tokens=40, batch_size=batch_size)
        assert [one.text for (one,) in many] == ["cde", "nopqrstuvwxyz", "", "yz"]
        assert [one.finish for (one,) in many] == ["stop", "end", "stop", "end"]


def test_pieces_joined_are_the_texts():
    pieces = ["", "", ""]

    def on_text(number, piece):
        pieces[number] += piece

    found = write(["s", "b", "mn"], stop="fg", max_tokens=5, batch_size=2, on_text=on_text)
    assert pieces == [best.text for (best,) in found] == ["tuvwx", "cde", "opqrs"]
    cut = ["", "", ""]
    write(
        ["d"], stop="fghi", max_tokens=3, on_text=lambda n, piece: cut.insert(n, cut.pop(n) + piece)
    )
    assert cut[0] == "efg"  # held back as the beginning of a stop string, until nothing follows


def test_a_constraint_chooses():
    ((found,), (other,)) = write(["b", "c"], constraint={"choices": ["dog", "cat"]})
    assert (found.text, found.finish) == ("cat", "end")
    assert (other.text, other.finish) == ("dog", "end")


@pytest.mark.parametrize(
    ("method", "given", "draft", "message"),
    [
        (
            "bean",
            {},
            False,
            r'method="bean" is not known \(did you mean "beam"\?\); accepted: sample',
        ),
        ("sample", {"topp": 0.5}, False, r'topp is no setting .* \(did you mean "top_p"\?\)'),
        ("beam", {"temperature": 1.0}, False, r'temperature is no setting of method="beam"'),
        ("sample", {"num_draft": 4}, False, 'num_draft is no setting of method="sample"'),
        ("beam", {}, True, 'a draft model writes ahead for method="sample", not "beam"'),
        ("sample", {"top_p": 2.0}, False, "top_p=2.0 must be"),
    ],
)
def test_wrong_methods_and_settings_are_named(method, given, draft, message):
    with pytest.raises(ValueError, match=message):
        decode.settings(method, given, draft)


def test_every_method_is_made_from_its_defaults():
    for method in decode.METHODS:
        assert hasattr(decode.settings(method, {}), "write")
    assert isinstance(decode.settings("sample", {"num_draft": 2}, draft=True), Sampling)
    with pytest.raises(ValueError, match="batch_size=0"):
        write(["a"], batch_size=0)


def test_shapes_are_rounded_up_to_powers_of_two_within_the_model():
    assert [buckets.width(n, 1000) for n in (1, 16, 17, 33, 600)] == [16, 16, 32, 64, 1000]
    assert [buckets.slots(n, 1000) for n in (1, 64, 65, 512, 513)] == [64, 64, 128, 512, 1000]
    assert [buckets.rows(n) for n in (1, 2, 3, 5, 8)] == [1, 2, 4, 8, 8]
    for limit in (2, 15, 40, 100):
        for length in range(1, limit):
            assert length <= buckets.width(length, limit) <= buckets.slots(length, limit) <= limit


def test_compiling_the_first_token_and_the_rest_are_timed_apart(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(timing, "_heard_of", [])

    def spend(seconds, compiling):
        now[0] += seconds + compiling
        timing._heard("/jax/core/compile/backend_compile_duration", compiling)

    with timing.measured() as found:
        for first, rest, counts in ((2.0, 4.0, [5, 1]), (7.0, 1.0, [1, 3])):
            with timing.batch() as of_rows:
                spend(first, compiling=0.5)
                timing.first_token()
                spend(rest, compiling=1.0)
                timing.first_token()  # only the first time
                of_rows.extend(counts)
    assert (found.compile_seconds, found.compiles) == (3.0, 4)
    assert (found.first_token_seconds, found.decode_seconds) == (2.0, 5.0)
    assert (found.tokens, found.decoded) == (10, 6)
    assert found.tokens_per_second == 6 / 5
    assert str(found) == (
        "compile 3.00 s (4 programs), first token 2.000 s, 1.2 tokens/s (10 tokens)"
    )


def test_a_search_has_no_first_token():
    with timing.measured() as found, timing.batch() as of_rows:
        of_rows.append(1)
    assert found.first_token_seconds is None and found.decoded == found.tokens == 1
    assert "first token" not in str(found) and "(1 token)" in str(found)


def test_compiling_is_no_part_of_writing():
    with timing.measured() as first:
        write(["a"], {"temperature": 0.0, "min_p": 0.5}, max_tokens=3)
    assert first.compiles >= 2 and first.compile_seconds > 0 and first.tokens == 3
    with timing.measured() as again:
        write(["abc"], {"temperature": 0.0, "min_p": 0.7}, max_tokens=9)
    assert again.compiles == 0 and again.compile_seconds == 0 and again.tokens == 9
