"""Text in its own order: every target once an epoch, each row going on where it ended."""

from __future__ import annotations

import numpy as np
import pytest

from jaxlm.data import pipeline
from jaxlm.data.tasks.stream import StreamConfig, StreamTask

TEXT = "".join(chr(ord("a") + i % 26) for i in range(100))


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return str(file)


def task(path, streams, seq_len=8, **more):
    settings = {"path": path, "tokenizer": "chars", "val_fraction": 0.1} | more
    return StreamTask(StreamConfig(num_streams=streams, seq_len=seq_len, **settings))


def read(one, steps, batch_size):
    batches = pipeline.train_batches(one, 0, batch_size)
    return [batches[step] for step in range(steps)]


@pytest.mark.parametrize("streams", [1, 3, 4])
def test_every_target_comes_once_an_epoch_and_rows_go_on(path, streams):
    one = task(path, streams)
    decode = one.tokenizer.decode
    batches = read(one, one.steps_per_epoch + 1, streams)
    texts, counted = [""] * streams, 0
    for step, batch in enumerate(batches[:-1]):
        assert batch["continues"].tolist() == [float(step > 0)] * streams
        for row in range(streams):
            used = batch["weights"][row] > 0
            if texts[row] and used.any():  # its first token is the last target of the batch before
                assert decode(batch["tokens"][row, :1]) == texts[row][-1]
            texts[row] += decode(batch["targets"][row][used])
            counted += int(used.sum())
    assert "".join(texts) == TEXT[1:90] and counted == 89
    for name, values in batches[0].items():  # then all begins anew
        np.testing.assert_array_equal(batches[-1][name], values)


def test_rows_of_one_stream_are_consecutive_windows(path):
    batch = read(task(path, 1), 1, 4)[0]
    assert batch["continues"].tolist() == [0, 1, 1, 1]
    assert batch["tokens"].ravel().tolist() == batch["targets"].ravel().tolist()[:0] + [
        *batch["tokens"].ravel()[:1], *batch["targets"].ravel()[:-1],
    ]  # fmt: skip


def test_without_carry_windows_say_nothing_of_those_before(path):
    assert "continues" not in read(task(path, 2, carry=False), 1, 2)[0]


def test_evaluation_is_that_of_plain_windows(path):
    batch = next(iter(task(path, 2).eval("val", 2)))
    assert set(batch) == {"id", "tokens", "targets", "weights"}


@pytest.mark.parametrize("streams", [0, 90])
def test_more_streams_than_the_text_has_tokens_are_refused(path, streams):
    with pytest.raises(ValueError, match=rf"data\.num_streams={streams}.*from 1 to 89"):
        task(path, streams)


def test_a_mixture_has_no_order(path):
    with pytest.raises(ValueError, match="reads one text in its order, not a mixture"):
        task(f"{path},{path}", 1)
