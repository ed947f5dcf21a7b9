"""The peak that MFU is stated against."""

from __future__ import annotations

import pytest

from jaxlm.train import devices


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """The peak of a process in which this is what a matmul reaches."""
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path))

    def measured(flops, dtype="float32"):
        monkeypatch.setattr(devices, "_measured", lambda _: flops)
        devices.peak.cache_clear()
        return devices.peak(dtype).flops

    yield measured
    devices.peak.cache_clear()


def test_a_machine_that_others_use_just_now_has_the_peak_it_had_before(measure):
    assert measure(2e11) == 2e11
    assert measure(1e11) == 2e11
    assert measure(3e11) == 3e11
    assert measure(1e11, "bfloat16") == 1e11  # of its own


def test_a_torn_record_is_measured_again(measure, tmp_path):
    measure(2e11)
    (file,) = (tmp_path / "peaks").iterdir()
    file.write_text('{"flo')
    assert measure(1e11) == 1e11
    assert measure(5e10) == 1e11
