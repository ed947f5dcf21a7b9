"""Sampling: greedy equals argmax of the full forward pass, rows are independent, long texts go on."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import sampling
from jaxlm.models.gpt import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=11, num_layers=2, d_model=32, num_heads=4, max_len=32, init_std=0.3)
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [4, 4]]


@pytest.fixture(scope="module")
def setup():
    model = GPT(CONFIG)
    params = nn.unbox(model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))["params"]
    return model, params


def likeliest(setup, text):
    """The next token by a full forward pass, filled up behind so that it compiles once."""
    filled = jnp.array([text + [0] * (32 - len(text))])
    return int(jnp.argmax(forward(*setup, filled)[0, len(text) - 1]))


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, tokens):
    return model.apply({"params": params}, tokens).logits()


def write(setup, prompts, **kwargs):
    model, params = setup
    return sampling.sample(model, params, prompts, **{"max_len": 32, "max_tokens": 10} | kwargs)


def test_greedy_equals_the_argmax_of_full_forward_passes(setup):
    for prompt, new in zip(PROMPTS, write(setup, PROMPTS, temperature=0.0), strict=True):
        text = list(prompt)
        for token in new:
            assert likeliest(setup, text) == token
            text.append(token)


def test_a_prefix_language_model_reads_its_prompt_in_both_directions(setup):
    model, params = setup
    (new,) = write(setup, PROMPTS[:1], temperature=0.0, max_tokens=6, prefix=True)
    text = [*PROMPTS[0], *new]

    @jax.jit
    def full(tokens):
        lengths = jnp.array([len(PROMPTS[0])], jnp.int32)
        return model.apply({"params": params}, tokens, prefix_lengths=lengths).logits()

    expected = jnp.argmax(full(jnp.array([text])), axis=-1)[0, len(PROMPTS[0]) - 1 : -1]
    assert new == expected.tolist()
    assert new != write(setup, PROMPTS[:1], temperature=0.0, max_tokens=6)[0]


def test_the_seed_decides(setup):
    first = write(setup, PROMPTS, seed=1)
    assert first == write(setup, PROMPTS, seed=1)
    assert first != write(setup, PROMPTS, seed=2)


@pytest.mark.parametrize("max_tokens", [10, 50])
def test_a_row_does_not_depend_on_rows_behind_it(setup, max_tokens):
    together = write(setup, [*PROMPTS, list(range(11)) * 2], max_tokens=max_tokens)
    assert together[:2] == write(setup, PROMPTS[:2], max_tokens=max_tokens)


def test_more_tokens_begin_with_the_fewer(setup):
    assert write(setup, PROMPTS, max_tokens=12)[1][:5] == write(setup, PROMPTS, max_tokens=5)[1]


def test_a_text_longer_than_the_context_goes_on_from_its_second_half(setup):
    new = write(setup, [[3]], max_tokens=60, temperature=0.0)[0]
    text, context = [3], []
    while len(text) < 61:
        context = text[-16:]  # half of max_len is read again, the other half is written
        for _ in range(16):
            context.append(likeliest(setup, context))
            text.append(context[-1])
    assert new == text[1:61]


def test_sampling_follows_the_distribution(setup):
    model, params = setup
    rows = write(setup, [[5, 2]] * 3000, max_tokens=1, temperature=1.0)
    counts = np.bincount([row[0] for row in rows], minlength=11) / 3000
    probs = jax.nn.softmax(model.apply({"params": params}, jnp.array([[5, 2]])).logits()[0, -1])
    assert np.abs(counts - np.asarray(probs)).max() < 4 * np.sqrt(0.25 / 3000)


def test_a_row_stops_before_the_end_token(setup):
    free = write(setup, [[1, 2, 3]], temperature=0.0)[0]
    stopped = write(setup, [[1, 2, 3]], temperature=0.0, eos_id=free[4])[0]
    assert stopped == free[: free.index(free[4])]


@pytest.mark.parametrize(
    ("prompts", "kwargs", "message"),
    [
        ([], {}, "at least one token"),
        ([[1], []], {}, "at least one token"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_wrong_requests_are_named(setup, prompts, kwargs, message):
    with pytest.raises(ValueError, match=message):
        write(setup, prompts, **kwargs)
