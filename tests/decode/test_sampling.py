"""Writing token by token against full forward passes: any batch, any length, any program that it compiles to."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import prefill, sampling
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config

SMALL = {"vocab_size": 11, "d_model": 32, "num_heads": 4, "max_len": 32}
LLAMA = {
    "positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "num_kv_heads": 2,
}  # fmt: skip
GPTS = {
    "gpt2": GPTConfig(**SMALL, num_layers=1),
    "llama": GPTConfig(**SMALL, num_layers=2, **LLAMA),
    "scanned": GPTConfig(**SMALL, num_layers=2, scan_layers=True),
    "window": GPTConfig(**SMALL, num_layers=2, **LLAMA, window=5),
}
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [4, 4], [3] * 20]
GREEDY, DRAWN = Sampling(temperature=0.0), Sampling(temperature=0.8)


@functools.cache
def built(name):
    model = GPT(GPTS[name])
    return model, random_params(model, jnp.zeros((1, 4), jnp.int32))


def random_params(model, *inputs):
    """Without compiling an initialisation, which takes longer than most tests."""
    rng = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))["params"]

    def draw(path, leaf):
        gain = path[-1].key == "scale"
        return (0.5 * rng.standard_normal(leaf.shape) + gain).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, tokens, *source):
    return model.apply({"params": params}, tokens, *source).logits()


def logits_behind(setup, text, *source):
    """By a full forward pass, filled up behind so that it compiles once."""
    filled = jnp.array([text + [0] * (32 - len(text))])
    return np.asarray(forward(*setup, filled, *source))[0, len(text) - 1]


def write(setup, prompts, settings=GREEDY, **request):
    request = {"max_len": 32, "max_tokens": 10} | request
    found = settings.write(*setup, Request(prompts, **request))
    assert all(len(texts) == 1 for texts in found)
    return [texts[0] for texts in found]


def tokens(setup, *args, **kwargs):
    return [one.tokens for one in write(setup, *args, **kwargs)]


def slowly(setup, prompt, max_tokens, seed=None, temperature=0.8, max_len=32):
    """Every token by a full forward pass over what the documented rule says the context is."""
    context, written, score = prompt if len(prompt) < max_len else prompt[-max_len // 2 :], [], 0.0
    for index in range(max_tokens):
        if len(context) > max_len - 1:
            context = context[-(max_len // 2) :]
        logits = logits_behind(setup, context)
        token = int(logits.argmax())
        if seed is not None:
            key = jax.random.fold_in(jax.random.key(seed), index)
            token = int(jax.random.categorical(key, logits / np.float32(temperature)))
        score += float(jax.nn.log_softmax(logits)[token])
        written.append(token)
        context = [*context, token]
    return written, score


@pytest.mark.parametrize("name", GPTS)
def test_tokens_and_scores_are_those_of_full_forward_passes(name):
    setup = built(name)
    both = ((GREEDY, [None] * 4), (DRAWN, [7, 0, 2**31 + 5, 3]))
    for settings, seeds in both if name == "gpt2" else both[:1]:
        given = [] if settings is GREEDY else seeds
        found = write(setup, PROMPTS, settings, seeds=given)
        for prompt, seed, one in zip(PROMPTS, seeds, found, strict=True):
            expected, score = slowly(setup, prompt, 10, seed)
            assert one.tokens == expected and one.finish == "length"
            assert one.score == pytest.approx(score, abs=1e-4)


def test_a_row_is_the_same_alone_and_in_any_batch():
    """With rows that end early, rows that are cut, rows whose context is full before others'."""
    setup, seeds = built("gpt2"), [5, 6, 7, 8]
    prompts = [*PROMPTS[:3], list(range(10)) * 3]
    settings = Sampling(1.0, 7, 0.95, 0.01, 1.2, 0.3, 0.1)
    options = {"max_tokens": 40, "end_ids": (0,)}
    alone = [
        write(setup, [prompt], settings, seeds=[seed], **options)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert {one.finish for one in alone} == {"end", "length"}
    for order in ([0, 1, 2, 3], [3, 0, 1]):
        chosen = {"seeds": [seeds[row] for row in order]} | options
        together = write(setup, [prompts[row] for row in order], settings, **chosen)
        for row, one in zip(order, together, strict=True):
            assert one[:2] == alone[row][:2]
            assert one.score == pytest.approx(alone[row].score, abs=1e-4)


@pytest.mark.parametrize("length", [1, 14, 30, 31, 32, 50])
def test_a_full_context_goes_on_from_its_second_half(length):
    setup = built("gpt2")
    prompts = [[3, 1, 4, 1, 5][:1] * 2, [(7 * place) % 11 for place in range(length)]]
    for settings, seeds in ((GREEDY, [None, None]), (DRAWN, [3, 4])):
        found = tokens(setup, prompts, settings, max_tokens=45, seeds=seeds if seeds[0] else ())
        for prompt, seed, one in zip(prompts, seeds, found, strict=True):
            assert one == slowly(setup, prompt, 45, seed)[0]


def test_a_prompt_without_room_is_said_once(caplog):
    prefill._warn_cut.cache_clear()
    tokens(built("gpt2"), [[1] * 31, [2] * 4], max_tokens=2)
    assert not caplog.records
    for _ in range(2):
        tokens(built("gpt2"), [[1] * 32, [2] * 50], max_tokens=2)
    (record,) = caplog.records
    assert "no room to write in 32 positions: its last 16 tokens are read" in record.message


def test_a_prefix_language_model_reads_its_prompt_in_both_directions():
    model, params = built("scanned")
    (found,) = write((model, params), PROMPTS[:1], max_tokens=6, prefix=True)
    text, length = [*PROMPTS[0], *found.tokens], len(PROMPTS[0])

    @functools.partial(jax.jit, static_argnums=1)
    def full(tokens, prefix):
        more = {"prefix_lengths": jnp.array([length], jnp.int32)} if prefix else {}
        logits = model.apply({"params": params}, tokens, **more).logits()
        return jax.nn.log_softmax(logits)[0, length - 1 : -1]

    logps = np.asarray(full(jnp.array([text]), True))
    assert found.tokens == logps.argmax(-1).tolist()
    assert found.score == pytest.approx(logps.max(-1).sum(), abs=1e-4)
    assert abs(found.score - np.asarray(full(jnp.array([text]), False)).max(-1).sum()) > 0.01


def test_an_encoder_decoder_reads_each_rows_source():
    model = T5(T5Config(vocab_size=11, num_layers=1, d_model=16, num_heads=2, d_ff=32))
    empty = jnp.zeros((1, 4), jnp.int32)
    params = random_params(model, empty, empty)
    sources = [[3, 1, 4, 0, 0], [1, 5, 9, 2, 6], [5, 3, 7, 0, 0]]
    real = [3, 5, 3]
    inputs = {
        "source": np.array(sources, np.int32),
        "source_segment_ids": np.array([[1] * n + [0] * (5 - n) for n in real], np.int32),
    }
    found = tokens((model, params), [[0]] * 3, inputs=inputs, max_tokens=12, max_len=64)
    for source, length, one in zip(sources, real, found, strict=True):
        text = [0]
        for token in one:
            logits = logits_behind((model, params), text, jnp.array([source[:length]]))
            assert token == logits.argmax()
            text.append(token)


def test_more_tokens_begin_with_the_fewer_whatever_a_chunk_holds():
    setup = built("gpt2")
    long = tokens(setup, PROMPTS, DRAWN, max_tokens=sampling.CHUNK + 5)
    for count in (1, sampling.CHUNK, sampling.CHUNK + 1):
        fewer = tokens(setup, PROMPTS, DRAWN, max_tokens=count)
        assert fewer == [one[:count] for one in long]
    streamed = [[] for _ in PROMPTS]
    again = tokens(
        setup,
        PROMPTS,
        DRAWN,
        max_tokens=sampling.CHUNK + 5,
        on_tokens=lambda row, new: streamed[row].extend(new),
    )
    assert again == long == streamed


def test_seeds_follow_their_rows():
    setup = built("gpt2")
    first, second = tokens(setup, [[9], [9]], DRAWN, seeds=[1, 2])
    assert first != second
    assert tokens(setup, [[9], [9]], DRAWN, seeds=[2, 1]) == [second, first]
    assert tokens(setup, [[9], [9]], DRAWN, seeds=[1 - 2**32, 1]) == [first, first]


def test_sampling_follows_the_distribution():
    setup = built("gpt2")
    rows = write(setup, [[5, 2]] * 4096, Sampling(temperature=1.0, top_k=7), max_tokens=1)
    counts = np.bincount([row.tokens[0] for row in rows], minlength=11) / 4096
    probs = np.array(jax.nn.softmax(logits_behind(setup, [5, 2])))
    log_probs = np.log(probs)
    assert {row.score for row in rows} <= {float(x) for x in log_probs} or all(
        row.score == pytest.approx(log_probs[row.tokens[0]], abs=1e-5) for row in rows
    )
    probs[np.argsort(probs)[:4]] = 0  # scores are the model's own, what is drawn is cut
    assert np.abs(counts - probs / probs.sum()).max() < 4 * np.sqrt(0.25 / 4096)


def test_a_row_ends_before_an_end_token_which_counts_in_its_score():
    setup = built("gpt2")
    free = write(setup, [[1, 2, 3], [9]])
    for end in set(free[0].tokens):
        place = free[0].tokens.index(end)
        one = write(setup, [[1, 2, 3], [9]], end_ids=(end, 100))[0]
        assert (one.tokens, one.finish) == (free[0].tokens[:place], "end")
        if place + 1 < 10:
            same = write(setup, [[1, 2, 3], [9]], max_tokens=place + 1)[0]
            assert one.score == pytest.approx(same.score, abs=1e-5)


def test_a_watcher_is_asked_after_each_token_of_each_row():
    setup = built("gpt2")
    free = tokens(setup, PROMPTS, DRAWN, max_tokens=30)
    asked = []

    def watch(row, written):
        asked.append((row, list(written)))
        return row == 1 and len(written) == 5

    found = write(setup, PROMPTS, DRAWN, max_tokens=30, watch=watch)
    assert found[1].tokens == free[1][:5] and found[1].finish == "stop"
    assert [one.tokens for one in found[2:]] == free[2:]
    assert [text for row, text in asked if row == 1] == [free[1][: n + 1] for n in range(5)]


class OddThenEven:
    """Odd tokens, then an even one ends it."""

    def __init__(self):
        self.finished, self.accepted = False, []

    def mask(self):
        return np.arange(9) % 2 == (len(self.accepted) < 3)  # knows nine tokens of eleven

    def accept(self, token):
        self.accepted.append(token)
        self.finished = token % 2 == 0


def test_constraints_leave_the_likeliest_of_what_they_allow():
    setup = built("gpt2")
    allowed = [OddThenEven() for _ in PROMPTS]
    found = write(setup, PROMPTS, allowed=allowed)
    for prompt, one, constraint in zip(PROMPTS, found, allowed, strict=True):
        assert one.finish == "end" and constraint.accepted == one.tokens
        text, score = list(prompt), 0.0
        for odd in (True, True, True, False):
            logits = logits_behind(setup, text)
            among = [token for token in range(9) if token % 2 == odd]
            text.append(max(among, key=lambda token: logits[token]))
            score += float(jax.nn.log_softmax(logits)[text[-1]])
        assert one.tokens == text[len(prompt) :]
        assert one.score == pytest.approx(score, abs=1e-4)
    nothing = OddThenEven()
    nothing.mask = lambda: np.zeros(9, bool)
    with pytest.raises(ValueError, match=r"prompts\[0\]: its constraint leaves no token"):
        write(setup, PROMPTS[:1], allowed=[nothing])


def test_penalties_look_back_on_prompt_and_text():
    """Each greedy token by hand from the full forward pass's logits."""
    setup = built("llama")
    settings = Sampling(0.0, repetition_penalty=1.7, presence_penalty=0.5, frequency_penalty=0.25)
    for prompt, one in zip(PROMPTS, tokens(setup, PROMPTS, settings), strict=True):
        written = []
        for token in one:
            logits = logits_behind(setup, prompt + written).astype(np.float64)
            for seen in {*prompt, *written}:
                logits[seen] *= 1 / 1.7 if logits[seen] > 0 else 1.7
            for seen in set(written):
                logits[seen] -= 0.5 + 0.25 * written.count(seen)
            assert token == logits.argmax()
            written.append(token)


def test_few_programs_are_compiled():
    """Other settings, lengths, numbers of tokens and of rows within a bucket: the same programs."""
    setup = built("gpt2")

    def programs():
        parts = (prefill._prefill, sampling._pick, sampling._write_on, sampling._put_rows)
        return sum(part._cache_size() for part in parts)

    for part in (prefill._prefill, sampling._pick, sampling._write_on, sampling._put_rows):
        part.clear_cache()
    tokens(setup, PROMPTS, Sampling(0.8, 5, 0.9), max_tokens=5, end_ids=(3,))
    assert programs() == 3
    tokens(setup, PROMPTS[1:], Sampling(1.3, 2, 0.5), max_tokens=9, seeds=[9, 8, 7])
    tokens(setup, [[1] * 17] * 4, Sampling(0.1, 7, 0.1), on_tokens=lambda row, new: None)
    assert programs() == 3
    tokens(setup, [[1] * 17] * 4, Sampling(0.1, 7, 0.1), max_tokens=40)  # reads again: 4 rows of 16
    assert programs() == 5
    tokens(setup, PROMPTS[1:], GREEDY)  # nothing is drawn: another choice, the same way of reading
    assert programs() == 7


@pytest.mark.parametrize(
    ("prompts", "request_", "message"),
    [
        ([], {}, "at least one token"),
        ([[1], []], {}, "at least one token"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0"),
        ([[1]], {"max_len": 1}, "max_len=1"),
        ([[1]], {"seeds": [1, 2]}, "seeds: 2 for 1 prompts"),
    ],
)
def test_wrong_requests_are_named(prompts, request_, message):
    with pytest.raises(ValueError, match=message):
        write(built("gpt2"), prompts, **request_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0 .greedy. or more"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": "hot"}, "temperature='hot' must be a number"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_k": 2.5}, "top_k=2.5 must be a whole number"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"min_p": 1.5}, "min_p=1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
        ({"presence_penalty": math.inf}, "presence_penalty=inf"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
