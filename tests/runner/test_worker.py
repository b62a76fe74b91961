"""The process of one cell, as whoever started it sees it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from harness.api.executor import worker_command
from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.runner.worker import STOPPED, Work
from tests.conftest import ROOT, write_distribution


@pytest.fixture
def worker(experiment, tmp_path, monkeypatch):
    """`worker(how)` runs a cell of the method `trouble`: its exit code, its events, its record."""
    site = write_distribution(
        tmp_path / "site", ROOT / "tests/sample_plugins/trouble.py", "trouble"
    )
    monkeypatch.syspath_prepend(site)

    def run(how):
        small = experiment(methods=["base", {"name": "trouble", "how": how}], suites=["picks"])
        plan = make_plan(load_experiment(small.file), Plugins(), Settings())
        (cell,) = (cell for cell in plan.cells if cell.method == "trouble")
        job = tmp_path / "job.json"
        job.write_bytes(TypeAdapter(Work).dump_json(Work(cell, small.out, None)))
        done = subprocess.run(
            worker_command(job),
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            check=False,
            timeout=120,
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, events, small.out / "cells" / f"{cell.id}.json"

    return run


def test_a_worker_that_is_told_to_stop_ends_at_its_next_phase_and_writes_no_record(worker):
    code, events, record = worker("stopped")
    assert code == STOPPED == 143
    assert [e["event"] for e in events if e["event"] != "memory"] == ["stopped"]
    assert not Path(record).exists()


def test_what_trains_and_opens_models_is_imported_before_any_phase(worker):
    """Else the first phase of each cell would have the seconds of imports."""
    code, events, record = worker("tells")
    assert code == 5
    assert not [event for event in events if event["event"] == "phase"]
    error = json.loads(record.read_text(encoding="utf-8"))["error"]
    assert error["message"] == (
        "imported: ['torch', 'bitsandbytes', 'transformers', 'datasets', 'peft', "
        "'trl.trainer.sft_trainer']"
    )
