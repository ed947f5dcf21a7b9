"""Masked, span-corrupted, prefix and fill-in-the-middle text as tasks: batches, evaluation, refusals."""

import numpy as np
import pytest

from jaxlm.data.tasks.fim import FimTextTask
from jaxlm.data.tasks.masked import MaskedTextTask
from jaxlm.data.tasks.prefix import PrefixTextTask
from jaxlm.data.tasks.spans import SpanTextTask


@pytest.fixture
def text(tmp_path, monkeypatch):
    """100 characters, the byte at place i being i: the last 10 are for validation."""
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "count.txt"
    path.write_bytes(bytes(range(100)))
    return path


def make(kind, path, **fields):
    return kind(kind.Config(path=str(path), **fields))


def test_masked_windows(text):
    task = make(MaskedTextTask, text, seq_len=8, mask_rate=0.25)
    assert task.info.vocab_size == 257 + 4 and task.tokenizer.decode([260]) == "[MASK]"
    for example in task.train(0)._getitems(range(20)):
        assert (np.diff(example["targets"]) == 1).all() and example["weights"].sum() == 2
        kept = example["weights"] == 0
        assert (example["tokens"] == example["targets"])[kept].all()
        assert set(example["tokens"][~kept]) <= {*range(256), 260}


def test_masked_evaluation_literally(text):
    task = make(MaskedTextTask, text, seq_len=8, mask_rate=1.0)
    (batch,) = task.eval("val", 3)
    # 10 tokens: a window of 8, and one that begins earlier, of whose tokens two are new
    assert batch["targets"].tolist() == [[*range(90, 98)], [*range(92, 100)], [0] * 8]
    assert batch["weights"].tolist() == [[1] * 8, [0] * 6 + [1] * 2, [0] * 8]
    assert batch["tokens"][1, :6].tolist() == [*range(92, 98)]
    assert batch["id"].tolist() == [0, 1, -1]


def test_masked_show(text):
    text.write_text("the cat sat on a mat. " * 20)
    task = make(MaskedTextTask, text, seq_len=12, whole_word=True, mask_rate=0.3)
    batch = next(task.eval("val", 1))
    batch["tokens"][0] = [*b"the ", 260, 260, 260, *b" sat "]
    batch["targets"][0] = [*b"the cat sat "]
    batch["weights"][0] = [0] * 4 + [1] * 3 + [0] * 5
    assert task.show(batch, 1, np.full((1, 12), ord("o"))).splitlines() == [
        "example 0: 12 tokens, 3 scored",
        "  text     'the [MASK][MASK][MASK] sat '",
        "  hidden   260:'[MASK]' -> 99:'c' (predicted 111:'o')  260:'[MASK]' -> 97:'a' (predicted "
        "111:'o')  260:'[MASK]' -> 116:'t' (predicted 111:'o')",
    ]
    assert "whole" not in task.show(batch, 1) and "predicted" not in task.show(batch, 1)


def test_span_windows(text):
    task = make(SpanTextTask, text, seq_len=8)
    # 8 tokens of text: 1 hidden, in 1 span; 7 + 1 + <eos>, which is 9: so 7 tokens
    assert task.lengths == (7, 8, 3, 1, 1) and task.info.vocab_size == 357
    first_sentinel = 356  # <extra_id_0> is the last id, as in T5
    for example in task.train(0)._getitems(range(20)):
        source, targets = example["source"], example["targets"]
        assert source[-2:].tolist() == [first_sentinel, 256] and targets[-1] == 256
        assert targets[0] == first_sentinel and targets[1] == source[-3] + 1
        assert example["tokens"].tolist() == [0, *targets[:2]]
        assert example["weights"].tolist() == [1, 1, 1]


def test_span_evaluation_scores_every_token_at_most_once(text):
    task = make(SpanTextTask, text, seq_len=8, noise_density=0.4, mean_span=1.0)
    (batch,) = task.eval("val", 4)
    window = task.lengths.window
    assert batch["id"].tolist() == [0, 1, -1, -1] and window == 7  # 10 tokens: 7, then 3 new ones
    seen = range(90, 97)
    for row, new in ((0, range(90, 97)), (1, range(97, 100))):
        targets, weights = batch["targets"][row], batch["weights"][row]
        for place, target in enumerate(targets[:-1].tolist()):
            token = target if target < 256 else targets[place + 1]  # a sentinel goes with its gap
            assert token in (new if weights[place] else seen) and weights[-1] == 1
    text_of = task.show(batch, 1, batch["targets"])
    assert "source    '" in text_of and "<extra_id_0>" in text_of and "predicted '" in text_of


def test_prefix_windows(text):
    task = make(PrefixTextTask, text, seq_len=8)
    for example in task.train(0)._getitems(range(50)):
        length = int(example["prefix_lengths"])
        assert 1 <= length <= 8 and (example["targets"] == example["tokens"] + 1).all()
        assert example["weights"].tolist() == [0] * (length - 1) + [1] * (9 - length)
    (batch,) = task.eval("val", 2)  # 8 targets and 2
    assert batch["prefix_lengths"][1] in (1, 2) and batch["weights"][1, 2:].sum() == 0
    assert batch["weights"][1, 1] == 1
    assert "prefix   'Y" in task.show(batch, 1)


PRE, SUF, MID, EOS = 257, 258, 259, 256  # behind the bytes and <eos>


def told(tokens, targets):
    """Of a window that begins with a rearranged text: that text again, what stands behind it, and where its middle is told."""
    stream = [*tokens[:1], *targets]
    suffix, middle, end = (stream.index(one) for one in (SUF, MID, EOS))
    text = [*stream[1:suffix], *stream[middle + 1 : end], *stream[suffix + 1 : middle]]
    return text, stream[end + 1 :], slice(middle, end)


@pytest.mark.parametrize("spm_rate", [1e-9, 1.0])
def test_fim_windows(text, spm_rate):
    """A text of a random length is rearranged, what follows it stands behind: 3 tokens less than in a plain window."""
    task = make(FimTextTask, text, seq_len=10, fim_rate=0.8, spm_rate=spm_rate)
    assert task.info.vocab_size == 260 and task.tokenizer.decode([MID]) == "<fim_middle>"
    sizes, plain, suffix_first = np.zeros(8, int), 0, 0
    for example in task.train(0)._getitems(range(200)):
        tokens, targets, weights = (example[n].tolist() for n in ("tokens", "targets", "weights"))
        assert len(tokens) == 10 and tokens[1:] == targets[:-1]
        if tokens[0] != PRE:
            assert tokens == [*range(tokens[0], tokens[0] + 10)] and weights == [1] * 10
            plain += 1
            continue
        suffix_first += tokens[1] == SUF
        moved, behind, _ = told(tokens, targets)
        assert [*moved, *behind] == [*range(moved[0], moved[0] + 7)]
        assert weights == [float(target not in (SUF, MID)) for target in targets]
        sizes[len(moved)] += 1
    assert 20 < plain < 65 and sizes[0] == 0 and sizes[1:].min() > 8  # 40 and 23 expected
    assert suffix_first == 200 - plain if spm_rate == 1 else suffix_first < 100  # an empty prefix


def test_fim_windows_hold_several_pieces(text):
    """Piece behind piece of the text that goes on, until fewer than 16 places are left: these stay plain."""
    task = make(FimTextTask, text, seq_len=60, fim_rate=1.0, val_fraction=0.0)
    several = 0
    for example in task.train(0)._getitems(range(40)):
        tokens, targets = (example[name].tolist() for name in ("tokens", "targets"))
        found, pieces, rest = [], 0, [*tokens[:1], *targets]
        while rest and rest[0] == PRE:
            assert pieces == 0 or len(rest) >= 16
            moved, rest, _ = told(rest[:1], rest[1:])
            found, pieces = found + moved, pieces + 1
        assert len(rest) < 16
        assert [*found, *rest] == [*range(found[0], found[0] + 61 - 4 * pieces)]
        several += pieces > 1
    assert several > 20


def test_fim_evaluation_literally(text):
    task = make(FimTextTask, text, seq_len=8)
    (batch,) = task.eval("val", 3)  # 10 tokens: windows of 8 and 2
    assert batch["id"].tolist() == [0, 1, -1]
    for row, start, most in ((0, 90, 5), (1, 98, 2)):
        tokens, targets = batch["tokens"][row].tolist(), batch["targets"][row].tolist()
        moved, behind, middle = told(tokens, targets)
        assert moved == [*range(start, start + len(moved))] and 1 <= len(moved) <= most
        assert behind[: most - len(moved)] == [*range(moved[-1] + 1, start + most)]
        scored = np.flatnonzero(batch["weights"][row])  # the middle, and the end behind it
        assert scored.tolist() == [*range(scored[0], middle.stop)] and scored[0] >= middle.start
        assert scored[0] - middle.start in range(len(moved) + 1)  # what is no middle is the prefix
    assert batch["weights"][2].sum() == 0
    assert (batch["tokens"][:2, 1] == SUF).all()  # the suffix first


def test_fim_documents_are_cut_each_by_itself(tmp_path, monkeypatch):
    """No middle reaches over the end of its document."""
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "some.jsonl"
    path.write_text(
        "".join(f'{{"text": "{chr(97 + n % 26) * (2 + n % 7)}"}}\n' for n in range(200))
    )
    task = make(FimTextTask, path, seq_len=40, fim_rate=1.0)
    several = 0
    for example in task.train(0)._getitems(range(40)):
        stream = np.array([*example["tokens"][:1], *example["targets"]])
        documents = np.split(stream, np.flatnonzero(stream == EOS) + 1)
        moved = [one.tolist() for one in documents if PRE in one]
        assert [one.tolist() for one in documents[: len(moved)]] == moved  # plain ones stand behind
        several += len(moved) > 1
        for document in moved:
            letters = [one for one in document if one < EOS]
            assert len({*letters}) == 1 and len(document) == len(letters) + 4
            assert [document.count(one) for one in (PRE, SUF, MID, EOS)] == [1] * 4
        assert not np.isin(stream[sum(map(len, moved)) :], (PRE, SUF, MID)).any()
    assert several > 10


def test_fim_show(text):
    text.write_text("the cat sat on a mat. " * 20)
    task = make(FimTextTask, text, seq_len=9)
    batch = next(task.eval("val", 1))
    batch["tokens"][0] = [PRE, *b"the", SUF, *b"t", MID, *b" c"]
    batch["targets"][0] = [*batch["tokens"][0, 1:], ord("a")]
    batch["weights"][0] = [0] * 6 + [1] * 3
    assert task.show(batch, 1).splitlines()[1:] == [
        "  text     '<fim_prefix>the<fim_suffix>t<fim_middle> c'",
        "  targets  259:'<fim_middle>' -> 32:' '  32:' ' -> 99:'c'  99:'c' -> 97:'a'",
    ]


@pytest.mark.parametrize(
    "kind, fields",
    [
        (FimTextTask, {"spm_rate": 0.3}),
        (MaskedTextTask, {"mask_rate": 0.3}),
        (SpanTextTask, {"mean_span": 2.0}),
        (PrefixTextTask, {"seq_len": 9}),
    ],
)
def test_seeds_epochs_and_digests(text, kind, fields):
    task, again = make(kind, text, seq_len=8), make(kind, text, seq_len=8)
    rows = task.train(3)._getitems(range(40))
    same, other = again.train(3)._getitems(range(40)), again.train(4)._getitems(range(40))
    for name in rows[0]:
        assert all((a[name] == b[name]).all() for a, b in zip(rows, same, strict=True))
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(rows, other, strict=True))
    first, second = (next(t.eval("val", 2)) for t in (task, again))
    assert all((first[name] == second[name]).all() for name in first)
    assert task.info.digest == again.info.digest
    assert task.info.digest != make(kind, text, **{"seq_len": 8, **fields}).info.digest


@pytest.mark.parametrize(
    "kind, fields, message",
    [
        (MaskedTextTask, {"mask_rate": 0.0}, "data.mask_rate=0.0 must be above 0"),
        (FimTextTask, {"fim_rate": 1.1}, "data.fim_rate=1.1 must be from 0 to 1"),
        (FimTextTask, {"spm_rate": 0.0}, "data.spm_rate=0.0 must be above 0"),
        (FimTextTask, {"seq_len": 4}, "data.seq_len=4 must be at least 5"),
        (SpanTextTask, {"noise_density": 1.0}, "data.noise_density=1.0 must be between"),
        (SpanTextTask, {"mean_span": 0.5}, "data.mean_span=0.5 must be at least 1"),
        (SpanTextTask, {"seq_len": 0}, "data.seq_len=0 and the model has no max_len"),
        (SpanTextTask, {"seq_len": 2}, "data.seq_len=2 is too short"),
        (SpanTextTask, {"seq_len": 4000}, "makes .* gaps: at most 100, the number of sentinels"),
        (SpanTextTask, {"seq_len": 200}, "too short for one window of data.seq_len=200"),
    ],
)
def test_what_is_refused(text, kind, fields, message):
    with pytest.raises(ValueError, match=message):
        make(kind, text, **{"seq_len": 8, **fields})
