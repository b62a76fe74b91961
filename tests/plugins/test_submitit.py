"""The executor `submitit`, with jobs that are processes of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CellFailed, EnvironmentLack
from harness.sdk.running import executor_with
from tests.conftest import run_warm

CELL = "lora-s0-1"


def session(**options: object) -> Any:
    return executor_with("submitit", options).session("cpu", pytest.fail)


def events_of(out: Path) -> list[dict[str, Any]]:
    """What comes of a job whose task is none: the worker breaks at once."""
    job_file, log_file = out / f"logs/{CELL}.job", out / f"logs/{CELL}.log"
    log_file.parent.mkdir()
    task = {"cell": {"id": CELL}, "out": str(out), "base": None, "opponents": {}, "warnings": []}
    job_file.write_text(json.dumps(task))
    executor = executor_with("submitit", {"cluster": "local", "cpus": 1, "minutes": 5})
    with executor.session("cpu", pytest.fail):
        return [dict(event) for event in executor.run(job_file, log_file)]


def test_a_jobs_worker_reports_and_logs_here(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    assert events_of(tmp_path)[-1] == {"event": "exit", "code": 1}
    assert "ValidationError" in (tmp_path / f"logs/{CELL}.log").read_text()
    left = {file.name for file in (tmp_path / "logs").iterdir()}
    assert left == {f"{CELL}.job", f"{CELL}.log", "submitit"}


def test_a_job_that_ends_before_its_worker_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    from harness.plugins.executors import submitit

    monkeypatch.setattr(submitit, "_work", sys.exit)
    with pytest.raises(CellFailed, match=r"the job \d+ ended as \w+ before its worker did: see "):
        events_of(tmp_path)


def test_without_slurm_or_submitit_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentLack, match="no sbatch on the PATH"), session():
        pass
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(EnvironmentLack, match=r"pip install 'finetune-harness\[slurm\]'"):
        session().__enter__()


@pytest.mark.faults
def test_a_job_leaves_the_record_that_a_cell_leaves_here(experiment: Any, warm: Any) -> None:
    from harness.config.experiment import load_experiment
    from harness.manager import Plugins
    from harness.planning.plan import Settings, make_plan
    from harness.runner.run import run_plan

    small = experiment(suites=["picks"])
    assert not run_warm(small, warm).failed
    plan, there = make_plan(load_experiment(small.file), Plugins(), Settings()), small.folder / "r"
    executor = executor_with("submitit", {"cluster": "local", "cpus": 1, "at_once": 1})
    with executor.session("cpu", pytest.fail):
        outcome = run_plan(plan, there, executor, lambda cell, event: None)
    assert (len(outcome.ran), outcome.failed) == (1, ())
    mine, theirs = (
        json.loads(next((out / "cells").glob("*.json")).read_text()) for out in (there, small.out)
    )
    assert mine["evaluation"]["suites"] == theirs["evaluation"]["suites"]
