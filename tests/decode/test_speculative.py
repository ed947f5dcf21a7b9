"""Speculative decoding: greedily the same tokens, drawn from exactly the same distribution; by tables and by counting."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markov import Markov, Rewindable, first_order, random_table

from jaxlm.decode import speculative_round, timing
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.speculative import Speculative
from jaxlm.decode.types import Request
from jaxlm.models.gpt import GPT, GPTConfig

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [4, 4]]
CONFIG = GPTConfig(vocab_size=11, num_layers=1, d_model=16, num_heads=2, max_len=32, init_std=0.5)
TABLE, DRAFT = random_table(11, 5), random_table(11, 4)
MIXED = 0.6 * TABLE + 0.4 * DRAFT  # a draft that is often right


@functools.cache
def build(window, seed):
    model = GPT(dataclasses.replace(CONFIG, window=window))
    init = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(init)["params"]


def write(settings, request, table=TABLE, draft=MIXED):
    """With table models; without a draft by sampling."""
    model = Rewindable()
    if draft is None:
        return settings.write(model, table, request)
    return settings.write(model, table, request, draft=(model, draft))


def same(found, expected):
    """The same tokens for the same reason, and scores within rounding."""
    assert [one[:2] for (one,) in found] == [one[:2] for (one,) in expected]
    scores = [[one.score for (one,) in texts] for texts in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_a_token_leaves_a_round_with_the_models_probability():
    """q min(1, p / q) + P(rejected) max(0, p - q) / its sum = p, for each token, of any p and q."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(6, 0.5), 100), rng.dirichlet(np.full(6, 0.5), 100)
    p[:, 0], q[:, 1] = 0.0, 0.0  # neither accepted nor drafted
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    grid = (np.arange(2000) + 0.5)[:, None, None] / 2000
    stays = np.asarray(speculative_round.accepted(p, q, grid)).mean(0)
    np.testing.assert_allclose(stays[q > 0], np.minimum(1, p / np.where(q, q, 1))[q > 0], atol=1e-3)
    rest = np.asarray(speculative_round.residual(jnp.asarray(p), jnp.asarray(q)))
    kept = np.minimum(p, q)
    found = kept + (1 - kept.sum(-1, keepdims=True)) * rest / rest.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, p, atol=1e-6)
    np.testing.assert_array_equal(
        speculative_round.residual(jnp.asarray(p), jnp.asarray(p)), p.astype(np.float32)
    )


def slow_rounds(prompt, num_draft, table, draft, max_tokens, end_ids):
    """(rounds, tokens accepted) of one row, greedily: drafts are right up to the first difference."""
    table, draft, text = np.asarray(table), np.asarray(draft), [0, *prompt]

    def written(table, text, count):
        for _ in range(count):
            text = [*text, int(table[text[-2], text[-1]].argmax())]
        return text

    text, start, rounds, accepted = written(table, text, 1), len(text), 0, 0
    while len(text) - start < max_tokens and not set(text[start:]) & set(end_ids):
        drafted = written(draft, text, num_draft)[len(text) :]
        right = written(table, text, num_draft)[len(text) :]
        same = [one == other for one, other in zip(drafted, right, strict=True)]
        agreed = [*same, False].index(False)
        text = written(table, text, agreed + 1)
        rounds, accepted = rounds + 1, accepted + agreed
    return rounds, accepted


@pytest.mark.parametrize("num_draft", [1, 4])
@pytest.mark.parametrize("draft", ["another", "itself"])
def test_greedily_the_same_tokens(num_draft, draft):
    """And no draft is lost: a draft model that had not forgotten what was rejected would be wrong more often."""
    request = Request(PROMPTS, 20, 32, (5,))
    draft = MIXED if draft == "another" else TABLE
    settings = Speculative(temperature=0.0, num_draft=num_draft)
    with timing.measured() as timed:
        found = write(settings, request, draft=draft)
    acceptance = timed.acceptance
    same(found, write(Sampling(temperature=0.0), request, draft=None))
    assert {one.finish for (one,) in found} == {"end", "length"}
    counted = [slow_rounds(prompt, num_draft, TABLE, draft, 20, (5,)) for prompt in PROMPTS]
    rounds, accepted = map(sum, zip(*counted, strict=True))
    assert acceptance == timing.Acceptance(rounds, num_draft * rounds, accepted)
    assert acceptance.rate == 1.0 if draft is TABLE else 0.2 < acceptance.rate < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 6])
def test_transformers_write_the_same_greedily_beyond_a_full_context(window):
    """40 tokens in 32 positions: contexts are read again at each row's own time. With a window caches are rings."""
    large, small = build(window, seed=0), build(window, seed=1)
    request = Request(PROMPTS[:2], 40, 32)
    settings = Speculative(temperature=0.0, num_draft=3, repetition_penalty=1.2)
    with timing.measured() as timed:
        found = settings.write(*large, request, draft=small)
    same(found, Sampling(temperature=0.0, repetition_penalty=1.2).write(*large, request))
    assert 0 < timed.acceptance.accepted < timed.acceptance.drafted


def test_drafts_beyond_the_last_token_have_a_place_of_their_own():
    """62 + 2 tokens are just a bucket of slots: 3 drafted ones must not overwrite the first of the prompt."""
    config = dataclasses.replace(CONFIG, max_len=128)
    model = GPT(config)
    init = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    params = nn.unbox(init)["params"]
    prompts = np.random.default_rng(0).integers(0, 11, (2, 62)).tolist()
    request = Request(prompts, 2, 128)
    found = Speculative(temperature=0.0, num_draft=3).write(
        model, params, request, draft=(model, params)
    )
    same(found, Sampling(temperature=0.0).write(model, params, request))


def expected_probs(process, table, prompt, length):
    """Of every text of `length` tokens: the product of its tokens' probabilities after `process(logits, text)`."""
    table, vocab = np.asarray(table, np.float64), len(table)
    probs = {}
    for text in itertools.product(range(vocab), repeat=length):
        whole, prob = [0, *prompt], 1.0
        for token in text:
            scores = np.exp(process(np.log(table[whole[-2], whole[-1]]), whole[1:], len(prompt)))
            prob *= scores[token] / scores.sum()
            whole.append(token)
        probs[text] = prob
    return probs


def cut(logits, text, start):
    """temperature 0.7, then the two likeliest."""
    return np.where(logits >= np.sort(logits)[-2], logits / 0.7, -np.inf)


def penalised(logits, text, start):
    """repetition 1.5 over all, frequency 0.4 and presence 0.3 over what was written."""
    for token in set(text):
        logits[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
    for token in text[start:]:
        logits[token] -= 0.4
    for token in set(text[start:]):
        logits[token] -= 0.3
    return logits


CASES = {
    "cut": (cut, {"temperature": 0.7, "top_k": 2}),
    "penalised": (
        penalised,
        {"repetition_penalty": 1.5, "frequency_penalty": 0.4, "presence_penalty": 0.3},
    ),
}


@pytest.mark.parametrize("name", ["penalised", pytest.param("cut", marks=pytest.mark.slow)])
def test_what_is_drawn_follows_the_models_distribution(name):
    """20000 rows of 4 tokens of 3: chi-square over the 81 texts. Seeds are fixed, so it fails always or never.

    The draft is wrong more often than right, and rounds of 3 tokens end at every place.
    """
    process, settings = CASES[name]
    table, draft, rows = random_table(3, 1), random_table(3, 2), 20_000
    request = Request([[1, 2]] * rows, 4, 32, seeds=list(range(rows)))
    with timing.measured() as timed:
        found = write(
            Speculative(num_draft=2, **{"temperature": 1.0} | settings), request, table, draft
        )
    probs = expected_probs(process, table, [1, 2], 4)
    counts = dict.fromkeys(probs, 0)
    for (one,) in found:
        counts[tuple(one.tokens)] += 1
    assert all(counts[text] == 0 for text, prob in probs.items() if prob == 0)
    likely = [text for text, prob in probs.items() if rows * prob >= 5]
    observed = np.array([counts[text] for text in likely], float)
    wanted = rows * np.array([probs[text] for text in likely])
    observed, wanted = (np.append(x, max(rows - x.sum(), 1e-9)) for x in (observed, wanted))
    free = len(likely)
    chi_square = ((observed - wanted) ** 2 / wanted).sum()
    assert chi_square < free + 4 * np.sqrt(2 * free)  # four standard deviations
    assert 0.2 < timed.acceptance.rate < 0.8


def test_a_row_is_a_function_of_its_seed_alone():
    """Rows accept differently, so they are at different places of their texts in every round."""
    settings = Speculative(temperature=1.0, num_draft=2)
    request = Request(PROMPTS, 20, 32, (10,), seeds=[7, 8, 9])
    together = write(settings, request)
    for row, prompt in enumerate(PROMPTS):
        alone = write(settings, Request([prompt], 20, 32, (10,), seeds=[7 + row]))
        same(alone, together[row : row + 1])
    assert write(settings, Request(PROMPTS, 20, 32, (10,), seeds=[1, 2, 3])) != together
    shorter = write(settings, Request(PROMPTS, 7, 32, (10,), seeds=[7, 8, 9]))
    assert [one.tokens for (one,) in shorter] == [one.tokens[:7] for (one,) in together]


def test_an_end_inside_accepted_tokens_ends_the_row():
    """By hand: 0 1 2 3 in a circle, all but certain; 3 ends. All four are drafted at once."""
    weights = np.zeros((11, 11))
    weights[:4, :4] = np.roll(np.eye(4), 1, axis=1)
    circle = first_order(weights + 1e-6)
    request = Request([[0], [2], [3]], 5, 32, (3,))
    with timing.measured() as timed:
        found = write(Speculative(temperature=0.0), request, circle, circle)
    assert [(one.tokens, one.finish) for (one,) in found] == [
        ([1, 2], "end"),
        ([], "end"),
        ([0, 1, 2], "end"),
    ]
    assert timed.acceptance == timing.Acceptance(rounds=2, drafted=8, accepted=8)
    assert "8 of 8 drafted tokens accepted (100%)" in str(timed)


def test_a_row_is_watched_and_streamed():
    heard = [[], [], []]
    request = Request(
        PROMPTS, 20, 32,
        watch=lambda row, tokens: row == 1 and len(tokens) == 6,
        on_tokens=lambda row, tokens: heard[row].extend(tokens),
    )  # fmt: skip
    free = write(Speculative(temperature=0.0), Request(PROMPTS, 20, 32))
    found = [one for (one,) in write(Speculative(temperature=0.0), request)]
    assert [one.tokens for one in found] == heard
    assert [one.finish for one in found] == ["length", "stop", "length"]
    assert found[1].tokens == free[1][0].tokens[:6]


def test_what_cannot_be_done_is_said():
    request = Request([[1]], 4, 32)
    with pytest.raises(ValueError, match="the draft, a Markov, cannot rewind its cache"):
        Speculative().write(Rewindable(), TABLE, request, draft=(Markov(), TABLE))
    with pytest.raises(ValueError, match="the model, a Markov, cannot rewind its cache"):
        Speculative().write(Markov(), TABLE, request, draft=(Rewindable(), TABLE))
    with pytest.raises(ValueError, match="vocabulary has 5 tokens, the model's 11"):
        write(Speculative(), request, draft=random_table(5, 0))
    with pytest.raises(ValueError, match="no constraint"):
        write(Speculative(), Request([[1]], 3, 32, allowed=[object()]))
    for settings, message in (
        ({"num_draft": 0}, "num_draft=0 must be from 1 to 16"),
        ({"num_draft": 17}, "num_draft=17"),
        ({"top_p": 0.0}, "top_p=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Speculative(**settings)
