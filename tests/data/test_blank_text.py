"""Text with blanks as a task: batches, evaluation, the bytes of the blanks, refusals."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.data.tasks.blanks import BlankTextTask
from jaxlm.eval.perplexity import Perplexity
from jaxlm.models.glm import blank_places

MASK, EOS = 257, 256
FIELDS = {"seq_len": 8, "noise_density": 0.4, "mean_span": 1.5}
"""Of 8 tokens of text 3 are hidden in 2 blanks: sources of 5 + 2 + 1, targets of 3 + 2."""


@pytest.fixture
def text(tmp_path, monkeypatch):
    """100 characters, the byte at place i being i: the last 10 are for validation."""
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "count.txt"
    path.write_bytes(bytes(range(100)))
    return path


def make(path, **fields):
    return BlankTextTask(BlankTextTask.Config(path=str(path), **{**FIELDS, **fields}))


def fillings(example):
    """(place in the source, tokens read, targets) of each blank."""
    starts = np.flatnonzero(example["block_positions"] == 1)
    for part in np.split(np.arange(len(example["tokens"])), starts[1:]):
        assert example["block_positions"][part].tolist() == list(range(1, len(part) + 1))
        (place,) = set(example["positions"][part].tolist())
        yield place, example["tokens"][part].tolist(), example["targets"][part].tolist()


def test_training_examples(text):
    task = make(text)
    assert task.lengths == (8, 8, 6, 3, 2) and task.info.vocab_size == 258
    assert task.tokenizer.decode([MASK]) == "[MASK]"
    orders = set()
    for example in task.train(0)._getitems(range(40)):
        source = example["source"].tolist()
        assert source[-1] == EOS and example["source_segment_ids"].tolist() == [1] * 8
        assert example["weights"].tolist() == [1] * 5
        found = list(fillings(example))
        orders.add(found[0][0] < found[1][0])
        for place, tokens, targets in sorted(found, reverse=True):
            assert source[place] == MASK and targets[-1] == EOS and tokens == [0, *targets[:-1]]
            source[place : place + 1] = targets[:-1]
        assert np.diff(source[:-1]).tolist() == [1] * 7  # the text again
    assert orders == {True, False}


def test_evaluation_scores_every_token_at_most_once_from_left_to_right(text):
    task = make(text)
    (batch,) = task.eval("val", 4)
    assert batch["id"].tolist() == [0, 1, -1, -1]  # 10 tokens: 8, then 2 new ones
    for row, new in ((0, range(90, 98)), (1, range(98, 100))):
        example = {name: values[row] for name, values in batch.items()}
        first, second = fillings(example)
        assert first[0] < second[0]
        weights = iter(example["weights"].tolist())
        for *hidden, end in (first[2], second[2]):
            assert end == EOS
            for token in (*hidden, hidden[-1]):  # an end goes with the token before it
                assert next(weights) == (token in new)
    again = next(make(text).eval("val", 4))
    assert all((batch[name] == again[name]).all() for name in batch)


def test_long_blanks_are_read_as_a_prompt_is(text):
    task = make(text, long_share=1.0, seq_len=12, val_fraction=0.2)
    assert task.lengths == (13, 12, 9, 5, 3)  # 8 targets of short blanks, so of long ones too
    rows = task.train(0)._getitems(range(60))
    for example in rows:
        source = example["source"][example["source_segment_ids"] > 0].tolist()
        size = int(example["weights"].sum())
        targets = example["targets"][:size].tolist()
        assert source[-1] == EOS and MASK not in source and 4 <= size <= 8
        assert np.diff([*source[:-1], *targets]).tolist() == [1] * (len(source) + size - 2)
        assert example["tokens"].tolist() == [0, *targets[:-1], *[0] * (8 - size)]
        assert example["block_positions"].tolist() == [*range(1, 9)]
    # all of them at the end of the source, where a model puts what it writes
    source, real, positions = (
        jnp.stack([example[name] for example in rows])
        for name in ("source", "source_segment_ids", "positions")
    )
    places = blank_places(source, real, MASK)
    assert (positions == places[:, None].repeat(8, 1)).all() and len(set(places.tolist())) > 4
    batch = next(task.eval("val", 1))
    assert (batch["source"][0] == MASK).sum() == 3  # evaluation is of short blanks


def test_bits_per_byte_are_those_of_what_was_hidden(text):
    task = make(text)
    batches = list(task.eval("val", 4))
    (batch,) = batches
    scored = batch["weights"] > 0
    ends = int((batch["targets"][scored] == EOS).sum())
    num_bytes = int(scored.sum()) - ends
    scores = Perplexity(task.info, 8, "blank_infilling").run(
        lambda batch: {"nll": np.ones_like(batch["weights"])}, batches
    )
    rows = {row.name: row for row in scores.rows}
    assert 0 < num_bytes < scored.sum()
    # one nat each, and the ends of blanks are to be guessed, but are no text
    assert rows["bits_per_byte"].value == pytest.approx(
        (num_bytes + ends) / math.log(2) / num_bytes
    )
    assert f"|bytes={num_bytes}" in rows["bits_per_byte"].signature


def test_show(text):
    text.write_text("the cat sat on a mat. " * 20)
    task = make(text, seq_len=12)
    batch = next(task.eval("val", 1))
    batch["source"][0] = [*b"the ", MASK, *b" on ", MASK, *b".", EOS]
    batch["source_segment_ids"][0] = [1] * 12
    parts = [[*b"a ma", EOS], [*b"ca", EOS]]
    batch["targets"] = np.array([sum(parts, [])])
    batch["tokens"] = batch["weights"] = np.ones_like(batch["targets"])
    batch["positions"] = np.array([[9] * 5 + [4] * 3])
    batch["block_positions"] = np.array([[1, 2, 3, 4, 5, 1, 2, 3]])
    assert task.show(batch, 1).splitlines() == [
        "example 0: 8 tokens, 8 scored",
        "  source   'the [MASK] on [MASK].<eos>'",
        "  at 9     'a ma<eos>'",
        "  at 4     'ca<eos>'",
    ]


def test_show_ends_where_a_long_blank_does(text):
    text.write_text("the cat sat on a mat. " * 20)
    task = make(text, seq_len=12)
    batch = next(task.eval("val", 1))
    batch["source"][0] = [*b"the cat ", EOS, 0, 0, 0]
    batch["source_segment_ids"][0] = [1] * 9 + [0] * 3
    batch["tokens"] = batch["targets"] = np.array([[*b"sat", 0, 0]])
    batch["weights"] = np.array([[1.0, 1, 1, 0, 0]])
    batch["positions"], batch["block_positions"] = np.full((1, 5), 8), np.arange(1, 6)[None]
    assert task.show(batch, 1).splitlines()[1:] == [
        "  source   'the cat <eos>'",
        "  at 8     'sat'",
    ]
    batch["weights"][:] = 0
    assert len(task.show(batch, 1).splitlines()) == 2  # a filling row


def test_seeds_and_digests(text):
    task = make(text)
    rows = task.train(3)._getitems(range(20))
    same, other = make(text).train(3)._getitems(range(20)), task.train(4)._getitems(range(20))
    for name in rows[0]:
        assert all((a[name] == b[name]).all() for a, b in zip(rows, same, strict=True))
    assert any((a["tokens"] != b["tokens"]).any() for a, b in zip(rows, other, strict=True))
    changes = ({}, {"mean_span": 2.0}, {"noise_density": 0.3}, {"long_share": 0.5})
    assert len({make(text, **change).info.digest for change in changes}) == len(changes)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"long_share": 1.5}, r"data.long_share=1.5 must be in \[0, 1\]"),
        ({"noise_density": 0.0}, "data.noise_density=0.0 must be between"),
        ({"seq_len": 2}, "data.seq_len=2 is too short"),
        ({"seq_len": 0}, "data.seq_len=0 and the model has no max_len"),
    ],
)
def test_what_is_refused(text, fields, message):
    with pytest.raises(ValueError, match=message):
        make(text, **fields)
