"""Gaps filled one after the other: what is asked for in which order, what comes of it; no model."""

import pytest

from jaxlm.decode import infilling
from jaxlm.decode.texts import Text


class Gaps:
    """Reads the text with "_" for the gap that is asked for, and how long the filling may be."""

    max_len = 40

    def __init__(self, several=True):
        self.several = several

    def read(self, parts, max_tokens):
        return ["_".join(parts), max_tokens]


class Write:
    """Fills the n-th gap that it is asked for with n, n times."""

    def __init__(self):
        self.asked, self.count = [], 0

    def __call__(self, reads, *, max_tokens, seed, on_text, **options):
        self.asked.append((reads, max_tokens, seed, options))
        found = []
        for row in range(len(reads)):
            self.count += 1
            text = str(self.count) * self.count
            if on_text is not None:
                for letter in text:
                    on_text(row, letter)
            found.append([Text(text, [0], "end", 0.0)])
        return found


def test_the_first_gap_of_each_text_then_the_second():
    write, pieces = Write(), ["", ""]

    def on_text(number, piece):
        pieces[number] += piece

    texts = ["[MASK]c", "a[MASK]b[MASK]"]
    found = infilling.fill(texts, Gaps(), write, seed=5, on_text=on_text, top_k=3)
    assert write.asked == [
        ([["_c", 10], ["a_b_", 10]], 10, [5, 6], {"top_k": 3}),
        ([["a22b_", 10]], 10, [6 + 2**20], {"top_k": 3}),
    ]
    assert [one.text for one in found] == pieces == ["1c", "a22b333"]
    assert [[filling.text for filling in one.fillings] for one in found] == [["1"], ["22", "333"]]


def test_blanks_are_text_of_any_kind():
    (found,) = infilling.fill(["a.*b"], Gaps(False), Write(), blank=".*", max_tokens=3)
    assert found.text == "a1b"
    (found,) = infilling.fill(["[MASK]"], Gaps(False), Write(), seed=1)
    assert found.text == "1"


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["ab"], {}, r"texts\[0\] has no blank='\[MASK\]' in it: 'ab'"),
        (["a[MASK]", "[MASK]b[MASK]"], {}, r"texts\[1\] has 2 times .* fills one gap a text"),
        (["a[MASK]"], {"blank": ""}, "blank='' must be a text"),
        ([[1, 2]], {}, r"texts\[0\]=\[1, 2\] must be a text"),
        (["a[MASK]"], {"num_return": 2}, "num_return=2: a gap is filled once"),
    ],
)
def test_what_is_refused(texts, options, message):
    write = Write()
    with pytest.raises(ValueError, match=message):
        infilling.fill(texts, Gaps(several=False), write, **options)
    assert not write.asked
