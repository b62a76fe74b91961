"""Which worker gets which card: free ones, one for each, and what is told where there are fewer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.runner import places
from harness.runner.places import Places
from harness.system import child_process
from harness.system.hardware import Gpu, Machine, TorchBuild
from tests.conftest import Experiment, run_harness

CPU = Machine(cores=4, memory_bytes=16 << 30, cpu="some", torch=TorchBuild("2.13.0+cpu", None))
GIB = 1 << 30


def cards(*free: int) -> Machine:
    """A machine with cards of 24 GiB, of which so much is free."""
    gpus = tuple(
        Gpu("Some GPU", 24 * GIB, (8, 6), f"GPU-{i}", gib * GIB) for i, gib in enumerate(free)
    )
    gpus = tuple(sorted(gpus, key=lambda gpu: gpu.busy))  # as `hardware.facts` has them
    return replace(CPU, gpus=gpus, torch=TorchBuild("2.13.0", "13.0"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def pinned(held: Places) -> list[str | None]:
    """The card of each worker that runs at once."""
    with ExitStack() as all_at_once:
        found = []
        for _ in range(len(held)):
            all_at_once.enter_context(held.one())
            found.append(child_process.environment().get("CUDA_VISIBLE_DEVICES"))
        return found


def test_each_of_several_workers_has_a_card_of_its_own() -> None:
    with places.held(2, cards(24, 24, 24), pytest.fail) as held:
        assert pinned(held) == ["GPU-0", "GPU-1"]
        seen: list[str] = []
        met = threading.Barrier(2)

        def work() -> None:
            with held.one():
                met.wait(timeout=60)
                seen.append(child_process.environment()["CUDA_VISIBLE_DEVICES"])

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == ["GPU-0", "GPU-1"]
    assert child_process.PLACE.get() is None


def test_a_busy_card_is_passed_over_and_said() -> None:
    told: list[str] = []
    with places.held(1, cards(3, 24), told.append) as held:
        assert pinned(held) == ["GPU-1"]
    assert told == []  # nothing was taken away from this run
    with places.held(2, cards(3, 24), told.append) as held:
        assert pinned(held) == ["GPU-1"]
    (line,) = told
    assert line == (
        "Note: --jobs 2: 1 of 2 GPUs are free (Some GPU (GPU-0) is busy (3.0 GiB free)): "
        "one job each"
    )


def test_where_no_card_is_free_the_emptiest_is_shared_and_said() -> None:
    told: list[str] = []
    with places.held(1, cards(3, 9), told.append) as held:
        assert pinned(held) == ["GPU-1"]
    (line,) = told
    assert "this run shares Some GPU (GPU-1), and so memory and time" in line


def test_a_second_run_takes_another_card_or_is_told() -> None:
    told: list[str] = []
    with (
        places.held(1, cards(24, 24), pytest.fail) as first,
        places.held(1, cards(24, 24), told.append) as second,
    ):
        assert (pinned(first), pinned(second)) == (["GPU-0"], ["GPU-1"])
        with places.held(1, cards(24, 24), told.append) as third:
            assert pinned(third) == ["GPU-0"]
    assert "passed over: Some GPU (GPU-0) has another run of the harness (process " in told[0]
    assert "this run shares Some GPU (GPU-0)" in told[1]
    with places.held(2, cards(24, 24), pytest.fail) as after:
        assert len(after) == 2


def test_on_a_cpu_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with places.held(2, CPU, pytest.fail) as held, held.one():
        assert child_process.environment()["OMP_NUM_THREADS"] == "2"
    with places.held(1, CPU, pytest.fail) as held, held.one():
        assert "OMP_NUM_THREADS" not in child_process.environment()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with places.held(4, CPU, pytest.fail) as held, held.one():
        assert child_process.environment()["OMP_NUM_THREADS"] == "1"
    with (
        pytest.raises(UserError, match=r"--jobs 5: this machine has no GPU and 4 cores.*--jobs 4"),
        places.held(5, CPU, pytest.fail),
    ):
        pass


def test_too_many_jobs_are_refused_in_a_line(experiment) -> None:
    small = experiment()
    ran = run_harness(
        *("run", small.file, "--out", small.out, "--jobs", 9999), env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert ran.code == 2
    assert "--jobs 9999: this machine has no GPU and " in ran.error
    assert not list((small.out / "cells").glob("*.json"))


def test_a_spare_place_is_one_that_no_cell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "SPARE", 0.01)
    two, over = Places([{}, {}]), threading.Event()
    with two.one(), two.spare(over) as there:
        assert there
    with two.one(), two.one():
        threading.Timer(0.05, over.set).start()
        with two.spare(over) as there:
            assert not there  # it waited until it was over
    with two.one(), two.one():
        pass  # both came back


def test_workers_that_share_a_cell_are_jobs(experiment: Callable[..., Experiment]) -> None:
    result = run_harness("run", experiment().file, "--split", "3", "--jobs", "2")
    assert result.code == 2
    assert "--split 3 with --jobs 2" in result.error
