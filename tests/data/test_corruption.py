"""Corruptions: literal examples by hand, exact counts, shares, and spans that invert to the input."""

import numpy as np
import pytest

from jaxlm.data import corruption, shuffle, tokenizers

KEY = shuffle.make_key(7)
SPECIAL = np.array([True] + [False] * 20)  # of a vocabulary of 21 ids, 0 is special; 20 is [MASK]


def fixed(monkeypatch, **numbers):
    """Random numbers by purpose: those of the test instead of a key's."""
    by_purpose = {getattr(corruption, f"_{name}"): values for name, values in numbers.items()}
    monkeypatch.setattr(
        corruption,
        "random_numbers",
        lambda key, purpose, count: np.array(by_purpose[purpose][:count], np.uint64),
    )
    # and "below a bound" as the remainder, which a person can compute
    monkeypatch.setattr(
        shuffle, "random_below", lambda keys, bounds: keys.astype(np.int64) % bounds
    )


def test_masking_by_hand(monkeypatch):
    #                 0  1  2   3   4   5   6   7   8   9
    ids = np.array([0, 5, 6, 7, 8, 9, 10, 11, 12, 0], np.int32)  # 8 candidates: 4 of them at 0.5
    fixed(
        monkeypatch,
        CHOOSE=[0, 40, 10, 90, 20, 80, 30, 70, 60, 1],  # smallest among places 1-8: 2, 4, 6, 1
        KIND=[0, 7, 8, 0, 9, 0, 3, 0, 0, 0],  # place 1 [MASK], 2 random, 4 as it was, 6 [MASK]
        RANDOM=[0, 0, 13, 0, 0, 0, 0, 0, 0, 0],  # the 13th ordinary id, counted from 0, is 14
    )
    tokens, chosen = corruption.mask_tokens(ids, KEY, mask_id=20, special_V=SPECIAL, rate=0.5)
    assert tokens.tolist() == [0, 20, 14, 7, 8, 9, 20, 11, 12, 0]
    assert np.flatnonzero(chosen).tolist() == [1, 2, 4, 6]


def test_masking_whole_words_by_hand(monkeypatch):
    pieces = ["", " un", "do", " it", ".", " a", "way"]  # 1 2 is "undo", 5 6 "away"
    words = corruption.word_table(pieces)
    ids = np.array([5, 6, 1, 2, 3, 4], np.int32)  # away undo it .
    assert corruption.word_numbers(ids, words).tolist() == [0, 0, 1, 1, 2, 3]
    special = np.array([True] + [False] * 6)
    # words in the order "undo" (2 tokens), "away" (too long for the one left), "." (1 token)
    fixed(monkeypatch, CHOOSE=[2, 1, 9, 3], KIND=[0] * 6, RANDOM=[0] * 6)
    tokens, chosen = corruption.mask_tokens(
        ids, KEY, mask_id=0, special_V=special, rate=0.5, words=words
    )
    assert tokens.tolist() == [5, 6, 0, 0, 3, 0] and chosen.tolist() == [0, 0, 1, 1, 0, 1]
    # a share of one token, and no word that short among these: the shortest word, whole
    _, chosen = corruption.mask_tokens(
        ids[:4], KEY, mask_id=0, special_V=special, rate=0.01, words=words
    )
    assert chosen.sum() == 2


def test_words_of_bytes():
    bytes_tokenizer = tokenizers.build("bytes")
    ids = bytes_tokenizer.encode("No, it's é2!")
    numbers = corruption.word_numbers(ids, corruption.word_table(bytes_tokenizer.pieces()))
    #  N  o  ,  _it     '  s  _é(2 bytes)2 !
    assert numbers.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 5, 5, 6]


def test_how_many_are_masked_and_how():
    rng = np.random.default_rng(0)
    kinds = np.zeros(3)
    special = np.zeros(1001, bool)
    special[1000] = True
    for number in range(100):
        ids = rng.integers(0, 1000, 128).astype(np.int32)
        tokens, chosen = corruption.mask_tokens(
            ids, shuffle.make_key(number), mask_id=1000, special_V=special
        )
        assert chosen.sum() == 19  # 0.15 * 128 = 19.2
        assert (tokens == ids)[~chosen].all()
        masked, same = tokens[chosen] == 1000, tokens[chosen] == ids[chosen]
        kinds += masked.sum(), same.sum(), (~masked & ~same).sum()
    np.testing.assert_allclose(kinds / kinds.sum(), [0.8, 0.1, 0.1], atol=0.03)  # 1900 drawn: 2.4 s
    one = corruption.mask_tokens(ids[:2], KEY, mask_id=1000, special_V=special)[1]
    assert one.sum() == 1  # at least one
    allowed = np.arange(128) >= 120
    _, chosen = corruption.mask_tokens(
        ids, KEY, mask_id=1000, special_V=special, allowed_T=allowed, rate=0.5
    )
    assert chosen.sum() == 4 and not chosen[:120].any()
    none = corruption.mask_tokens(np.full(3, 1000, np.int32), KEY, mask_id=0, special_V=special)[1]
    assert not none.any()


def test_masking_is_a_function_of_the_key():
    ids = np.arange(1, 20, dtype=np.int32).repeat(20)
    once, again, other = (
        corruption.mask_tokens(ids, shuffle.make_key(k), mask_id=20, special_V=SPECIAL)[0]
        for k in (1, 1, 2)
    )
    assert (once == again).all() and (once != other).any()


def test_lengths_of_the_t5_library():
    """As random_spans_helper computes them; 568 and 114 are in every T5 pretraining script."""
    lengths = corruption.span_lengths(512)
    assert (lengths.window, lengths.source, lengths.targets) == (568, 512, 114)
    assert (lengths.num_noise, lengths.num_spans) == (85, 28)
    # by hand: of 141 tokens round(21.15) = 21 are hidden in 7 spans: 120 + 7 + 1 and 21 + 7 + 1
    assert corruption.span_lengths(128) == (141, 128, 29, 21, 7)
    assert corruption.span_lengths(3) == (2, 3, 3, 1, 1)
    with pytest.raises(ValueError, match="data.seq_len=2 is too short"):
        corruption.span_lengths(2)


def test_spans_by_hand(monkeypatch):
    """The example of Raffel et al., figure 2, less the last sentinel: the text ends in a gap."""
    text = "Thank you for inviting me to your party last week".split()
    lengths = corruption.SpanLengths(10, 9, 6, 3, 2)
    # hidden tokens 3 = 2 + 1 (a cut after the second), kept ones 7 = 2 + 5 (after the second)
    fixed(monkeypatch, NOISE=[5, 1], KEPT=[9, 2, 9, 9, 9, 9])
    hidden = corruption.noise_mask(lengths, KEY)
    assert [t for t, h in zip(text, hidden, strict=True) if h] == ["for", "inviting", "week"]
    source, targets = corruption.corrupt_spans(
        np.arange(10, dtype=np.int32), hidden, np.array([90, 91, 92]), 99
    )
    # Thank you <X> me to your party last <Y> </s>    <X> for inviting <Y> week </s>
    assert source.tolist() == [0, 1, 90, 4, 5, 6, 7, 8, 91, 99]
    assert targets.tolist() == [90, 2, 3, 91, 9, 99]
    assert corruption.shifted_right(targets).tolist() == [0, 90, 2, 3, 91, 9]


def restored(source, targets, num_ids):
    """The text again: every sentinel of the source replaced by what follows it in the targets."""
    spans = np.split(targets[:-1], np.flatnonzero(targets[:-1] >= num_ids))[1:]
    gaps = {span[0]: span[1:].tolist() for span in spans}
    return [i for token in source[:-1].tolist() for i in gaps.get(token, [token])]


def test_spans_invert_to_the_input():
    lengths = corruption.span_lengths(128)
    sentinels, rng = np.arange(1000, 1100), np.random.default_rng(0)
    sizes = []
    for number in range(200):
        ids = rng.integers(0, 1000, lengths.window).astype(np.int32)
        hidden = corruption.noise_mask(lengths, shuffle.make_key(number))
        source, targets = corruption.corrupt_spans(ids, hidden, sentinels, 1)
        assert (len(source), len(targets)) == (128, 29) and hidden.sum() == 21
        assert restored(source, targets, 1000) == ids.tolist()
        sizes += np.diff(np.flatnonzero(np.append(targets[:-1] >= 1000, True))).tolist()
    sizes = np.array(sizes) - 1
    # seven lengths of at least 1 that sum to 21: each is 1 in C(19, 5) of C(20, 6) cases
    assert sizes.mean() == 3 and abs((sizes == 1).mean() - 0.3) < 0.04


def test_prefix_lengths_are_uniform():
    lengths = [corruption.prefix_length(8, shuffle.make_key(k)) for k in range(4000)]
    counts = np.bincount(lengths, minlength=9)
    assert counts[0] == 0 and len(counts) == 9
    assert counts[1:].min() > 400 and counts[1:].max() < 600  # 500 expected, 21 deviation


def test_a_middle_is_told_last_by_hand(monkeypatch):
    """The text a b c d e f, cut behind b and behind e: PRE a b SUF f MID c d e EOS, or with the suffix first."""
    ids, sentinels = np.arange(1, 7, dtype=np.int32), (90, 91, 92)
    fixed(monkeypatch, CUTS=[5, 2])
    moved, gap = corruption.fill_in_the_middle(ids, KEY, "psm", sentinels, 99)
    assert moved.tolist() == [90, 1, 2, 91, 6, 92, 3, 4, 5, 99]
    assert gap.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    moved, gap = corruption.fill_in_the_middle(ids, KEY, "spm", sentinels, 99)
    assert moved.tolist() == [90, 91, 6, 92, 1, 2, 3, 4, 5, 99]
    assert gap.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    fixed(monkeypatch, CUTS=[6, 6])  # both cuts at the end
    moved, gap = corruption.fill_in_the_middle(ids, KEY, "psm", sentinels, 99)
    assert moved.tolist() == [90, *range(1, 7), 91, 92, 99] and gap.sum() == 1


def together(moved):
    """The text again, from either order, by what the sentinels 90, 91, 92 say."""
    first, second = np.flatnonzero(moved == 91)[0], np.flatnonzero(moved == 92)[0]
    prefix, suffix, rest = moved[1:first], moved[first + 1 : second], moved[second + 1 : -1]
    return [*prefix, *rest, *suffix]


def test_a_moved_text_inverts_and_cuts_are_uniform():
    ids, places = np.arange(1, 10, dtype=np.int32), np.zeros((10, 10))
    for number in range(4000):
        key = shuffle.make_key(number)
        told = {
            order: corruption.fill_in_the_middle(ids, key, order, (90, 91, 92), 99)
            for order in ("psm", "spm")
        }
        for moved, _ in told.values():
            assert together(moved) == ids.tolist() and moved[-1] == 99
        assert (told["psm"][1] == told["spm"][1]).all()  # the same middle
        moved = told["psm"][0]
        start = np.flatnonzero(moved == 91)[0] - 1
        places[start, start + told["psm"][1].sum() - 1] += 1
    assert (np.tril(places, -1) == 0).all()
    expected = 4000 * np.where(np.eye(10), 1, 2) / 100  # of 100 pairs of cuts
    assert np.abs((places - expected)[np.triu_indices(10)]).max() < 5 * np.sqrt(80)


def test_shares_of_orders():
    orders = [corruption.fim_order(shuffle.make_key(n), 0.6, 0.25) for n in range(4000)]
    shares = [orders.count(order) / 4000 for order in ("plain", "psm", "spm")]
    np.testing.assert_allclose(shares, [0.4, 0.45, 0.15], atol=0.025)  # 3 deviations
    assert {corruption.fim_order(KEY, 0.0, 0.5), corruption.fim_order(KEY, 1.0, 1.0)} == {
        "plain", "spm"
    }  # fmt: skip


def test_rearranged_lengths_are_uniform():
    sizes = np.bincount([corruption.fim_length(8, shuffle.make_key(n)) for n in range(4000)])
    assert sizes[0] == 0 and len(sizes) == 9 and 400 < sizes[1:].min() < sizes.max() < 600
