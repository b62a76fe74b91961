"""Workers and plugins that misbehave: their cells end in records, and the others are as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Experiment, run_warm, write_distribution
from tests.faults import runs
from tests.faults.runs import Run
from tests.faults.tally import injected
from tests.warm import Warm

ENDS = {
    "raises": ("error", "this method always breaks"),
    "nothing": ("error", "returned None"),
    "rubbish": ("error", "fit no record"),
    "segfault": ("error", "SIGSEGV"),
    "memory": ("oom", ""),
    "exits": ("error", "0"),
}
"""What a method does -> the status of its record, and what its error says."""
ENDURED = ("prints", "forks", "seeds", "moves", "threads", "deletes")
"""What changes nothing: its figures are those of LoRA, to the last bit."""


def wild(*ways: str) -> list[Any]:
    return [{"name": "wild", "how": how, "label": how, "r": 4} for how in ways]


def answers(small: Experiment, label: str) -> dict[str, str]:
    """Suite -> the sha256 of a cell's rows."""
    record = small.records()[f"{label}-0"]
    return {name: s["samples"]["sha256"] for name, s in record["evaluation"]["suites"].items()}


def test_a_method_that_misbehaves_costs_its_own_cell_at_most(
    tmp_path: Path, reference: Experiment, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_distribution(tmp_path / "site", ROOT / "tests/sample_plugins/wild.py", "wild")
    monkeypatch.syspath_prepend(site)
    lora = {"name": "lora", "r": 4}
    methods = ["base", *wild(*ENDS, *ENDURED), lora]
    small = runs.four_methods(tmp_path, Path(reference.content["model"]), methods=methods)
    outcome = run_warm(small, warm)
    records = small.records()
    assert len(records) == len(methods)
    for how, (status, says) in ENDS.items():
        with injected(f"a method that: {how}"):
            found = records[f"{how}-0"]
            assert found["status"] == status
            assert says in found["error"]["message"]
            assert found["id"] in outcome.failed
    for how in ENDURED:
        with injected(f"a method that: {how}"):
            assert records[f"{how}-0"]["status"] == "ok", records[f"{how}-0"]["error"]
            assert answers(small, how) == answers(reference, "lora")
    assert answers(small, "lora") == answers(reference, "lora") != answers(reference, "full")
    assert answers(small, "base") == answers(reference, "base")
    runs.assert_clean(small.out)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["segfault", "memory", "forks", "prints"])
def test_a_worker_of_its_own_that_misbehaves(
    tmp_path: Path, reference: Experiment, how: str
) -> None:
    site = write_distribution(tmp_path / "site", ROOT / "tests/sample_plugins/wild.py", "wild")
    methods = ["base", *wild(how), {"name": "lora", "r": 4}]
    small = runs.four_methods(tmp_path, Path(reference.content["model"]), methods=methods)
    run = Run(small, small.out, paths=[site])
    with injected(f"a worker with a method that: {how}"):
        ended = run.ended()
        run.assert_gone()
        status = ENDS.get(how, ("ok", ""))[0]
        assert ended.code == (0 if status == "ok" else 5), ended.said
        assert small.records()[f"{how}-0"]["status"] == status
        assert answers(small, "lora") == answers(reference, "lora")
        runs.assert_clean(small.out, run.scratch)


@pytest.mark.faults
def test_a_hang_ends_with_its_time(tmp_path: Path, reference: Experiment) -> None:
    site = write_distribution(tmp_path / "site", ROOT / "tests/sample_plugins/wild.py", "wild")
    budget = {**reference.content["budget"], "max_minutes": 2}
    methods = ["base", *wild("hangs"), {"name": "lora", "r": 4}]
    model = Path(reference.content["model"])
    small = runs.four_methods(tmp_path, model, methods=methods, budget=budget)
    run = Run(small, small.out, paths=[site])
    with injected("a method that: hangs"):
        ended = run.ended()
        run.assert_gone()
        assert ended.code == 5, ended.said
        error = small.records()["hangs-0"]["error"]
        assert "budget.max_minutes" in error["message"]
        assert answers(small, "lora") == answers(reference, "lora")
