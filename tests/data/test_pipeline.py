"""Batches as a function of (seed, step), the same for any number of processes, read ahead."""

import threading
import time

import grain
import numpy as np
import pytest

from jaxlm.data import pipeline
from jaxlm.data.tasks.text import TextConfig, TextTask


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return [
            TextTask(TextConfig(path=path, seq_len=16))
            for path in ("bundled:shakespeare", "bundled:shakespeare@2,bundled:poetry@1")
        ]


class Numbers:
    """A task that isn't ours: grain's own transformations only."""

    def train(self, seed):
        return (
            grain.MapDataset.range(100)
            .seed(seed)
            .shuffle()
            .map(lambda i: {"n": np.array(i)})
            .repeat()
        )


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_together_have_the_batch_of_one(tasks, count):
    for task in (*tasks, Numbers()):
        whole = pipeline.train_batches(task, 3, 8)
        parts = [pipeline.train_batches(task, 3, 8, index, count) for index in range(count)]
        for step in (0, 1, 17, 100_000):
            rows = [part[step] for part in parts]
            assert all(len(next(iter(row.values()))) == 8 // count for row in rows)
            joined = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
            same(joined, whole[step])


def test_batches_are_grains_own(tasks):
    """Against grain's element by element batching and slicing."""
    for task in tasks:
        ours = pipeline.train_batches(task, 1, 8, 1, 2)
        grains = task.train(1).batch(4)[1::2]
        for step in (0, 5, 1000):
            same(ours[step], grains[step])
        assert isinstance(ours, grain.MapDataset) and len(ours) > 2**50


def test_seed_and_step_decide(tasks):
    batches, again = (pipeline.train_batches(tasks[0], 3, 4) for _ in range(2))
    later = batches[9]
    same(later, again[9])
    assert (later["tokens"] != batches[8]["tokens"]).any()
    assert (later["tokens"] != pipeline.train_batches(tasks[0], 4, 4)[9]["tokens"]).any()


def test_a_batch_that_does_not_divide_is_refused(tasks):
    with pytest.raises(ValueError, match="batch_size=6 must be a positive multiple.*processes, 4"):
        pipeline.train_batches(tasks[0], 0, 6, 0, 4)
    with pytest.raises(ValueError, match="batch_size=0"):
        pipeline.train_batches(tasks[0], 0, 0)


def test_iterator_delivers_the_steps_in_order_and_says_which_is_next(tasks):
    batches = pipeline.train_batches(tasks[0], 3, 4)
    with pipeline.BatchIterator(batches, seed=3, digest="d", start_step=5, prefetch=2) as iterator:
        for step in range(5, 25):
            assert iterator.state() == {"seed": 3, "step": step, "digest": "d"}
            same(next(iterator), batches[step])
        state = iterator.state()
    assert iter(iterator) is iterator and state["step"] == 25
    with pipeline.BatchIterator(batches, start_step=state["step"]) as resumed:
        same(next(resumed), batches[25])


class Slow:
    def __init__(self, seconds=0.0, fails_at=None):
        self.seconds, self.fails_at, self.asked = seconds, fails_at, []

    def __getitem__(self, step):
        self.asked.append(step)
        time.sleep(self.seconds)
        if step == self.fails_at:
            raise OSError(f"disk gone at {step}")
        return {"step": np.array([step])}


def test_iterator_reads_ahead_but_not_without_end():
    source = Slow()
    with pipeline.BatchIterator(source, prefetch=3) as iterator:
        deadline = time.monotonic() + 10
        while len(source.asked) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert source.asked == [0, 1, 2, 3]  # three in the queue, one in hand
        next(iterator)


def test_iterator_counts_its_waiting():
    with pipeline.BatchIterator(Slow(0.1), prefetch=1) as iterator:
        next(iterator)
        assert 0.05 < iterator.wait_seconds < 0.5
        waited = iterator.wait_seconds
        time.sleep(0.3)
        next(iterator)
        assert iterator.wait_seconds - waited < 0.05


def test_errors_reach_the_caller_after_the_good_batches():
    iterator = pipeline.BatchIterator(Slow(fails_at=2))
    assert [next(iterator)["step"][0] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="disk gone at 2"):
        next(iterator)
    assert iterator.state()["step"] == 2
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def test_close_ends_the_thread():
    before = threading.active_count()
    iterator = pipeline.BatchIterator(Slow(), prefetch=1)
    next(iterator)
    assert threading.active_count() == before + 1
    iterator.close()
    iterator.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        next(iterator)
