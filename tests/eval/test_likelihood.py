"""Likelihoods of given tokens against a plain loop: one pair at a time, unpadded, log-softmax in numpy."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.data.prompts import encode_pair
from jaxlm.eval import likelihood
from jaxlm.eval.likelihood import loglikelihoods, rolling, windows
from jaxlm.models.bert import BERT, BERTConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config

V, MAX_LEN = 11, 12
TINY = {"vocab_size": V, "num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": MAX_LEN}
PAIRS = [
    ([1, 2, 3], [4, 5]),
    ([7], [8]),
    ([1, 2, 3, 4], [9]),  # read alike: 1 2 3 4
    ([1, 2, 3, 4], [6]),
    ([1, 2, 3], [4, 6]),  # and this too
    ([5] * 9, [1, 2, 3, 4, 5, 6, 7]),  # 16 together: the first three are cut
    (list(range(10)) * 3, list(range(10))),
    ([10], [0] * MAX_LEN),
]


@functools.cache
def gpt(num_layers=1):
    model = GPT(GPTConfig(**TINY | {"num_layers": num_layers}, init_std=0.5))
    one = jnp.zeros((1, 4), jnp.int32)
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), one))["params"]


@functools.cache
def t5():
    model = T5(T5Config(**TINY, d_ff=20, relative_max_distance=20, decoder_start_id=2))
    one = jnp.zeros((1, 4), jnp.int32)
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), one, one))["params"]


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, inputs):
    return model.apply({"params": params}, **inputs).logits()


def plain(model, params, inputs, targets):
    """Log-probability of each of the last targets, and whether each is the likeliest."""
    inputs = {name: jnp.array(values, jnp.int32)[None] for name, values in inputs.items()}
    rows = np.asarray(logits(model, params, inputs), np.float64)[0][-len(targets) :]
    logs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    return [logs[i, t] for i, t in enumerate(targets)], bool((rows.argmax(-1) == targets).all())


def agree(found, expected):
    per_token, greedy = expected
    np.testing.assert_allclose(found.per_token, per_token, atol=1e-5)
    assert found.total == pytest.approx(sum(per_token), abs=1e-5)
    assert found.greedy is greedy


@functools.cache
def expected():
    model, params = gpt()
    together = [(c + t)[-(MAX_LEN + 1) :][:-1] for c, t in PAIRS]
    return [
        plain(model, params, {"tokens": read}, targets)
        for read, (_, targets) in zip(together, PAIRS, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_any_order_and_batch_size_gives_the_plain_loop(batch_size):
    order = np.random.default_rng(batch_size).permutation(len(PAIRS))
    seen = {}
    found = loglikelihoods(
        *gpt(),
        [PAIRS[i] for i in order],
        max_len=MAX_LEN,
        batch_size=batch_size,
        on_result=seen.__setitem__,
    )
    for result, i in zip(found, order, strict=True):
        agree(result, expected()[i])
    assert seen == dict(enumerate(found))


def test_the_likeliest_token_is_greedy_and_no_other():
    model, params = gpt()
    best = int(logits(model, params, {"tokens": jnp.array([[1, 2, 3]])})[0, -1].argmax())
    found = loglikelihoods(model, params, [([1, 2, 3], [t]) for t in range(V)], max_len=MAX_LEN)
    assert [one.greedy for one in found] == [t == best for t in range(V)]
    assert np.exp([one.total for one in found]).sum() == pytest.approx(1, abs=1e-6)


def test_what_is_read_alike_is_read_once(monkeypatch):
    calls, real = [], likelihood._score
    monkeypatch.setattr(likelihood, "_score", lambda *a: calls.append(a[2]) or real(*a))
    loglikelihoods(*gpt(), [([1, 2], [t]) for t in range(V)], max_len=MAX_LEN, batch_size=1)
    assert [batch["tokens"].shape for batch in calls] == [(1, MAX_LEN)]


def test_few_programs_whatever_the_lengths():
    model, params = gpt()
    wide = 100  # of rotary positions there is no end
    model = GPT(GPTConfig(**TINY | {"max_len": wide}, positions="rotary"))
    params = {name: value for name, value in params.items() if name != "positions"}
    before = likelihood._score._cache_size()
    pairs = [([1] * context, [2] * 3) for context in range(1, 90)]
    loglikelihoods(model, params, pairs, max_len=wide, batch_size=4)
    assert likelihood._score._cache_size() - before == 4  # widths 16, 32, 64 and 100


def test_an_encoder_decoder_reads_the_context_as_its_source():
    model, params = t5()
    pairs = [PAIRS[0], PAIRS[4], PAIRS[6], PAIRS[1]]
    found = loglikelihoods(model, params, pairs, max_len=MAX_LEN, batch_size=3)
    for result, (context, targets) in zip(found, pairs, strict=True):
        inputs = {"tokens": [2, *targets[:-1]], "source": context[-MAX_LEN:]}
        agree(result, plain(model, params, inputs, targets))


def test_a_prefix_model_reads_its_context_both_ways():
    """Of one layer, what is read behind a token would move nothing that is scored."""
    model, params = gpt(num_layers=2)
    pairs = [PAIRS[0], PAIRS[5], ([1, 2, 3, 4], [5])]
    found = loglikelihoods(model, params, pairs, max_len=MAX_LEN, prefix=True)
    for result, (context, targets) in zip(found, pairs, strict=True):
        read = (context + targets)[-(MAX_LEN + 1) :][:-1]
        lengths = jnp.array([len(read) - len(targets) + 1])
        inputs = {"tokens": jnp.array([read]), "prefix_lengths": lengths}
        rows = np.asarray(logits(model, params, inputs))[0][-len(targets) :]
        per_token = jax.nn.log_softmax(rows)[np.arange(len(targets)), np.array(targets)]
        np.testing.assert_allclose(result.per_token, per_token, atol=1e-5)
    # read alike but for how much of it is the context
    assert found[0].total != loglikelihoods(model, params, pairs[:1], max_len=MAX_LEN)[0].total


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [1]), r"pairs\[1\]: the context is empty"),
        (([1], []), r"pairs\[1\]: the continuation is empty"),
        (([1], [V]), r"pairs\[1\]: the continuation has ids outside 0..10"),
        (([-1], [1]), r"pairs\[1\]: the context has ids outside"),
        (([1], [1] * 13), r"pairs\[1\]: its continuation has 13 tokens, and the model holds 12"),
    ],
)
def test_a_pair_that_can_not_be_scored_is_named(pair, message):
    with pytest.raises(ValueError, match=message):
        loglikelihoods(*gpt(), [PAIRS[0], pair], max_len=MAX_LEN)


def test_who_has_no_likelihood_says_so():
    model = BERT(BERTConfig(**TINY))
    with pytest.raises(ValueError, match="BERT reads both ways: it has no next-token likelihood"):
        loglikelihoods(model, {}, PAIRS, max_len=MAX_LEN)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        loglikelihoods(*gpt(), PAIRS, max_len=MAX_LEN, batch_size=0)


def test_windows_by_hand():
    """The harness's own example, and with three tokens of context: a stride of two."""
    tokens = list(range(10))
    assert list(windows(tokens, 99, 4)) == [
        ([99], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]
    assert list(windows(tokens, 99, 4, context=3)) == [
        ([99], [0, 1, 2, 3]),
        ([1, 2, 3], [4, 5]),
        ([3, 4, 5], [6, 7]),
        ([5, 6, 7], [8, 9]),
    ]
    assert list(windows([], 99, 4)) == []
    with pytest.raises(ValueError, match="context=5 must be in 1..4"):
        list(windows(tokens, 99, 4, context=5))


def test_windows_are_those_of_the_harness():
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    for length in (0, 1, 3, 4, 5, 9, 23):
        for max_len in (1, 2, 4, 7):
            for context in range(1, max_len + 1):
                theirs = get_rolling_token_windows(list(range(length)), 99, max_len, context)
                expected = [make_disjoint_window(pair) for pair in theirs]
                assert list(windows(range(length), 99, max_len, context)) == expected


@pytest.mark.parametrize("context", [1, 4, MAX_LEN])
def test_rolling_scores_every_token_once(context):
    """At full context each token is scored with the twelve before it, as a loop over tokens does."""
    model, params = gpt()
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, V, size).tolist() for size in (30, 0, 5, 13)]
    seen = {}
    found = rolling(
        model,
        params,
        texts,
        max_len=MAX_LEN,
        prefix_id=10,
        context=context,
        batch_size=3,
        on_result=seen.__setitem__,
    )
    assert seen == dict(enumerate(found)) and found[1] == (0.0, True, [])
    stride = MAX_LEN - context + 1
    for text, result in zip(texts, found, strict=True):
        logs = []
        for place, target in enumerate(text):
            windows_after = max(0, -(-(place + 1 - MAX_LEN) // stride))
            end = min(MAX_LEN + windows_after * stride, len(text))  # of the window that scores it
            read = [10, *text][max(0, end - MAX_LEN) : place + 1]
            logs += plain(model, params, {"tokens": read}, [target])[0]
        np.testing.assert_allclose(result.per_token, logs, atol=1e-5)
        assert result.total == pytest.approx(sum(logs), abs=1e-4)


def test_a_pair_of_texts_is_cut_where_the_context_ends():
    """A space belongs to the word after it, wherever it was written."""
    pieces = re.compile(r" ?\w+|\s")
    ids = {"one": 1, " two": 2, " ": 3, "two": 4}

    def encode(text):
        return [ids[piece] for piece in pieces.findall(text)]

    assert encode("one ") == [1, 3]
    assert encode_pair(encode, "one", " two") == ([1], [2])
    assert encode_pair(encode, "one ", "two") == ([1], [2])
    assert encode_pair(encode, "one ", " two") == ([1], [3, 2])
