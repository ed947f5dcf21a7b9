"""N-grams: modified Kneser-Ney against dictionaries, every smoothing's sums, and the contract of any model."""

from __future__ import annotations

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.data import sources
from jaxlm.models.ngram import SMOOTHINGS, NGram, NGramConfig

V, END = 12, 0
TEXT = np.random.default_rng(0).zipf(1.4, 900) % (V - 2)  # ids 10 and 11 are never seen
pytestmark = pytest.mark.usefixtures("quick_compiling")
INTERPOLATED = [name for name in SMOOTHINGS if name != "stupid_backoff"]


def trained(ids=TEXT, **settings):
    """A model and its parameters, of a text."""
    model = NGram(NGramConfig(**({"vocab_size": V, "separator": END} | settings)))
    weights = np.arange(len(ids)) > 0
    return model, model.estimated(model.counted(None, np.asarray(ids), weights))[0]


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, tokens, segment_ids=None):
    return model.apply({"params": params}, tokens, segment_ids).logits()


@functools.partial(jax.jit, static_argnums=0)
def nll_of(model, params, tokens, targets):
    return model.apply({"params": params}, tokens).token_nll(targets)


@functools.partial(jax.jit, static_argnums=0)
def read_on(model, params, cache, tokens, lengths):
    output, cache = model.extend(params, cache, tokens, lengths)
    return output.logits(), cache


def brute_force(ids, order, test, size=V):
    """Mean -log p of `test` behind its first word: Chen and Goodman 1998 in dictionaries, word by word."""
    counts = [collections.Counter() for _ in range(order + 1)]
    for end in range(1, len(ids)):
        for k in range(1, min(order, end + 1) + 1):
            gram = tuple(ids[end - k + 1 : end + 1])
            if END not in gram[1:-1]:
                counts[k][gram] += 1
    discounts, behind = [None], [None]
    for k in range(1, order + 1):
        left = collections.defaultdict(set)
        for gram in counts[k + 1] if k < order else ():
            left[gram[1:]].add(gram[0])
        adjusted = {
            gram: len(left[gram]) if left[gram] and not (k > 1 and gram[0] == END) else n
            for gram, n in counts[k].items()
        }
        n1, n2, n3, n4 = ([*adjusted.values()].count(times) for times in (1, 2, 3, 4))
        chosen = (0.5, 1.0, 1.5)
        if n1 and n2 and n3 and n4:
            share = n1 / (n1 + 2 * n2)
            found = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
            if all(0 <= d <= times for times, d in zip((1, 2, 3), found, strict=True)):
                chosen = found
        discounts.append(chosen)
        contexts = collections.defaultdict(dict)
        for gram, n in adjusted.items():
            contexts[gram[:-1]][gram[-1]] = n
        behind.append(contexts)

    def probability(word, context):
        k = len(context) + 1
        lower = probability(word, context[1:]) if context else 1 / size
        words = behind[k].get(context)
        if not words:
            return lower
        taken = {w: min(discounts[k][min(n, 3) - 1], n) for w, n in words.items()}
        own = words.get(word, 0) - taken.get(word, 0)
        return (own + sum(taken.values()) * lower) / sum(words.values())

    total = 0.0
    for end in range(1, len(test)):
        context = tuple(test[max(0, end - order + 1) : end])
        if END in context:
            context = context[len(context) - 1 - context[::-1].index(END) :]
        total -= math.log(probability(test[end], context))
    return total / (len(test) - 1)


@pytest.mark.parametrize(
    ("order", "unit"), [(1, "zipf"), (2, "zipf"), (3, "zipf"), (5, "zipf"), (5, "chars"), (5, "words")]
)  # fmt: skip
def test_modified_kneser_ney_is_the_brute_forces(order, unit):
    """In bits a token; of lines of verse, which end in a separator, their characters and their words."""
    text, size = (TEXT.tolist(), V) if unit == "zipf" else verse(unit)
    cut = len(text) * 2 // 3
    model, params = trained(text[:cut], order=order, vocab_size=size)
    rows = np.array([text[cut:]], np.int32)
    nll = nll_of(model, params, rows[:, :-1], rows[:, 1:])
    bits = np.asarray(nll, np.float64).mean() / math.log(2)
    right = brute_force(text[:cut], order, text[cut:], size) / math.log(2)
    assert bits == pytest.approx(right, abs=1e-6)


def verse(unit):
    """Ids of the bundled text's first lines, a separator behind each, and the vocabulary's size with a word never seen."""
    length = 3_000 if unit == "chars" else 12_000
    text = "".join(piece for piece, _ in sources.open_source("bundled:shakespeare").pieces())
    known: dict[str, int] = {"": END}
    ids = [END]
    for line in text[:length].splitlines():
        ids += [
            known.setdefault(one, len(known)) for one in (line if unit == "chars" else line.split())
        ]
        ids.append(END)
    return ids, len(known) + 1


@pytest.mark.parametrize("smoothing", INTERPOLATED)
@pytest.mark.parametrize(
    "settings", [{"order": 3}, {"order": 1}, {"order": 3, "least_counts": (1, 2)}], ids=str
)
def test_probabilities_sum_to_one_behind_every_context(smoothing, settings):
    if smoothing == "add_k" and settings.get("least_counts"):
        with pytest.raises(ValueError, match=r"model\.least_counts.*interpolates"):
            NGramConfig(smoothing=smoothing, **settings)
        return
    model, params = trained(smoothing=smoothing, **settings)
    tokens = np.random.default_rng(1).integers(0, V, (4, 30), np.int32)  # most of it never seen
    probs = np.exp(logits_of(model, params, tokens))
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)
    assert (probs > 0).all()


def test_one_target_and_all_words_have_the_same_scores():
    model, params = trained(order=3)
    tokens, targets = TEXT[None, :40].astype(np.int32), TEXT[None, 1:41].astype(np.int32)

    @jax.jit
    def figures(params):
        output = model.apply({"params": params}, tokens)
        stats, at = output.token_stats(targets), output.logits(jnp.array([7]))
        return output.logits(), output.token_nll(targets), stats.nll, at

    logits, nll, also_nll, at = figures(params)
    picked = np.take_along_axis(np.asarray(logits), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(nll, -picked, atol=1e-6)
    np.testing.assert_allclose(also_nll, -picked, atol=1e-5)
    np.testing.assert_allclose(at[0], logits[0, 7], rtol=1e-6)
    plain = model.apply({"params": params}, tokens).logits()
    np.testing.assert_allclose(plain, logits, rtol=1e-6)


def test_a_window_begins_with_shorter_contexts_and_a_separator_ends_them():
    model, params = trained(order=3)
    rows = np.array([[5, END, 3, 4], [7, END, 3, 4], [END, 3, 4, 4], [1, 3, 4, 2]], np.int32)
    logits = np.asarray(logits_of(model, params, rows))
    np.testing.assert_array_equal(logits[0, 1:], logits[1, 1:])  # what was before END is forgotten
    np.testing.assert_array_equal(logits[0, 2], logits[2, 1])
    assert not np.array_equal(logits[0, 2], logits[3, 1])


def test_segments_are_texts_of_their_own():
    model, params = trained(order=4)
    tokens = TEXT[None, :12].astype(np.int32)
    packed = logits_of(model, params, tokens, np.array([[1] * 6 + [2] * 6]))
    for part in (slice(0, 6), slice(6, 12)):
        alone = logits_of(model, params, tokens[:, part])
        np.testing.assert_allclose(packed[:, part], alone, rtol=1e-6)


def test_words_behind_a_position_change_nothing_before_it():
    model, params = trained()
    tokens = TEXT[None, :20].astype(np.int32)
    other = tokens.copy()
    other[:, 12:] = 1
    first, second = (logits_of(model, params, rows) for rows in (tokens, other))
    np.testing.assert_array_equal(first[:, :12], second[:, :12])


def test_reading_on_is_reading_all_and_filling_leaves_no_trace():
    model, params = trained()
    tokens = TEXT[:24].reshape(2, 12).astype(np.int32)
    whole = np.asarray(model.apply({"params": params}, tokens).logits())
    cache = model.init_cache(params, 2, 0)
    lengths = np.array([5, 3])
    filled = np.where(np.arange(6) < lengths[:, None], tokens[:, :6], 9)
    first, cache = read_on(model, params, cache, filled, lengths)
    more = np.stack([tokens[0, 5:11], tokens[1, 3:9]])
    second, _ = read_on(model, params, cache, more, np.array([6, 6]))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(first[row, :length], whole[row, :length], rtol=1e-6)
        np.testing.assert_allclose(second[row], whole[row, length : length + 6], rtol=1e-6)


def test_a_segment_goes_on_from_what_was_carried_and_the_next_does_not():
    model, params = trained(order=4)
    tokens = TEXT[None, :12].astype(np.int32)
    whole = np.asarray(logits_of(model, params, tokens))
    segments = np.array([[1, 1, 2, 2, 0]])

    @jax.jit
    def twice(params, tokens):
        nothing = model.init_cache(params, 1, 0)
        _, carry = model.apply({"params": params}, tokens[:, :4], carry=nothing)
        output, carry = model.apply({"params": params}, tokens[:, 4:9], segments, carry=carry)
        return output.logits(), carry

    found, carry = twice(params, tokens)
    np.testing.assert_allclose(found[0, :2], whole[0, 4:6], rtol=1e-6)
    alone = logits_of(model, params, tokens[:, 6:8])
    np.testing.assert_allclose(found[:, 2:4], alone, rtol=1e-6)
    assert carry.tolist() == [[-1, *tokens[0, 6:8].tolist()]]  # of the last segment, no filling


def test_scores_of_stupid_backoff_by_hand():
    text = [END, 1, 2, 1, 2, 3]
    model, params = trained(text, order=2, smoothing="stupid_backoff")
    scores = np.exp(logits_of(model, params, np.array([[1, 3, 2]], np.int32))[0])
    assert scores[0, 2] == pytest.approx(1.0)  # 2 always follows 1
    assert scores[0, 3] == pytest.approx(0.4 * 1 / 5)  # never does 3: 0.4 x its share of the text
    assert scores[1, 1] == pytest.approx(0.4 * 2 / 5)  # nothing follows 3
    assert scores[2].sum() != pytest.approx(1.0)


def test_what_add_k_gives_by_hand():
    model, params = trained([END, 1, 2, 1, 2, 3], order=2, smoothing="add_k", add=0.5)
    probs = np.exp(logits_of(model, params, np.array([[2, 7]], np.int32))[0])
    assert probs[0, 1] == pytest.approx((1 + 0.5) / (2 + 0.5 * V))
    assert probs[0, 7] == pytest.approx(0.5 / (2 + 0.5 * V))
    np.testing.assert_allclose(probs[1], 1 / V, rtol=1e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("text", [[1, 1, 1, 1, 1], [1, 2], [1]], ids=["one_symbol", "two", "none"])
def test_a_text_shorter_than_the_order_or_of_one_symbol_is_defined(smoothing, text):
    model, params = trained(text, order=6, smoothing=smoothing)
    logits = np.asarray(logits_of(model, params, np.array([[1, 5, 1]], np.int32)))
    assert not np.isnan(logits).any()
    if model.config.gives_probabilities:
        np.testing.assert_allclose(np.exp(logits).sum(-1), 1.0, rtol=1e-5)


def test_nothing_counted_is_the_uniform_distribution():
    model = NGram(NGramConfig(vocab_size=V))
    params = model.init(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    logits = logits_of(model, params, np.array([[1, 2, 3]], np.int32))
    np.testing.assert_allclose(np.exp(logits), 1 / V, rtol=1e-6)


def test_a_long_text_is_learned_by_heart():
    model, params = trained(np.tile([1, 2, 3, 4, 5, 6], 200))
    rows = np.array([[1, 2, 3, 4, 5, 6, 1, 2, 3]], np.int32)
    nll = nll_of(model, params, rows[:, :-1], rows[:, 1:])[0]
    assert float(nll[3:].max()) < 0.01  # shorter contexts say what follows where longer ones fail


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"order": 0}, r"model\.order=0 must be from 1 to 6"),
        ({"smoothing": "kn"}, r"model\.smoothing='kn' must be one of modified_kneser_ney"),
        ({"add": 0.0}, r"model\.add=0\.0 must be above 0"),
        ({"discount": 1.0}, r"model\.discount=1\.0 must be"),
        ({"least_counts": (0,)}, r"model\.least_counts=\(0,\) must be"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, said):
    with pytest.raises(ValueError, match=said):
        NGramConfig(**settings)
