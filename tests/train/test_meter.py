"""Time of training steps alone: compiling, evaluation and what earlier processes did stand apart."""

from types import SimpleNamespace

import pytest

from jaxlm.decode import timing
from jaxlm.train import meter

PLAN = SimpleNamespace(tokens_per_step=100, flops_per_token=6.0, peak=SimpleNamespace(flops=600.0))
TRACE, COMPILE = timing._COMPILING[0], timing._COMPILING[-1]


@pytest.fixture
def spend(monkeypatch):
    """Lets seconds pass, of which the last are told to have been spent on compiling."""
    now = [1000.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(meter, "time", clock)
    monkeypatch.setattr(timing, "_heard_of", [])

    def pass_by(seconds, compiling=0.0, event=COMPILE):
        now[0] += seconds
        if compiling:
            timing._heard(event, compiling)

    return pass_by


def test_compiling_is_no_training(spend):
    """Two steps of 2 seconds, the first with 5 of compiling; 1 before the pause, in which 30 are nobody's."""
    found = meter.Meter(PLAN, num_steps=4, seconds_before=10.0, compile_seconds=3.0)
    spend(7, compiling=5)
    found.tick()
    spend(2)
    found.tick()
    assert found.window(2, wait_seconds=1.0) == {
        "step_seconds": 2.0, "data_wait": 0.25, "tokens_per_second": 50.0, "eta_seconds": 4.0, "mfu": 0.5,
    }  # fmt: skip
    spend(1)
    with found.paused():
        spend(30, compiling=20)
    spend(1)
    found.tick()
    totals = found.totals(4)
    assert (totals["train_seconds"], totals["compile_seconds"]) == (16.0, 8.0)
    assert totals["tokens_per_second"] == 400 / 16


def test_a_program_that_is_traced_in_another_counts_once(spend):
    """One of 1 second and one of 2 in one of 4, then one by itself."""
    before = timing.compile_seconds()
    spend(1, compiling=1, event=TRACE)
    spend(2, compiling=2, event=TRACE)
    spend(1, compiling=4, event=TRACE)
    spend(5, compiling=3)
    assert timing.compile_seconds() - before == 7
