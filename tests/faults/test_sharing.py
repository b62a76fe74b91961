"""Several runs of one folder at once: each cell runs once, and all of them end well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import Experiment
from tests.faults import runs
from tests.faults.runs import Run
from tests.faults.tally import injected


def ran(said: str) -> int:
    """How many cells a run says that it ran."""
    found = re.search(r"(\d+) cells ran", said)
    return int(found[1]) if found else 0


@pytest.mark.faults
@pytest.mark.parametrize("many", [2, 8])
def test_runs_at_once(reference: Experiment, tmp_path: Path, many: int) -> None:
    out = tmp_path / "out"
    with injected(f"{many} runs at once"):
        at_once = [Run(reference, out) for _ in range(many)]
        ended = [run.ended(3000) for run in at_once]
        assert [one.code for one in ended] == [0] * many, [one.said for one in ended]
        assert sum(ran(one.said) for one in ended) == 4
        runs.assert_equal(out, reference.out)
        runs.assert_clean(out, *(run.scratch for run in at_once))


@pytest.mark.faults
def test_of_two_runs_the_one_that_is_killed_is_taken_over(
    reference: Experiment, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with injected("one of two runs is killed"):
        first, second = Run(reference, out), Run(reference, out)
        while not first.workers() and first.process.poll() is None:
            pass
        first.process.kill()
        first.ended()
        first.assert_gone()
        ended = second.ended(3000)
        assert ended.code == 0, ended.said
        runs.assert_equal(out, reference.out)
        runs.assert_clean(out, first.scratch, second.scratch)
