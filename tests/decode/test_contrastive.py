"""Contrastive search against equation 5 of arXiv:2202.06417, computed from full forward passes in numpy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markov import Markov, random_table

from jaxlm.decode import contrastive
from jaxlm.decode.contrastive import Contrastive
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request
from jaxlm.models.gpt import GPT, GPTConfig

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [4, 4]]


@functools.cache
def setup():
    config = GPTConfig(
        vocab_size=11, num_layers=1, d_model=16, num_heads=2, max_len=32, init_std=0.5
    )
    model = GPT(config)
    init = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return model, nn.unbox(init)["params"]


@jax.jit
def forward(tokens):
    model, params = setup()
    output = model.apply({"params": params}, tokens)
    return output.hidden, output.logits()


def read(text):
    """Hidden states of a text's tokens, and the probabilities of the next one."""
    hidden, logits = forward(np.array([text + [0] * (32 - len(text))], np.int32))
    scores = np.exp(np.asarray(logits[0, len(text) - 1], np.float64))
    return np.asarray(hidden[0, : len(text)], np.float64), scores / scores.sum()


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def slow(prompt, top_k, alpha, max_tokens, end_ids=()):
    """(tokens, log-probability); each token a loop over candidates, each candidate a loop over the text."""
    text, logp = list(prompt), 0.0
    for _ in range(max_tokens):
        states, probs = read(text)
        scores = {}
        for token in np.argsort(-probs)[:top_k]:
            candidate = read([*text, int(token)])[0][-1]
            similarity = max(cosine(candidate, state) for state in states)
            scores[int(token)] = (1 - alpha) * probs[token] - alpha * similarity
        text.append(max(scores, key=scores.get))
        logp += np.log(probs[text[-1]])
        if text[-1] in end_ids:
            return text[len(prompt) : -1], logp
    return text[len(prompt) :], logp


@pytest.mark.parametrize(("top_k", "alpha"), [(4, 0.6), (4, 1.0), (4, 0.3)])
def test_the_papers_formula_from_full_forward_passes(top_k, alpha):
    """Each row of a ragged batch as if it were alone."""
    request = Request(PROMPTS, 20, 32, (8,))
    found = Contrastive(top_k, alpha).write(*setup(), request)
    for prompt, (one,) in zip(PROMPTS, found, strict=True):
        tokens, logp = slow(prompt, top_k, alpha, 20, (8,))
        assert one.tokens == tokens
        assert one.finish == ("length" if len(tokens) == 20 else "end")
        assert one.score == pytest.approx(logp, abs=1e-4)


@pytest.mark.parametrize("settings", [Contrastive(top_k=1), Contrastive(4, penalty_alpha=0.0)])
def test_one_candidate_and_no_penalty_are_greedy(settings):
    request = Request(PROMPTS, 20, 32, (8,))
    greedy = Sampling(temperature=0.0).write(*setup(), request)
    found = settings.write(*setup(), request)
    assert [one[:2] for (one,) in found] == [one[:2] for (one,) in greedy]


def test_it_repeats_itself_less_than_greedy_search():
    request = Request(PROMPTS, 20, 32)
    pairs = []
    for settings in (Contrastive(4, 0.9), Sampling(temperature=0.0)):
        texts = [one.tokens for (one,) in settings.write(*setup(), request)]
        pairs.append(sum(len(set(zip(text[:-1], text[1:], strict=True))) for text in texts))
    assert pairs[0] > pairs[1]


def test_a_row_is_watched_and_streamed():
    free = Contrastive().write(*setup(), Request(PROMPTS, 20, 32))
    heard = [[], [], []]
    request = Request(
        PROMPTS, 20, 32,
        watch=lambda row, tokens: row == 1 and len(tokens) == 5,
        on_tokens=lambda row, tokens: heard[row].extend(tokens),
    )  # fmt: skip
    found = [one for (one,) in Contrastive().write(*setup(), request)]
    assert [one.tokens for one in found] == heard
    assert [one.finish for one in found] == ["length", "stop", "length"]
    assert found[1].tokens == free[1][0].tokens[:5] and found[0].tokens == free[0][0].tokens


def test_settings_do_not_compile_anew():
    Contrastive().write(*setup(), Request(PROMPTS, 20, 32, (8,)))
    before = contrastive._write_on._cache_size()
    Contrastive(penalty_alpha=0.2).write(*setup(), Request(PROMPTS, 11, 32, (2,)))
    assert contrastive._write_on._cache_size() == before


def test_what_cannot_be_done_is_said():
    with pytest.raises(ValueError, match="hidden states, and a Output has none"):
        Contrastive().write(Markov(), random_table(5, 0), Request([[1]], 4, 32))
    with pytest.raises(ValueError, match="a prompt of 7 tokens and max_tokens=26 .* 32 positions"):
        Contrastive().write(*setup(), Request(PROMPTS, 26, 32))
    with pytest.raises(ValueError, match="no constraint"):
        Contrastive().write(*setup(), Request([[1]], 3, 32, allowed=[object()]))
    for settings, message in (
        ({"top_k": 0}, "top_k=0"),
        ({"penalty_alpha": 1.5}, "penalty_alpha=1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            Contrastive(**settings)
