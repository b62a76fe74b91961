"""Seconds and peaks belong to the phase in which they were spent."""

import mmap
import time

import pytest

from harness.system.measure import Meter, StepClock

LARGE = 200 * 1024 * 1024


def spend_memory():
    # pages of its own: an allocation might be served from memory that was freed before
    with mmap.mmap(-1, LARGE) as block:
        for page in range(0, LARGE, mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.06)  # long enough for a machine where the peak is sampled


def test_a_phase_keeps_its_seconds_and_its_memory():
    meter = Meter()
    with meter.phase("train"):
        time.sleep(0.1)
    assert set(meter.phases) == {"train"}
    measured = meter.phases["train"]
    assert 0.1 <= measured["seconds"] < 0.5
    assert measured["peak_host_bytes"] > 5_000_000
    assert meter.failed is None


def test_without_a_gpu_nothing_stands_in_for_its_memory():
    import torch

    meter = Meter()
    with meter.phase("train"):
        pass
    known = torch.cuda.is_available()
    assert (meter.phases["train"]["peak_allocated_bytes"] is not None) == known
    assert (meter.phases["train"]["peak_reserved_bytes"] is not None) == known


def test_the_peak_starts_anew_with_each_phase():
    meter = Meter()
    with meter.phase("before"):
        time.sleep(0.06)
    with meter.phase("large"):
        spend_memory()
    with meter.phase("after"):
        time.sleep(0.06)
    before, large, after = (
        meter.phases[n]["peak_host_bytes"] for n in ("before", "large", "after")
    )
    assert large > before + 0.8 * LARGE
    assert after < large - 0.8 * LARGE


def test_a_phase_inside_another_suspends_it():
    meter = Meter()
    with meter.phase("train"):
        time.sleep(0.05)
        with meter.phase("validate"):
            spend_memory()
            time.sleep(0.2)
        time.sleep(0.05)
    seconds = {name: phase["seconds"] for name, phase in meter.phases.items()}
    assert 0.1 <= seconds["train"] < 0.2
    assert seconds["validate"] >= 0.26
    peaks = {name: phase["peak_host_bytes"] for name, phase in meter.phases.items()}
    assert peaks["validate"] > peaks["train"] + 0.8 * LARGE


def test_a_phase_entered_twice_adds_its_seconds_and_keeps_the_larger_peak():
    meter = Meter()
    with meter.phase("validate"):
        spend_memory()
    first = dict(meter.phases["validate"])
    with meter.phase("validate"):
        time.sleep(0.1)
    both = meter.phases["validate"]
    assert both["seconds"] >= first["seconds"] + 0.1
    assert both["peak_host_bytes"] == first["peak_host_bytes"]


def test_a_phase_that_breaks_is_measured_and_named():
    meter = Meter()
    with pytest.raises(RuntimeError, match="broke"), meter.phase("train"):  # noqa: PT012
        with meter.phase("save"):
            pass
        with meter.phase("validate"):
            time.sleep(0.02)
            raise RuntimeError("broke")
    assert meter.failed == "validate"
    assert set(meter.phases) == {"train", "save", "validate"}
    assert meter.phases["validate"]["seconds"] >= 0.02


def test_a_clock_times_each_step_alone():
    clock = StepClock()
    for pause in (0.02, 0.06):
        clock.begin()
        time.sleep(pause)
        clock.end()
        time.sleep(0.05)
    assert clock.seconds[0] == pytest.approx(0.02, abs=0.019)
    assert clock.seconds[1] == pytest.approx(0.06, abs=0.029)
