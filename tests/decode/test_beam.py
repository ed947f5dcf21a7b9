"""Beam search: against slow searches that keep no cache, all texts of a tiny vocabulary, and figures by hand."""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markov import Markov, first_order, random_table

from jaxlm.decode import beam
from jaxlm.decode.beam import Beam
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [4, 4]]
END = (8,)
TABLE = Markov(), random_table(11, 3)


@functools.cache
def transformer():
    config = GPTConfig(
        vocab_size=11, num_layers=1, d_model=16, num_heads=2, max_len=32, init_std=0.5
    )
    model = GPT(config)
    init = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(init)["params"]


@jax.jit
def forward(params, tokens):
    model, _ = transformer()
    return jax.nn.log_softmax(model.apply({"params": params}, tokens).logits())


def following(model, params, texts):
    """Log-probabilities of the next token of each text, from all of it."""
    if isinstance(model, Markov):
        table = np.asarray(params)
        return [np.log(table[([0] + text)[-2], text[-1]]) for text in texts]
    filled = np.zeros((8, 32), np.int32)
    for row, text in enumerate(texts):
        filled[row, : len(text)] = text
    log_probs = np.asarray(forward(params, filled))
    return [log_probs[row, len(text) - 1] for row, text in enumerate(texts)]


def slow_group_step(beams, finished, scores, settings, end_ids, length, last_step):
    """One group's beams (text, score) after a step, of candidates (score, parent, token)."""
    width = settings.num_beams // settings.num_groups
    candidates = sorted(
        ((score, text + [token]) for (text, _), row in zip(beams, scores, strict=True)
         for token, score in enumerate(row)), key=lambda one: -one[0],
    )  # fmt: skip
    ended = [last_step or text[-1] in end_ids for _, text in candidates]
    for score, text in [
        c for c, end in zip(candidates, ended, strict=True) if end and c in candidates[:width]
    ]:
        finished.append((score / length**settings.length_penalty, text))
    finished.sort(key=lambda one: -one[0])
    del finished[width:]
    return [(text, score) for (score, text), end in zip(candidates, ended, strict=True) if not end][
        :width
    ]


def slow_beam(model, params, prompt, settings, max_tokens, end_ids):
    """Algorithm 1 of arXiv:1610.02424 with transformers' rules of finishing; [(score, tokens)], best first."""
    width = settings.num_beams // settings.num_groups
    groups = [[([], 0.0)] for _ in range(settings.num_groups)]
    finished, closed = [[] for _ in groups], [False] * len(groups)
    for length in range(1, max_tokens + 1):
        chosen = []  # by earlier groups, at this step
        for number, beams in enumerate(groups):
            rows = following(model, params, [prompt + text for text, _ in beams])
            penalty = settings.diversity_penalty * np.bincount(chosen, minlength=len(rows[0]))
            scores = [score + row - penalty for (_, score), row in zip(beams, rows, strict=True)]
            ended = [] if closed[number] else finished[number]
            groups[number] = slow_group_step(
                beams, ended, scores, settings, end_ids, length, length == max_tokens
            )
            chosen += [text[-1] for text, _ in groups[number]]
            if len(finished[number]) == width and groups[number]:
                never = settings.early_stopping == "never" and settings.length_penalty > 0
                longest = max_tokens if never else length
                reachable = groups[number][0][1] / longest**settings.length_penalty
                hopeless = reachable <= finished[number][-1][0]
                closed[number] |= settings.early_stopping is True or hopeless
        if all(closed):
            break
    return sorted(itertools.chain(*finished), key=lambda one: -one[0])


def assert_found(found, expected, end_ids=END):
    """Texts, why they ended and their scores."""
    assert len(found) == len(expected)
    for one, (score, tokens) in zip(found, expected, strict=True):
        ended = tokens[-1] in end_ids
        assert one.tokens == (tokens[:-1] if ended else tokens)
        assert one.finish == ("end" if ended else "length")
        assert one.score == pytest.approx(score, abs=1e-4)


PLAIN = [
    Beam(num_beams=4, num_return=3),
    Beam(num_beams=4, num_return=4, length_penalty=0.0, early_stopping=True),
    Beam(num_beams=4, num_return=2, length_penalty=-1.0, early_stopping="never"),
    Beam(num_beams=4, num_return=4, length_penalty=2.0, early_stopping="never"),
]
DIVERSE = [
    Beam(num_beams=4, num_return=4, num_groups=2, diversity_penalty=0.7),
    Beam(num_beams=3, num_return=3, num_groups=3, diversity_penalty=1.5, early_stopping=True),
]


@pytest.mark.parametrize("settings", PLAIN + DIVERSE, ids=str)
def test_a_search_without_cache_finds_the_same(settings):
    found = settings.write(*TABLE, Request(PROMPTS, 9, 32, END))
    for prompt, texts in zip(PROMPTS, found, strict=True):
        expected = slow_beam(*TABLE, prompt, settings, 9, END)
        assert_found(texts, expected[: settings.num_return])
    assert "end" in {text.finish for texts in found for text in texts}


def test_three_ways_of_stopping_find_three_lists():
    """By a table for which it matters whether a search goes on."""
    table, lists = (Markov(), random_table(11, 24)), set()
    for early_stopping in (True, False, "never"):
        settings = Beam(num_return=4, early_stopping=early_stopping)
        found = settings.write(*table, Request(PROMPTS, 9, 32, END))
        for prompt, texts in zip(PROMPTS, found, strict=True):
            assert_found(texts, slow_beam(*table, prompt, settings, 9, END))
        lists.add(str([[text.tokens for text in texts] for texts in found]))
    assert len(lists) == 3


def test_of_a_transformer_too_in_a_ragged_batch():
    setup, settings = transformer(), Beam(num_beams=4, num_return=4)
    found = settings.write(*setup, Request(PROMPTS, 9, 32, END))
    for prompt, texts in zip(PROMPTS, found, strict=True):
        expected = slow_beam(*setup, prompt, settings, 9, END)
        assert_found(texts, expected)
    assert {text.finish for texts in found for text in texts} == {"end", "length"}


def test_one_beam_is_greedy():
    request = Request(PROMPTS, 12, 32, (8, 3))
    greedy = Sampling(temperature=0.0).write(*TABLE, request)
    found = Beam(num_beams=1, length_penalty=0.0).write(*TABLE, request)
    assert [one[0][:2] for one in found] == [one[0][:2] for one in greedy]
    for one, other in zip(found, greedy, strict=True):
        assert one[0].score == pytest.approx(other[0].score, abs=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0])
def test_wide_beams_find_the_best_of_all_texts(length_penalty):
    """Of 4 tokens, one an end: 40 beams hold all 27 texts of 3 tokens that go on."""
    table, end = np.asarray(random_table(4, 5)), 0
    scored = []
    for length in range(1, 5):
        for text in itertools.product(range(4), repeat=length):
            if end in text[:-1] or (length < 4 and text[-1] != end):
                continue
            context = [2, 3, *text]
            probs = [
                table[context[i : i + 3][0], context[i + 1], context[i + 2]] for i in range(length)
            ]
            scored.append((float(np.log(probs).sum()) / length**length_penalty, list(text)))
    assert len(scored) == 1 + 3 + 9 + 27 * 4
    settings = Beam(
        num_beams=40, num_return=12, length_penalty=length_penalty, early_stopping="never"
    )
    (found,) = settings.write(Markov(), table, Request([[2, 3]], 4, 32, (end,)))
    assert_found(found, sorted(scored, reverse=True)[:12], (end,))


def four_of_eleven(rows):
    return first_order(np.pad(np.array(rows), ((0, 7), (0, 7))) + np.diag([0] * 4 + [1] * 7))


# 3 ends; from 0 the likeliest token, 1, leads to nothing likely.
GARDEN = four_of_eleven(
    [[0.0, 0.5, 0.4, 0.1], [0.0, 0.4, 0.3, 0.3], [0.0, 0.05, 0.05, 0.9], [0.25, 0.25, 0.25, 0.25]]
)


def test_beams_leave_the_garden_path():
    """By hand: 0.5 * 0.4 for greedy's 1 1, and 0.4 * 0.9 for 2 end, whose mean log-probability is the score."""
    request = Request([[0]] * 3, 2, 32, (3,))
    assert Sampling(temperature=0.0).write(Markov(), GARDEN, request)[0][0].tokens == [1, 1]
    best = Beam(num_beams=4).write(Markov(), GARDEN, request)[0][0]
    assert best.tokens == [2] and best.finish == "end"
    assert best.score == pytest.approx(math.log(0.36) / 2, abs=1e-6)


def test_groups_are_kept_apart_by_the_penalty():
    """By hand: with 1 nat off a first token that was taken, 2 is the better one for the second group (ln 0.4 > ln 0.5 - 1).

    For the third it is 1 again: ln 0.5 - 1 > ln 0.4 - 1 > ln 0.1.
    """
    settings = Beam(
        num_beams=3, num_return=3, num_groups=3, diversity_penalty=1.0, length_penalty=0.0
    )
    found = settings.write(Markov(), GARDEN, Request([[0]] * 3, 1, 32, (3,)))[0]
    assert [text.tokens for text in found] == [[1], [2], [1]]
    expected = [math.log(0.5), math.log(0.4), math.log(0.5) - 1]
    assert [text.score for text in found] == pytest.approx(expected, abs=1e-6)


def test_fewer_texts_than_beams_are_given_back_once_each():
    """A single token may be written: 3 texts, one of them the end."""
    settings = Beam(num_beams=4, num_return=4)
    found = settings.write(Markov(), GARDEN, Request([[0]] * 3, 1, 32, (3,)))[0]
    assert [text[:2] for text in found] == [([1], "length"), ([2], "length"), ([], "end")]


def test_all_rows_may_end_at_once():
    """The end has 0.97 everywhere; every row's best text is empty, with its n-best list filled and sorted."""
    table = four_of_eleven([[0.01, 0.01, 0.01, 0.97]] * 4)
    for early in (True, False, "never"):
        settings = Beam(num_beams=4, num_return=3, early_stopping=early)
        found = settings.write(Markov(), table, Request([[0], [1, 2], [3]], 12, 32, (3,)))
        for texts in found:
            scores = [text.score for text in texts]
            assert scores == sorted(scores, reverse=True) and len(scores) == 3
        if early is True:
            assert [texts[0][:2] for texts in found] == [([], "end")] * 3


def test_nothing_is_searched_in_filling_rows(monkeypatch):
    """Three prompts in four rows: all end at once behind 1, and the filling's 0 would go on for ever."""
    steps = []
    advance = beam._advance_once
    monkeypatch.setattr(beam, "_advance_once", lambda *now: steps.append(1) or advance(*now))
    weights = np.full((11, 11), 1e-9)
    weights[1, 2] = weights[0, 0] = 1.0
    request = Request([[1]] * 3, 20, 32, (2,), watch=lambda row, tokens: False)
    texts = Beam(num_beams=1, early_stopping=True).write(Markov(), first_order(weights), request)
    assert [(best.tokens, best.finish) for (best,) in texts] == [([], "end")] * 3
    assert steps == []


def test_the_watcher_ends_texts_and_the_best_is_handed_on():
    """Without cache: the watcher as a rule of ending beside the end tokens."""
    heard = {}
    request = Request(
        PROMPTS, 9, 32, END, watch=lambda row, tokens: tokens[-2:] == [6, 5],
        on_tokens=lambda row, tokens: heard.setdefault(row, tokens),
    )  # fmt: skip
    found = Beam(num_return=4, length_penalty=0.0).write(*TABLE, request)
    stopped = [text for texts in found for text in texts if text.finish == "stop"]
    assert stopped and all(text.tokens[-2:] == [6, 5] for text in stopped)
    for texts in found:
        assert all(
            [6, 5] not in zip(text.tokens[:-2], text.tokens[1:-1], strict=True) for text in texts
        )
    assert heard == {row: texts[0].tokens for row, texts in enumerate(found)}
    never = Request(PROMPTS, 9, 32, END, watch=lambda row, tokens: False)
    unwatched = Request(PROMPTS, 9, 32, END)
    for one, other in zip(
        Beam().write(*TABLE, never), Beam().write(*TABLE, unwatched), strict=True
    ):
        assert one[0][:2] == other[0][:2]


@pytest.mark.slow
def test_an_encoder_decoder_reads_each_rows_own_source():
    model = T5(T5Config(
        vocab_size=20, num_layers=1, d_model=16, num_heads=2, d_ff=32, relative_buckets=8,
        relative_max_distance=12,
    ))  # fmt: skip
    source = np.array([[5, 6, 7, 8], [9, 3, 0, 0]], np.int32)
    segments = (source > 0).astype(np.int32)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), source[:, :1], source))["params"]
    params = jax.tree.map(lambda leaf: 2 * leaf, params)  # else all texts are one token

    def search(rows):
        inputs = {"source": source[rows], "source_segment_ids": segments[rows]}
        request = Request([[0]] * len(rows), 8, 32, (1,), inputs=inputs)
        return Beam(num_beams=3, num_return=2).write(model, params, request)

    first, second = search([0, 1])
    assert first[0].tokens != second[0].tokens
    (alone,) = search([1])
    assert [text[:2] for text in alone] == [text[:2] for text in second]


def test_settings_do_not_compile_anew():
    request = Request(PROMPTS, 9, 32, END)
    Beam(num_beams=4).write(*TABLE, request)
    before = beam._search._cache_size()
    Beam(num_beams=4, length_penalty=0.3, early_stopping="never").write(*TABLE, request)
    Beam(num_beams=4).write(*TABLE, Request(PROMPTS, 5, 32, (2,)))
    assert beam._search._cache_size() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_return": 5}, "num_return=5 must be at most num_beams=4"),
        (
            {"early_stopping": "always"},
            "early_stopping='always': accepted are True, False, 'never'",
        ),
        ({"num_groups": 3, "diversity_penalty": 1.0}, "multiple of num_groups=3"),
        ({"num_groups": 2}, "diversity_penalty=0.0"),
        ({"diversity_penalty": 1.0}, "num_groups=1"),
        ({"diversity_penalty": float("nan")}, "diversity_penalty=nan must be finite"),
        ({"length_penalty": float("nan")}, "length_penalty=nan must be finite"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Beam(**settings)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a prompt of 7 tokens and max_tokens=26 .* 32 positions"):
        Beam().write(*TABLE, Request(PROMPTS, 26, 32))
    with pytest.raises(ValueError, match="no constraint"):
        Beam().write(*TABLE, Request([[1]], 3, 32, allowed=[object()]))
