"""The VAE: what every model must hold, and that only z carries a text to its own score, which pays for it."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import moved

from jaxlm.core.types import LossContext
from jaxlm.decode.sampling import Sampling
from jaxlm.decode.types import Request
from jaxlm.models.rnn import RNN, RNNConfig
from jaxlm.models.vae import VAE, VAEConfig
from jaxlm.objectives import elbo

SMALL = VAEConfig(
    vocab_size=11, vocab_multiple=4, d_model=6, d_hidden=8, d_encoder=10, d_latent=3, max_len=16
)
SHAPES = {
    "both": SMALL,
    "state, gru, last, two layers": dataclasses.replace(
        SMALL, condition="state", cell="gru", pooling="last", num_layers=2, word_dropout=0.3
    ),
    "inputs, rnn, mean": dataclasses.replace(SMALL, condition="inputs", cell="rnn", pooling="mean"),
}


pytestmark = pytest.mark.usefixtures("quick_compiling")


@functools.cache
def build(config=SMALL, rows=2, length=7):
    """A model whose parameters are far enough from 0 for everything to matter."""
    model = VAE(config)
    tokens = jax.random.randint(jax.random.key(3), (rows, length + 1), 0, config.vocab_size)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(1), tokens[:, :-1]))["params"]
    return model, moved(params, jax.random.key(2), 0.3), tokens[:, :-1], tokens[:, 1:]


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def call(model, params, *args, **kwargs):
    return model.apply({"params": params}, *args, **kwargs)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_dtypes_and_jit(name):
    model, params, tokens, targets = build(SHAPES[name])
    output = call(model, params, tokens, targets)
    nll = output.token_nll(targets)
    assert output.logits().shape == (2, 7, 11) and nll.shape == (2, 7)
    assert nll.dtype == jnp.float32 and bool(jnp.isfinite(nll).all())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert {name: values.shape for name, values in output.aux.items()} == dict.fromkeys(
        ("mean_BZ", "log_var_BZ", "latent_BZ", "kl_BZ"), (2, 3)
    )
    if name == "both":
        eager = model.apply({"params": params}, tokens, targets).token_nll(targets)
        np.testing.assert_allclose(nll, eager, rtol=1e-5, atol=1e-5)


def test_probabilities_sum_to_one_over_the_vocabulary():
    """Of every token under any z, those never seen included; rows that fill the table up have none."""
    model, params, tokens, targets = build()
    for output in (
        call(model, params, tokens, targets),
        call(model, params, tokens, latent=jnp.full((2, 3), 4.0)),
    ):
        probs = [jnp.exp(-output.token_stats(jnp.full((2, 7), v)).nll) for v in range(11)]
        np.testing.assert_allclose(sum(probs), 1.0, rtol=1e-5)


def test_parameter_count_in_closed_form():
    _, params, *_ = build(dataclasses.replace(SMALL, num_layers=2, word_dropout=0.3))
    rows, d, h, e, z = 12, 6, 8, 10, 3

    def lstm(read, width):
        return 4 * width * (read + width + 1)

    encoder = rows * d + lstm(d, e) + (e + 1) * 2 * z
    latent = z * d + (z + 1) * 2 * 2 * h  # to the inputs; to two layers' two states
    decoder = rows * d + d + lstm(d, h) + lstm(h, h) + h * rows  # the second d: "unknown"
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == encoder + latent + decoder


def test_flops_leave_out_tables_and_what_is_done_once_a_text():
    model, params, *_ = build()
    products = 4 * 8 * (6 + 8 + 1) + 4 * 10 * (6 + 10 + 1) + 8 * 12
    once = 3 * 6 + 4 * 16 + 11 * 6
    assert model.flops_per_token(params, 7) == pytest.approx(6 * (products + once / 7))


@pytest.mark.parametrize("name", SHAPES)
def test_under_a_given_latent_no_token_sees_a_later_one(name):
    model, params, tokens, _ = build(SHAPES[name])
    latent = jnp.array([[1.0, -1.0, 0.5]] * 2)
    changed = tokens.at[:, 4].set((tokens[:, 4] + 1) % 11)
    before, after = (call(model, params, row, latent=latent).logits() for row in (tokens, changed))
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert float(jnp.abs(before[:, 4] - after[:, 4]).max()) > 1e-3


def test_only_the_latent_brings_what_the_encoder_read():
    model, params, tokens, targets = build()
    output = call(model, params, tokens, targets)
    under = call(model, params, tokens, latent=output.aux["latent_BZ"])
    np.testing.assert_array_equal(output.logits(), under.logits())
    again = output.under(output.aux["latent_BZ"]).logits()
    np.testing.assert_allclose(again, under.logits(), rtol=1e-5, atol=1e-6)
    other = call(model, params, tokens, latent=-output.aux["latent_BZ"])
    assert float(jnp.abs(other.logits() - under.logits()).max()) > 1e-2


@pytest.mark.parametrize("name", SHAPES)
def test_a_text_s_score_is_its_nll_and_its_divergence(name):
    model, params, tokens, targets = build(SHAPES[name])
    weights = jnp.array([[1.0] * 7, [1.0] * 4 + [0.0] * 3])
    output = call(model, params, tokens, targets, weights)
    scored = jnp.sum(output.token_nll(targets) * weights, axis=1)
    plain = jnp.sum(output.token_stats(targets).nll * weights, axis=1)
    divergence = jnp.sum(output.aux["kl_BZ"], axis=1)
    assert float(divergence.min()) > 0
    np.testing.assert_allclose(scored, plain + divergence, rtol=1e-5)
    empty = call(model, params, tokens, targets, jnp.zeros((2, 7)))
    assert bool(jnp.isfinite(empty.token_nll(targets)).all())


@pytest.mark.parametrize("name", SHAPES)
def test_filling_and_neighbours_change_no_score(name):
    model, params, tokens, targets = build(SHAPES[name])
    short = call(model, params, tokens[:1, :4], targets[:1, :4])
    weights = jnp.array([[1.0] * 4 + [0.0] * 3, [1.0] * 7])
    long = call(model, params, tokens, targets, weights)
    np.testing.assert_allclose(
        short.token_nll(targets[:1, :4]), long.token_nll(targets)[:1, :4], atol=1e-5
    )


def test_a_score_is_drawn_for_its_text_and_the_same_each_time():
    model, params, tokens, targets = build()
    one, two = (call(model, params, tokens, targets).aux["latent_BZ"] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    drawn = [
        call(model, params, tokens, targets, rngs={"latent": jax.random.key(seed)}, train=True)
        for seed in (0, 0, 1)
    ]
    first, again, other = (output.aux["latent_BZ"] for output in drawn)
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).min()) > 1e-3


def test_without_a_text_it_is_the_decoder_at_the_prior_s_mean():
    model, params, tokens, targets = build()
    plain = call(model, params, tokens)
    at_zero = call(model, params, tokens, latent=jnp.zeros((2, 3)))
    np.testing.assert_array_equal(plain.logits(), at_zero.logits())
    np.testing.assert_array_equal(plain.token_nll(targets), plain.token_stats(targets).nll)


@pytest.mark.parametrize("name", SHAPES)
def test_through_a_cache_a_text_scores_as_a_whole(name):
    model, params, tokens, _ = build(SHAPES[name])
    latent = jnp.array([[1.0, -1.0, 0.5], [0.2, 0.0, -2.0]])
    whole = call(model, params, tokens, latent=latent).logits()
    cache = model.init_cache(params, 2, 7, latent=latent)
    first, cache = model.extend(params, cache, tokens[:, :4], jnp.array([4, 2]))
    np.testing.assert_allclose(first.logits()[0], whole[0, :4], atol=1e-5)
    np.testing.assert_allclose(first.logits()[1, :2], whole[1, :2], atol=1e-5)
    rest = jnp.stack([tokens[0, 4:7], tokens[1, 2:5]])
    second, cache = model.extend(params, cache, rest, jnp.array([3, 3]))
    np.testing.assert_allclose(second.logits()[0], whole[0, 4:7], atol=1e-5)
    np.testing.assert_allclose(second.logits()[1], whole[1, 2:5], atol=1e-5)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {2}


def test_without_its_latent_the_decoder_is_the_recurrent_language_model():
    model, params, tokens, _ = build(dataclasses.replace(SMALL, condition="inputs"))
    sizes = {"num_layers": 1, "d_model": 6, "d_hidden": 8, "tie_embeddings": False}
    plain = RNN(RNNConfig(vocab_size=11, vocab_multiple=4, **sizes))
    own = {"embed": params["embed"], "block_0": params["blocks_0"], "head": params["head"]}
    np.testing.assert_allclose(
        call(model, params, tokens).logits(), call(plain, own, tokens).logits(), atol=1e-5
    )


def test_word_dropout_reads_its_own_vector_in_training_only():
    model, params, tokens, _ = build(dataclasses.replace(SMALL, word_dropout=0.5))
    latent = jnp.zeros((2, 3))
    plain = call(model, params, tokens, latent=latent)
    moved_on = params | {"unknown": params["unknown"] + 1}
    np.testing.assert_array_equal(
        plain.logits(), call(model, moved_on, tokens, latent=latent).logits()
    )

    def train(params, seed):
        rngs = {"dropout": jax.random.key(seed)}
        return call(model, params, tokens, latent=latent, train=True, rngs=rngs).logits()

    np.testing.assert_array_equal(train(params, 0), train(params, 0))
    assert float(jnp.abs(train(params, 0) - train(params, 1)).max()) > 1e-2
    assert float(jnp.abs(train(params, 0) - train(moved_on, 0)).max()) > 1e-2


def test_two_texts_are_learned_by_heart_through_their_latents():
    model, _, tokens, targets = build(dataclasses.replace(SMALL, d_hidden=16), length=6)
    tokens = jnp.zeros_like(tokens)  # nothing but z tells them apart
    params = nn.unbox(jax.jit(model.init)(jax.random.key(1), tokens))["params"]
    batch = {"tokens": tokens, "targets": targets, "weights": jnp.ones(targets.shape)}
    objective = elbo.ELBO(elbo.Config(kl_warmup_fraction=1 / 3, num_steps=150), model)
    tx = optax.adam(3e-2)

    @jax.jit
    def update(params, opt_state, step):
        def loss(params):
            ctx = LossContext({}, {}, step, jax.random.fold_in(jax.random.key(0), step))
            out = objective(params, ctx, batch)
            return sum(out.sums.values()) / 12, out.report

        grads, report = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, report

    opt_state = tx.init(params)
    for step in range(150):
        params, opt_state, report = update(params, opt_state, jnp.int32(step))
    found = {name: float(sums.total / sums.weight) for name, sums in report.items()}
    assert found["nll"] < 0.1
    assert np.log(2) < found["kl"] < 4  # which of two texts it is: a bit, and little more


# --- writing -------------------------------------------------------------------------------------------------------


def test_a_row_writes_under_the_latent_of_its_own_seed():
    model, params, *_ = build()
    params = params | {"head": {"kernel": params["head"]["kernel"] * 8}}

    def write(seeds, max_len):
        prompts = [[1] * (1 + seed % 3) for seed in seeds]  # contexts are full one after the other
        request = Request(prompts, 12, max_len, seeds=seeds)
        written = Sampling(temperature=0.0).write(model, params, request)
        return [one.tokens for (one,) in written]

    for max_len in (16, 6):  # with room for all, and reading the text so far again
        several = write([5, 6, 7, 8], max_len)
        assert write([8, 7, 6, 5], max_len) == several[::-1]
    assert several[0] != several[3]  # behind one prompt, greedily: only z differs


def test_a_cache_s_latent_is_given_drawn_or_zero():
    model, params, *_ = build()
    seeds = jnp.array([3, 4], jnp.uint32)
    drawn = model.init_cache(params, 2, 8, seeds=seeds).latent_BZ
    assert float(jnp.abs(drawn[0] - drawn[1]).max()) > 1e-3
    given = model.init_cache(params, 2, 8, seeds=seeds, latent=jnp.ones((2, 3))).latent_BZ
    np.testing.assert_array_equal(given, jnp.ones((2, 3)))
    np.testing.assert_array_equal(model.init_cache(params, 2, 8).latent_BZ, jnp.zeros((2, 3)))


# --- what is refused -----------------------------------------------------------------------------------------------


def test_in_training_nobody_reads_the_answers_for_nothing():
    model, params, tokens, targets = build()
    with pytest.raises(ValueError, match='objective.kind="elbo"'):
        call(model, params, tokens, targets, train=True)
    with pytest.raises(ValueError, match="targets and latent"):
        call(model, params, tokens, targets, latent=jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "mamba"}, "model.cell='mamba': accepted are rnn, gru, lstm"),
        ({"pooling": "sum"}, "model.pooling='sum': accepted are last, mean, max"),
        ({"condition": "none"}, "model.condition='none': accepted are state, inputs, both"),
        ({"d_latent": 0}, "model.d_latent=0 must be at least 1"),
        ({"word_dropout": 1.0}, "model.word_dropout=1.0 must be in"),
        ({"dtype": "float16"}, "model.dtype='float16'"),
    ],
)
def test_a_wrong_config_names_the_key(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)
