"""GLM's blanks: literal examples by hand, sizes, shares, and fillings that give back the text."""

import numpy as np
import pytest

from jaxlm.data import blanks, corruption, shuffle

MASK, EOS = 90, 99


def fixed(monkeypatch, **numbers):
    """Random numbers by purpose: those of the test; and "below a bound" is the remainder."""
    by_purpose = {getattr(blanks, f"_{name}"): values for name, values in numbers.items()}
    monkeypatch.setattr(
        corruption,
        "random_numbers",
        lambda key, purpose, count: np.array(by_purpose[purpose][:count], np.uint64),
    )
    monkeypatch.setattr(
        shuffle, "random_below", lambda keys, bounds: keys.astype(np.int64) % bounds
    )


def cut(ids, hidden, order):
    return blanks.cut_blanks(
        np.array(ids, np.int32), np.array(hidden, bool), np.array(order), mask_id=MASK, eos_id=EOS
    )


def test_figure_2_by_hand():
    """x1 to x6 with x3 and x5 x6 hidden, the second blank filled first; places count from 0 here."""
    found = cut([1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 1, 1], [1, 0])
    assert {name: values.tolist() for name, values in found._asdict().items()} == {
        "source": [1, 2, MASK, 4, MASK, EOS],
        "tokens": [0, 5, 6, 0, 3],
        "targets": [5, 6, EOS, 3, EOS],
        "positions": [4, 4, 4, 2, 2],
        "block_positions": [1, 2, 3, 1, 2],
        "places": [4, 5, 5, 2, 2],
    }


def test_a_text_of_one_blank_by_hand():
    found = cut([7, 8], [1, 1], [0])
    assert found.source.tolist() == [MASK, EOS] and found.positions.tolist() == [0, 0, 0]
    assert found.tokens.tolist() == [0, 7, 8] and found.targets.tolist() == [7, 8, EOS]


def test_where_blanks_are_by_hand(monkeypatch):
    lengths = corruption.SpanLengths(12, 10, 10, 6, 3)  # 6 of 12 tokens in 3 blanks
    fixed(
        monkeypatch,
        LENGTHS=[2, 5, 0],  # beyond one token each, two go to the last blank, one to the first
        GAPS=[
            0,
            9,
            9,
            1,
            9,
            2,
            9,
            9,
        ],  # 8 cut after 1, 4, 6: 1 3 2 2, of which the ends are one less
    )
    hidden = blanks.blank_mask(lengths, None)
    assert hidden.astype(int).tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 1, 1, 1, 0]
    fixed(monkeypatch, ORDER=[30, 10, 20])
    assert blanks.blank_order(3, None).tolist() == [1, 2, 0]


def restored(found):
    """The text again: every [MASK] replaced by what fills it."""
    starts = np.flatnonzero(found.block_positions == 1)
    fillings = {
        found.positions[part[0]]: found.targets[part[:-1]].tolist()
        for part in np.split(np.arange(len(found.tokens)), starts[1:])
    }
    source = enumerate(found.source[:-1].tolist())
    return [i for place, token in source for i in fillings.get(place, [token])]


def test_fillings_give_back_the_text():
    lengths, rng = corruption.span_lengths(128), np.random.default_rng(0)
    sizes, ends = [], 0
    for number in range(200):
        key, ids = shuffle.make_key(number), rng.integers(100, 1000, lengths.window)
        hidden = blanks.blank_mask(lengths, key)
        found = cut(ids, hidden, blanks.blank_order(lengths.num_spans, key))
        # of 141 tokens 21 are hidden in 7 blanks, none touches another
        assert (len(found.source), len(found.tokens)) == (128, 28) and hidden.sum() == 21
        assert (found.source == MASK).sum() == 7 and (found.targets == EOS).sum() == 7
        assert restored(found) == ids.tolist()
        filled = found.targets != EOS
        assert (found.targets[filled] == ids[found.places[filled]]).all()
        sizes += np.diff(np.flatnonzero(np.append(found.block_positions == 1, True))).tolist()
        ends += int(hidden[0]) + int(hidden[-1])
    sizes = np.array(sizes) - 1
    # 14 more tokens for 7 blanks: none for one of them in (6 / 7) ** 14 of all cases
    assert sizes.mean() == 3 and abs((sizes == 1).mean() - (6 / 7) ** 14) < 0.03
    # 120 tokens left make 8 gaps, the first and the last may be empty: each is in 7 of 121 cases
    assert abs(ends / 400 - 7 / 121) < 0.03


def test_order_and_places_are_a_function_of_the_key():
    lengths = corruption.span_lengths(128)
    for function in (
        lambda k: blanks.blank_mask(lengths, shuffle.make_key(k)),
        lambda k: blanks.blank_order(20, shuffle.make_key(k)),
    ):
        assert (function(1) == function(1)).all() and (function(1) != function(2)).any()
    first = [int(blanks.blank_order(4, shuffle.make_key(k))[0]) for k in range(400)]
    assert np.bincount(first).min() > 70  # 100 expected, 9 deviation


def test_a_long_blank_by_hand(monkeypatch):
    fixed(monkeypatch, CUT=[2, 4])
    # of at most 7 tokens: 4 and 2 more; of 20 - 6 places behind the first token, the fifth
    assert blanks.long_blank(20, 7, 15, None) == (5, 11)
    # a source of 3 tokens: behind the first, the second or the third one
    assert blanks.long_blank(20, 7, 3, None) == (2, 8)


@pytest.mark.parametrize(("window", "longest", "source_len"), [(20, 6, 15), (5, 9, 7), (2, 1, 2)])
def test_long_blanks_fit_and_leave_a_beginning(window, longest, source_len):
    found = [
        blanks.long_blank(window, longest, source_len, shuffle.make_key(k)) for k in range(500)
    ]
    starts, ends = np.array(found).T
    longest = min(longest, window - 1)
    assert starts.min() == 1 and starts.max() <= source_len and ends.max() <= window
    assert set(ends - starts) == set(range(-(-longest // 2), longest + 1))


def test_a_share_of_long_blanks():
    def share(wanted):
        return np.mean([blanks.is_long(wanted, shuffle.make_key(k)) for k in range(2000)])

    assert share(0.0) == 0 and share(1.0) == 1 and abs(share(0.25) - 0.25) < 0.03
