"""kill -9 of a run or of its worker at any moment: nothing is lost, and nothing done twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.results import store
from harness.verification.mending import examine
from tests.conftest import Experiment, run_warm
from tests.faults import runs
from tests.faults.runs import Run, moments
from tests.faults.tally import injected
from tests.warm import Warm

MOMENTS = 30
FILES = 34
"""That a run of the experiment writes, about."""


def kill(whom: str, run: Run) -> bool:
    """Kill the command or its worker now, or the worker that is started next; whether it was."""
    if whom == "parent":
        run.process.kill()
        return True
    while run.process.poll() is None:
        for worker in run.workers():
            worker.kill()
            return True
    return False


@pytest.mark.faults
@pytest.mark.parametrize("number", range(MOMENTS))
def test_a_kill_at_any_moment(reference: Experiment, tmp_path: Path, number: int) -> None:
    whom, moment = ("parent", "worker")[number % 2], moments(MOMENTS, FILES)[number]
    out = tmp_path / "out"
    run = Run(reference, out)
    killed = moment.wait(run) and kill(whom, run)
    ended = run.ended()
    run.assert_gone()
    if not killed:
        pytest.skip("the run was over before")
    with injected(f"kill -9 of the {whom}"):
        before = runs.finished(out)
        # a worker may have written its record when it was killed
        late = len([name for name in before if name.startswith("cells/")]) == len(runs.METHODS)
        assert ended.code == (-9 if whom == "parent" else 0 if late else 5), ended.said
        runs.until_done(reference, out)
        runs.assert_kept(before, out)
        runs.assert_equal(out, reference.out)
        # a run killed between a record and the end of its cell leaves that cell's lock or task
        assert examine(out, mend=True).exit_code == 0
        runs.assert_clean(out, run.scratch)


def test_workers_killed_in_each_cell(reference: Experiment, warm: Warm, tmp_path: Path) -> None:
    """The short form: the worker of each cell in turn, at another event each time."""
    small = Experiment(tmp_path, reference.content)
    runs.four_methods(tmp_path, Path(reference.content["model"]))
    killed: dict[str, int] = {}
    heard: dict[str, int] = {}

    def told(cell: Any, event: Any) -> None:
        heard[cell.id] = heard.get(cell.id, 0) + 1
        if cell.id not in killed and heard[cell.id] == 3 + 2 * len(killed):
            for worker in psutil.Process(warm.process.pid).children():
                worker.kill()
                killed[cell.id] = heard[cell.id]

    outcome = run_warm(small, warm, told)
    with injected("kill -9 of a worker, short", len(killed)):
        assert len(killed) == len(outcome.failed) == 4
        for cell in outcome.failed:
            error = store.read_record(small.out / f"cells/{cell}.json")["error"]
            assert error is not None
            assert "SIGKILL" in error["message"]
        before = runs.finished(small.out)
        assert not run_warm(small, warm).failed
        runs.assert_kept(before, small.out)
        runs.assert_equal(small.out, reference.out)
        runs.assert_clean(small.out)


def test_a_killed_command_leaves_nothing_behind(
    reference: Experiment, warm: Warm, tmp_path: Path
) -> None:
    """The short form: the command while the base's worker starts; the rest of it runs warm."""
    small = runs.four_methods(tmp_path, Path(reference.content["model"]))
    with injected("kill -9 of the parent, short"):
        run = Run(small, small.out)
        while not run.workers():
            assert run.process.poll() is None, run.ended().said
        run.process.kill()
        assert run.ended().code == -9
        run.assert_gone()
        assert not run_warm(small, warm).failed
        runs.assert_equal(small.out, reference.out)
        runs.assert_clean(small.out, run.scratch)
