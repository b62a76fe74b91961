"""`harness run --why`: what differs is named as the experiment file names it, and nothing runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config.experiment import load_experiment
from harness.evaluation.blocks.resuming import Keeping
from harness.manager import Plugins
from harness.models import trained_artifact
from harness.planning.plan import Plan, Settings, make_plan
from harness.record import new_record
from harness.results import store
from harness.runner.why import Reason, why
from harness.runner.worker import untrained
from harness.types import Artifact
from tests.conftest import Experiment, Ran, conversations, write_jsonl

LORA = {"name": "lora", "r": 4}


def planned(small: Experiment) -> Plan:
    return make_plan(load_experiment(small.file), Plugins(discover=False), Settings())


def record(small: Experiment, plan: Plan, **changes: Any) -> None:
    """Write the records that a run of the plan would, with figures of nothing."""
    for cell in plan.cells:
        suites = {
            suite.name: {
                "hash": suite.hash,
                "parts": dict(suite.parts),
                "metrics": {},
                "samples": {"file": f"samples/{cell.id}/x.jsonl.gz", "sha256": "0" * 64, "rows": 0},
            }
            for suite in cell.suites
        }
        base = None if cell.id == plan.base.id else plan.base.id
        fields: dict[str, Any] = {
            "status": "ok",
            "training": None,
            "evaluation": {"phases": {}, "suites": suites, "base": base},
            "environment": None,
            "warnings": [],
            "error": None,
            **changes,
        }
        store.write_record(small.out, new_record(id=cell.id, plan=cell.as_record(), **fields))


def reasons(small: Experiment) -> dict[str, Reason]:
    """Label and seed -> why."""
    return {f"{one.label}-{one.seed}": one for one in why(planned(small), small.out)}


def lora(small: Experiment) -> Reason:
    return reasons(small)["lora-0"]


def no_base_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forged records have no sample files."""
    monkeypatch.setattr("harness.runner.why.lost_answers", lambda out, base: None)


@pytest.fixture
def small(experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch) -> Experiment:
    no_base_needed(monkeypatch)
    return experiment(methods=["base", LORA], suites=["picks", "answers"])


BUDGET = {"steps": 2, "batch": 2, "max_length": 96, "precision": "float32"}
CHANGES: dict[str, tuple[dict[str, Any], list[tuple[str, object, object]]]] = {
    "lr": ({"methods": ["base", {**LORA, "lr": 0.002}]}, [("lr", 0.0002, 0.002)]),
    "two options": (
        {"methods": ["base", {**LORA, "r": 8, "dropout": 0.5}]},
        [("r", 4, 8), ("dropout", 0.0, 0.5)],
    ),
    "steps": ({"budget": {**BUDGET, "steps": 3}}, [("budget.steps", 2, 3)]),
    "a later field of the budget": (
        {"budget": {**BUDGET, "group_by_length": False}},
        [("budget.group_by_length", None, False)],
    ),
    "seed": ({"seeds": [5]}, [("seed", 0, 5)]),
    "loss": (
        {"data": {"train": "train.jsonl", "validation": 4, "loss": "all"}},
        [("data.loss", "assistant", "all")],
    ),
    "a suite more": (
        {"suites": ["picks", "answers", "predicts"]},
        [("suite 'predicts'", "not asked", "asked")],
    ),
    "a suite less": ({"suites": ["picks"]}, [("suite 'answers'", "asked", "not asked")]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_named_with_both_values(small: Experiment, name: str) -> None:
    record(small, planned(small))
    changes, expected = CHANGES[name]
    found = next(one for key, one in reasons(small.write(**changes)).items() if "lora" in key)
    assert found.kind == "no record"
    assert [(one.what, one.before, one.now) for one in found.differences] == expected
    assert found.nearest is not None
    assert all(what in found.why for what, _, _ in expected)


def test_what_changes_no_result_is_no_difference(small: Experiment) -> None:
    record(small, planned(small))
    changed = small.write(name="other", budget={**BUDGET, "on_oom": "stop"})
    assert [one.kind for one in reasons(changed).values()] == ["recorded", "recorded"]


def test_a_row_that_changed_is_told_by_count_and_hash(small: Experiment) -> None:
    record(small, planned(small))
    write_jsonl(small.folder / "train.jsonl", conversations()[:20])
    (found,) = lora(small).differences
    assert found.what == "data"
    assert "20 rows" in str(found.before)
    assert "16 rows" in str(found.now)
    # the untrained base sees no row of it
    assert reasons(small)["base-0"].kind == "recorded"


def test_other_bytes_of_a_model_are_told(small: Experiment, tiny_model: Path) -> None:
    record(small, planned(small))
    copy = small.folder / "copy"
    shutil.copytree(tiny_model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 128}))
    (found,) = lora(small.write(model=str(copy))).differences
    assert found.what == "model"
    assert found.before != found.now


def test_a_part_of_a_suite_is_told(small: Experiment) -> None:
    record(small, planned(small))
    file = small.folder / "answers.yaml"
    suite = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**suite, "version": 2, "max_new_tokens": 9}, sort_keys=False))
    found = {one.what: (one.before, one.now) for one in lora(small).differences}
    assert found == {
        "suite 'answers'.version": (1, 2),
        "suite 'answers'.max_new_tokens": (8, 9),
    }


def test_the_nearest_recorded_cell_is_compared(small: Experiment) -> None:
    far = small.write(methods=["base", {**LORA, "r": 16, "lr": 0.1}])
    record(small, planned(far))
    near = small.write(methods=["base", {**LORA, "lr": 0.1}])
    expected = planned(near)
    record(small, expected)
    found = lora(small.write())
    assert found.nearest == next(c.id for c in expected.cells if c.label == "lora")
    assert [one.what for one in found.differences] == ["lr"]


def test_records_of_the_cell_itself(small: Experiment) -> None:
    assert lora(small).why == "it has no record"
    plan = planned(small)
    record(small, plan)
    assert not any(one.runs for one in reasons(small).values())
    failed: Mapping[str, Any] = {
        "status": "oom",
        "evaluation": None,
        "error": {"type": "E", "message": "no room", "phase": "train", "traceback": []},
    }
    record(small, plan, **failed)
    found = lora(small)
    assert (found.kind, found.runs) == ("failed", True)
    assert "it failed in train (oom: no room)" in found.why
    record(small, plan)
    file = small.out / "cells" / f"{found.cell}.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    found = lora(small)
    assert found.kind == "invalid record"
    assert "sha256 differs" in found.why
    assert file.exists(), "it only looks"


def test_lost_answers_of_the_base_are_told(
    small: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where other cells are to be compared with them."""
    monkeypatch.undo()
    record(small, planned(small))
    assert reasons(small)["base-0"].kind == "recorded"
    found = reasons(small.write(seeds=[0, 1]))["base-0"]
    assert found.kind == "answers lost"
    assert "the base is evaluated again" in found.why


def test_what_a_worker_would_go_on_from(small: Experiment) -> None:
    plan = planned(small)
    base, tuned = plan.cells
    assert lora(small).goes_on == ()
    step = small.out / "checkpoints" / tuned.training_id / "key/step-000000001"
    step.mkdir(parents=True)
    assert lora(small).goes_on == ("its training has a checkpoint after step 1 of 2",)

    folder = small.out / "artifacts" / tuned.id
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text("weights")
    artifact = Artifact("adapter", tuned.model, str(folder))
    trained_artifact.keep(folder, tuned.training_id, {}, [], artifact)
    keeping = Keeping(small.out, print)
    for opened, count in ((artifact, 3), (untrained(base), 2)):
        keeping.wrap(None, opened)  # type: ignore[arg-type]
        keeping.kept[-1].keep("answers", ["a", "b"][:count], [1, 2], {"seconds": 1.0})
    told = (
        f"it is trained already: artifacts/{tuned.id}",
        "the answers to 2 requests are kept, in 1 blocks",
    )
    assert lora(small).goes_on == told
    assert reasons(small)["base-0"].goes_on == told[1:]
    # the control: another training has nothing of it
    other = lora(small.write(methods=["base", {**LORA, "lr": 0.1}]))
    assert other.goes_on == ()


def test_the_command_says_it_and_changes_nothing(
    finished: Experiment, tmp_path: Path, harness: Callable[..., Ran]
) -> None:
    """On a real folder: a suite less is measured already, a rank more is to be trained."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    copy = Experiment(folder, finished.content).write(
        methods=["base", {"name": "lora", "r": 8}], seeds=[0], suites=["picks", "answers"]
    )
    before = {f: f.stat().st_mtime_ns for f in sorted(folder.rglob("*"))}
    told = harness("run", copy.file, "--out", copy.out, "--why")
    assert (told.code, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert "    r: 4 -> 8" in lines
    assert "    suite 'tasks': asked -> not asked" in lines
    base = finished.records()["base-0"]["id"]
    assert f"    suite 'picks' is measured already: samples/{base}" in lines
    assert lines[-1] == "2 of 2 cells would run."
    as_json = json.loads(harness("run", copy.file, "--out", copy.out, "--why", "--json").stdout)
    assert [one["runs"] for one in as_json] == [True, True]
    assert {"what": "r", "before": 4, "now": 8} in as_json[1]["differences"]
    assert before == {f: f.stat().st_mtime_ns for f in sorted(folder.rglob("*"))}
