"""What is read through a cache scores as the whole text does, at every position, for every family; and caches rewind."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode.cache import take_rows
from jaxlm.layers.attention import RING_SLACK
from jaxlm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxlm.models.glm import GLM, GLMConfig
from jaxlm.models.gpt import GPT, GPTConfig
from jaxlm.models.t5 import T5, T5Config

QUICK = {"xla_backend_optimization_level": 0}  # compiled sooner
LENGTH = 64
GPT2 = GPTConfig(vocab_size=50, num_layers=2, d_model=16, num_heads=4, d_ff=32, max_len=LENGTH)
LLAMA = dataclasses.replace(
    GPT2,
    positions="rotary",
    norm="rmsnorm",
    mlp="swiglu",
    bias=False,
    num_kv_heads=2,
    tie_embeddings=False,
)
WINDOW = dataclasses.replace(LLAMA, window=5)  # a ring of 5 + RING_SLACK slots
OLD_T5 = T5Config(
    vocab_size=50,
    num_layers=1,
    num_decoder_layers=2,
    d_model=16,
    num_heads=3,
    head_dim=6,
    d_ff=32,
    relative_buckets=8,
    relative_max_distance=12,
)
OLD_GLM = GLMConfig(
    vocab_size=50, num_layers=2, d_model=16, num_heads=4, d_ff=32, max_len=LENGTH, mask_id=48
)
OF_2017 = EncoderDecoderConfig(
    vocab_size=50,
    num_layers=1,
    num_decoder_layers=2,
    d_model=16,
    num_heads=2,
    d_ff=32,
    max_len=LENGTH,
)
MODELS = {GPTConfig: GPT, T5Config: T5, GLMConfig: GLM, EncoderDecoderConfig: EncoderDecoder}
FAMILIES = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qk_norm and soft cap": dataclasses.replace(LLAMA, qk_norm=True, attention_soft_cap=2.0),
    "alibi": dataclasses.replace(GPT2, positions="alibi"),
    "window": WINDOW,
    "window and alibi": dataclasses.replace(GPT2, positions="alibi", window=9),
    "prefix": LLAMA,
    "prefix and window": WINDOW,
    "scanned": dataclasses.replace(LLAMA, scan_layers=True),
    "experts": dataclasses.replace(  # capacity is of training: here nothing is dropped
        LLAMA, num_layers=1, num_experts=4, num_shared_experts=1, expert_d_ff=8, capacity_factor=0.5
    ),
    "scanned window": dataclasses.replace(WINDOW, scan_layers=True),
    "t5 1.0": OLD_T5,
    "t5 1.1": dataclasses.replace(OLD_T5, mlp="geglu", tie_embeddings=False),
    "t5 experts": dataclasses.replace(OLD_T5, num_experts=3, experts_per_token=1),
    "t5 scanned": dataclasses.replace(OLD_T5, scan_layers=True, num_decoder_layers=None),
    "encoder-decoder": OF_2017,
    "encoder-decoder additive": dataclasses.replace(
        OF_2017,
        scan_layers=True,
        post_norm=False,
        positions="learned",
        cross_attention="additive",
    ),
    "encoder-decoder of today": dataclasses.replace(
        OF_2017, post_norm=False, norm="rmsnorm", mlp="swiglu", bias=False, share_embeddings=False
    ),
    "glm": OLD_GLM,
    "glm rotary": dataclasses.replace(OLD_GLM, positions="rotary"),
    "glm scanned": dataclasses.replace(OLD_GLM, scan_layers=True),
}
RING = WINDOW.window + RING_SLACK
# Tokens of each row in each block, for three rows whose texts end at 64: as long as the ring, longer, shorter.
BLOCKS = [[RING, 45, 3], [1, 1, 1], [0, 1, 40], [1, 0, 1], [9, 5, 9], [16, 12, 10]]


class Family:
    """A model of one family, three texts, what it makes of them in one forward pass, and its cache."""

    def __init__(self, name):
        config = FAMILIES[name]
        keys = jax.random.split(jax.random.key(0), 3)
        self.tokens = jax.random.randint(keys[0], (3, LENGTH), 0, config.vocab_size)
        self.prefix = jnp.asarray(BLOCKS[0]) if name.startswith("prefix") else None
        inputs, self.inputs = {}, {}
        if "source" in MODELS[type(config)].inputs:
            source = jax.random.randint(keys[1], (3, 7), 0, 48)
            source = source.at[jnp.array([0, 1]), jnp.array([3, 5])].set(48)  # GLM's [MASK]
            real = (jnp.arange(7)[None] < jnp.array([[7], [4], [1]])).astype(jnp.int32)
            inputs = self.inputs = {"source": source, "source_segment_ids": real}
        elif self.prefix is not None:
            inputs = {"prefix_lengths": self.prefix}
        self.model = MODELS[type(config)](config)
        made = nn.unbox(jax.eval_shape(self.model.init, keys[2], self.tokens, **inputs))["params"]
        draw = np.random.default_rng(0).normal
        self.params = jax.tree.map(lambda a: 0.3 * draw(size=a.shape).astype(np.float32), made)
        quick = functools.partial(jax.jit, compiler_options=QUICK)
        run = quick(lambda params: self.model.apply({"params": params}, self.tokens, **inputs))
        self.full = np.asarray(run(self.params).logits())
        self._init = quick(self.model.init_cache, static_argnums=(1, 2))
        self._extend = quick(self.model.extend)

    def empty(self):
        return self._init(self.params, 3, LENGTH, **self.inputs)

    def read(self, cache, counts, width, rows=(0, 1, 2), check=True):
        """Read the next counts[b] tokens of the texts `rows`; filling is token 49. All scores must be right."""
        block = np.full((len(counts), width), 49, np.int32)
        starts = np.asarray(cache.lengths_B)
        for place, (row, start, count) in enumerate(zip(rows, starts, counts, strict=True)):
            block[place, :count] = self.tokens[row, start : start + count]
        first = self.prefix is not None and not starts.any()
        both_ways = (self.prefix,) if first else ()
        output, cache = self._extend(self.params, cache, block, jnp.asarray(counts), *both_ways)
        logits = np.asarray(output.logits())
        for place, (row, start, count) in enumerate(zip(rows, starts, counts, strict=True)):
            if check:
                expected = self.full[row, start : start + count]
                np.testing.assert_allclose(logits[place, :count], expected, rtol=0, atol=1e-5)
        assert cache.lengths_B.tolist() == (starts + np.asarray(counts)).tolist()
        return cache


family = functools.cache(Family)


SLOW = (
    "t5 scanned",
    "t5 experts",
    "prefix and window",
    "encoder-decoder additive",
    "encoder-decoder of today",
    "glm rotary",
    "glm scanned",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES],
)
def test_every_position_scores_as_in_the_whole_text_in_ragged_blocks_and_single_steps(name):
    of = family(name)
    cache = of.empty()
    for counts in BLOCKS:
        wide = (
            48 if max(counts) > 16 or "window" not in name else 16
        )  # also fewer than a ring's slack
        cache = of.read(cache, counts, 1 if max(counts) == 1 else wide)
    assert cache.lengths_B.tolist() == [64, 64, 64]


@pytest.mark.parametrize("name", ["llama", "window", "scanned window", "t5 1.0", "glm"])
def test_rows_can_be_taken_in_any_order_and_twice(name):
    of = family(name)
    cache = of.read(of.empty(), [RING, 45, 3], 48)
    cache = take_rows(cache, jnp.array([2, 0, 2]))
    of.read(cache, [1, 1, 1], 1, rows=(2, 0, 2))


ADDITIVE = pytest.param("encoder-decoder additive", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["gpt2", "window", "scanned window", "t5 1.0", "glm", ADDITIVE])
def test_rewound_positions_are_as_if_never_written(name):
    of = family(name)
    cache = of.read(of.empty(), [45, 20, 3], 48)
    wrong = of.tokens
    try:
        of.tokens = jnp.full_like(
            wrong, 7
        )  # other texts: as many positions as a ring can take back
        cache = of.read(cache, [1, RING_SLACK, 2], 48, check=False)
        for _ in range(3):
            cache = of.read(cache, [1, 0, 1], 1, check=False)
    finally:
        of.tokens = wrong
    assert cache.lengths_B.tolist() == [49, 52, 8]
    cache = of.model.rewind(
        cache, jnp.array([45, 20, 60])
    )  # a row that holds less keeps what it has
    assert cache.lengths_B.tolist() == [45, 20, 8]
    cache = of.read(take_rows(cache, jnp.array([0, 1, 1])), [1, 1, 1], 1, rows=(0, 1, 1))
    of.read(cache, [15, 30, 2], 48, rows=(0, 1, 1))


def test_a_ring_takes_no_more_room_for_a_longer_text():
    short, long = (GPT(WINDOW).init_cache({}, 2, length) for length in (RING, 10**9))
    assert jax.tree.map(jnp.shape, short) == jax.tree.map(jnp.shape, long)
    assert long.layers[0].v_BGSK.shape == (2, 2, RING, 4)
    assert GPT(WINDOW).init_cache({}, 2, 11).layers[0].v_BGSK.shape == (2, 2, 11, 4)


def test_filling_does_not_spoil_what_stands_at_the_end_of_a_full_cache():
    """A block that is wider than the room behind a row."""
    of = family("llama")
    cache = of.read(of.empty(), [40, 40, 40], 48)
    cache = of.read(cache, [23, 23, 20], 48)
    of.read(cache, [1, 1, 4], 48)


@pytest.mark.parametrize("name", ["llama", "scanned window", "t5 1.0", "glm", ADDITIVE])
def test_every_leaf_has_the_batch_first(name):
    for leaf in jax.tree.leaves(family(name).empty()):
        assert leaf.shape[0] == 3
